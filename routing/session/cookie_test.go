package session_test

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/routing/session"
)

func keys(t testing.TB, ring ...session.Secret) *session.Keys {
	t.Helper()
	k, err := session.NewKeys(ring)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func secret(id uint8) session.Secret {
	s := session.Secret{ID: id}
	for i := range s.Key {
		s.Key[i] = id + byte(i)
	}
	return s
}

var ticket = session.Ticket{
	Session: [16]byte{1, 2, 3}, Instance: session.InstanceTag("01J"), Incarnation: 7, Epoch: 3, Expires: 1000,
}

func TestCookie(t *testing.T) {
	old := keys(t, secret(1))
	rotated := keys(t, secret(2), secret(1))
	gone := keys(t, secret(3), secret(2))
	sameID := keys(t, session.Secret{ID: 1, Key: [16]byte{9}})
	good := old.Append(nil, "web", &ticket)
	flip := func(i int) []byte {
		b := bytes.Clone(good)
		b[i] = map[bool]byte{true: 'B', false: 'A'}[b[i] == 'A']
		return b
	}
	for _, c := range []struct {
		name   string
		keys   *session.Keys
		group  string
		cookie []byte
		now    uint32
		err    error
	}{
		{"good", old, "web", good, 999, nil},
		{"older generation", rotated, "web", good, 999, nil},
		{"expired", old, "web", good, 1000, session.ErrExpired},
		{"of another group", old, "shop", good, 999, session.ErrForged},
		{"key is gone", gone, "web", good, 999, session.ErrUnknownKey},
		{"another key with the same id", sameID, "web", good, 999, session.ErrForged},
		{"empty", old, "web", nil, 999, session.ErrMalformed},
		{"truncated", old, "web", good[:len(good)-1], 999, session.ErrMalformed},
		{"longer", old, "web", append(bytes.Clone(good), 'A'), 999, session.ErrMalformed},
		{"another version", old, "web", flip(0), 999, session.ErrMalformed},
		{"not base64", old, "web", []byte(strings.Repeat("!", len(good))), 999, session.ErrMalformed},
		// The first letter is an A, which is 0, as is what a letter stands for that is none.
		{"one letter is none", old, "web", append([]byte("!"), good[1:]...), 999, session.ErrMalformed},
		{"nonce changed", old, "web", flip(8), 999, session.ErrForged},
		{"content changed", old, "web", flip(40), 999, session.ErrForged},
		{"tag changed", old, "web", flip(len(good) - 2), 999, session.ErrForged},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.keys.Open(c.group, c.cookie, c.now)
			if !errors.Is(err, c.err) {
				t.Fatalf("err = %v, want %v", err, c.err)
			}
			if err == nil && got != ticket {
				t.Errorf("ticket = %+v, want %+v", got, ticket)
			}
		})
	}
	if len(good) != session.CookieBytes {
		t.Errorf("a cookie has %d bytes, CookieBytes says %d", len(good), session.CookieBytes)
	}
}

// TestCookiesDiffer proves that no two cookies share a nonce, be they of one
// node or of two with the same ring.
func TestCookiesDiffer(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range []*session.Keys{keys(t, secret(1)), keys(t, secret(1))} {
		for range 1000 {
			nonce := string(k.Append(nil, "web", &ticket)[3:18])
			if seen[nonce] {
				t.Fatal("a nonce has come twice")
			}
			seen[nonce] = true
		}
	}
}

func TestCookieRoundTrip(t *testing.T) {
	k := keys(t, secret(200), secret(7))
	rapid.Check(t, func(t *rapid.T) {
		want := session.Ticket{
			Incarnation: rapid.Uint32().Draw(t, "incarnation"), Epoch: rapid.Uint32().Draw(t, "epoch"),
			Expires: rapid.Uint32Range(1, 1<<32-1).Draw(t, "expires"), Provisional: rapid.Bool().Draw(t, "provisional"),
		}
		copy(want.Session[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "session"))
		copy(want.Instance[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "instance"))
		group := rapid.StringMatching(`[a-z0-9-]{1,63}`).Draw(t, "group")
		got, err := k.Open(group, k.Append(nil, group, &want), want.Expires-1)
		if err != nil || got != want {
			t.Fatalf("%+v, %v, want %+v", got, err, want)
		}
	})
}

func TestCookieAllocates(t *testing.T) {
	k := keys(t, secret(1))
	cookie := k.Append(nil, "web", &ticket)
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := k.Open("web", cookie, 1); err != nil {
			t.Fatal(err)
		}
		k.Append(buf, "web", &ticket)
	}); n != 0 {
		t.Errorf("opening and sealing a cookie allocates %v times", n)
	}
}

// FuzzCookie looks for bytes that open without having been sealed.
func FuzzCookie(f *testing.F) {
	k := keys(f, secret(1), secret(2))
	good := k.Append(nil, "web", &ticket)
	f.Add(good)
	f.Add([]byte("AQEAAAAA"))
	f.Add(bytes.Repeat([]byte("A"), session.CookieBytes))
	f.Fuzz(func(t *testing.T, cookie []byte) {
		// The seeds of another process of the fuzzer were sealed with the same
		// keys, so they open as well.
		if got, err := k.Open("web", cookie, 1); err == nil && got != ticket {
			t.Fatalf("%q opens as %+v", cookie, got)
		}
	})
}

func BenchmarkCookieOpen(b *testing.B) {
	k := keys(b, secret(1))
	cookie := k.Append(nil, "web", &ticket)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := k.Open("web", cookie, 1); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCookieAgainstParts opens cookies, and in turns with that does what any
// sealed cookie takes: encoding/base64 and AES-128-GCM of 24 bytes, without a key
// ring, a group or a scratch buffer of its own. A machine's speed is in both.
func BenchmarkCookieAgainstParts(b *testing.B) {
	k := keys(b, secret(1))
	cookie := k.Append(nil, "web", &ticket)
	block, err := aes.NewCipher(make([]byte, session.KeyBytes))
	if err != nil {
		b.Fatal(err)
	}
	seal, err := cipher.NewGCM(block)
	if err != nil {
		b.Fatal(err)
	}
	nonce := make([]byte, seal.NonceSize())
	plain := base64.RawURLEncoding.AppendEncode(nil, seal.Seal(bytes.Clone(nonce), nonce, make([]byte, 24), nil))
	raw, out := make([]byte, len(plain)), make([]byte, 0, 24)
	const turn = 1000
	var ours, parts time.Duration
	n := 0
	for b.Loop() {
		begin := time.Now()
		for range turn {
			if _, err := k.Open("web", cookie, 1); err != nil {
				b.Fatal(err)
			}
		}
		between := time.Now()
		for range turn {
			size, err := base64.RawURLEncoding.Decode(raw, plain)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := seal.Open(out, raw[:len(nonce)], raw[len(nonce):size], nil); err != nil {
				b.Fatal(err)
			}
		}
		ours, parts, n = ours+between.Sub(begin), parts+time.Since(between), n+turn
	}
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(float64(ours.Nanoseconds())/float64(n), "ns/cookie")
	b.ReportMetric(float64(parts.Nanoseconds())/float64(n), "ns/parts")
	b.ReportMetric(float64(ours)/float64(parts), "ours/parts")
}

func BenchmarkCookieSeal(b *testing.B) {
	k := keys(b, secret(1))
	buf := make([]byte, 0, 256)
	b.ReportAllocs()
	for b.Loop() {
		k.Append(buf, "web", &ticket)
	}
}
