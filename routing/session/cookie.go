package session

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
)

// The form of a cookie, before base64url without padding:
//
//	version (1) | key id (1) | nonce (12) | sealed ticket (45) | tag (16)
//
// sealed with AES-128-GCM. The version, the key id and the group's name are
// authenticated with it, so that a cookie of one group is nothing to another.
const (
	cookieVersion = 1
	headerBytes   = 2
	nonceBytes    = 12
	ticketBytes   = 16 + 16 + 4 + 4 + 4 + 1
	tagBytes      = 16
	rawBytes      = headerBytes + nonceBytes + ticketBytes + tagBytes
	// CookieBytes is the length of a cookie's value.
	CookieBytes = rawBytes * 4 / 3
	maxGroup    = 63

	flagProvisional = 1
)

// KeyBytes is the length of a secret.
const KeyBytes = 16

// Ticket is what a cookie carries.
type Ticket struct {
	// Session identifies the session in the replicated table.
	Session [16]byte
	// Instance is the [InstanceTag] of the instance, and Incarnation its
	// launch there: neither is ever used again, so an old cookie can not
	// reach a process that does not know its session.
	Instance    [16]byte
	Incarnation uint32
	// Epoch counts how often the session has moved.
	Epoch uint32
	// Expires is when the cookie ends, in seconds of Unix time.
	Expires uint32
	// Provisional says that the cluster has not agreed yet: it had no quorum.
	Provisional bool
}

// InstanceTag is the fixed-size form of an instance's id.
func InstanceTag(id string) [16]byte { return xxh3.HashString128(id).Bytes() }

// Why a cookie does not count. Whoever gets one treats it as absent.
var (
	ErrMalformed  = errors.New("the cookie is not one of ours")
	ErrUnknownKey = errors.New("the cookie was sealed with a key that is gone")
	ErrForged     = errors.New("the cookie is forged, damaged, or of another group")
	ErrExpired    = errors.New("the cookie has expired")
)

// Secret is one key of a ring.
type Secret struct {
	ID  uint8
	Key [KeyBytes]byte
}

// Keys seal and open cookies. They are immutable and safe for concurrent use.
type Keys struct {
	newest uint8
	seals  [256]cipher.AEAD
	prefix [nonceBytes - 5]byte
	count  atomic.Uint64
}

// NewKeys takes a ring, newest first, of at least one secret.
func NewKeys(ring []Secret) (*Keys, error) {
	if len(ring) == 0 {
		return nil, errors.New("the key ring is empty")
	}
	k := &Keys{newest: ring[0].ID}
	for _, s := range ring {
		block, err := aes.NewCipher(s.Key[:])
		if err != nil {
			return nil, err
		}
		if k.seals[s.ID], err = cipher.NewGCM(block); err != nil {
			return nil, err
		}
	}
	// Nonces must not repeat under one key: 56 random bits tell the makers
	// apart, 40 bits of a counter the cookies of one.
	_, err := rand.Read(k.prefix[:])
	return k, err
}

// scratch is what sealing and opening need beside their arguments. It would
// escape to the heap each time, as the cipher is behind an interface.
type scratch struct {
	raw   [rawBytes + 1]byte // see decodeCookie
	plain [ticketBytes]byte
	aad   [headerBytes + maxGroup]byte
}

var scratchPool = sync.Pool{New: func() any { return new(scratch) }}

// Append appends the cookie of a ticket.
func (k *Keys) Append(dst []byte, group string, t *Ticket) []byte {
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	raw := s.raw[:rawBytes]
	raw[0], raw[1] = cookieVersion, k.newest
	nonce := raw[headerBytes : headerBytes+nonceBytes]
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], k.count.Add(1))
	copy(nonce, n[3:])
	copy(nonce[5:], k.prefix[:])
	t.encode(&s.plain)
	k.seals[k.newest].Seal(raw[:headerBytes+nonceBytes], nonce, s.plain[:], appendAAD(s.aad[:0], raw[1], group))
	return base64.RawURLEncoding.AppendEncode(dst, raw)
}

// Open returns the ticket of a cookie that was sealed for a group. now is in
// seconds of Unix time. It does not allocate.
func (k *Keys) Open(group string, cookie []byte, now uint32) (t Ticket, err error) {
	if len(cookie) != CookieBytes {
		return t, ErrMalformed
	}
	s := scratchPool.Get().(*scratch)
	defer scratchPool.Put(s)
	raw := s.raw[:rawBytes]
	if !decodeCookie(&s.raw, (*[CookieBytes]byte)(cookie)) || raw[0] != cookieVersion {
		return t, ErrMalformed
	}
	seal := k.seals[raw[1]]
	if seal == nil {
		return t, ErrUnknownKey
	}
	nonce, sealed := raw[headerBytes:headerBytes+nonceBytes], raw[headerBytes+nonceBytes:]
	if _, err := seal.Open(s.plain[:0], nonce, sealed, appendAAD(s.aad[:0], raw[1], group)); err != nil {
		return t, ErrForged
	}
	t.decode(&s.plain)
	if t.Expires <= now {
		return t, ErrExpired
	}
	return t, nil
}

// letters has the value of each letter of base64url at each of the four places
// of a group of letters, shifted to where it belongs, and badLetter for all else.
var letters = func() (t [4][256]uint32) {
	for place := range t {
		for c := range t[place] {
			t[place][c] = badLetter
		}
		for v, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") {
			t[place][c] = uint32(v) << (26 - 6*place)
		}
	}
	return t
}()

// badLetter is a bit below the three bytes that four letters make.
const badLetter = 1 << 7

// decodeCookie decodes base64url of a known length, a multiple of 4.
// With encoding/base64 opening a cookie takes 1.4 times as long (BenchmarkCookieOpen
// of both in turns): here are no bounds, padding and line breaks to look for, and
// whether all letters were good is asked at the end. They are no secret, so the time of a
// look into the tables tells nothing. The last group writes one byte past raw.
func decodeCookie(raw *[rawBytes + 1]byte, cookie *[CookieBytes]byte) bool {
	bad := uint32(0)
	for k := range rawBytes / 3 {
		c := binary.LittleEndian.Uint32(cookie[4*k:])
		v := letters[0][byte(c)] | letters[1][byte(c>>8)] | letters[2][byte(c>>16)] | letters[3][c>>24]
		bad |= v
		binary.BigEndian.PutUint32(raw[3*k:], v)
	}
	return bad&badLetter == 0
}

func appendAAD(dst []byte, key byte, group string) []byte {
	return append(append(dst, cookieVersion, key), group...)
}

func (t *Ticket) encode(b *[ticketBytes]byte) {
	copy(b[0:], t.Session[:])
	copy(b[16:], t.Instance[:])
	binary.BigEndian.PutUint32(b[32:], t.Incarnation)
	binary.BigEndian.PutUint32(b[36:], t.Epoch)
	binary.BigEndian.PutUint32(b[40:], t.Expires)
	b[44] = 0
	if t.Provisional {
		b[44] = flagProvisional
	}
}

func (t *Ticket) decode(b *[ticketBytes]byte) {
	copy(t.Session[:], b[0:])
	copy(t.Instance[:], b[16:])
	t.Incarnation = binary.BigEndian.Uint32(b[32:])
	t.Epoch = binary.BigEndian.Uint32(b[36:])
	t.Expires = binary.BigEndian.Uint32(b[40:])
	t.Provisional = b[44]&flagProvisional != 0
}
