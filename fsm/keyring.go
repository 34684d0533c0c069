package fsm

import (
	"fmt"
	"io"
	"time"
)

const (
	sessionSecretBytes = 16
	// sessionKeysKept is how many generations of keys open cookies: what one
	// has sealed stays good until the next but one is made.
	sessionKeysKept = 2
)

// SessionSecret is a secret key. Whatever prints, logs or encodes it gets a
// placeholder; the log and the snapshot have it in a type of their own.
type SessionSecret [sessionSecretBytes]byte

const hiddenSecret = "(secret)"

// Format implements [fmt.Formatter], for every verb.
func (SessionSecret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, hiddenSecret) }

// MarshalText implements [encoding.TextMarshaler], which JSON and the handlers
// of log/slog ask for.
func (SessionSecret) MarshalText() ([]byte, error) { return []byte(hiddenSecret), nil }

// CookieKey is one generation of the key that seals session cookies.
type CookieKey struct {
	ID        uint8         `json:"id"`
	Secret    SessionSecret `json:"secret"`
	CreatedAt time.Time     `json:"createdAt"`
}

// sessionKeyRing is the keys that seal session cookies, newest first: one row.
// Nothing outside of this package can get at it.
type sessionKeyRing struct {
	Keys []storedKey `json:"keys"`
}

type storedKey struct {
	ID        uint8     `json:"id"`
	Secret    []byte    `json:"secret"`
	CreatedAt time.Time `json:"createdAt"`
}

var sessionKeyTable = tableSpec[sessionKeyRing]{
	name: "sessionKeys", noun: "session key", private: true,
	key: func(*sessionKeyRing) string { return clusterKey },
}

// CookieKeys returns the keys that seal session cookies, newest first. A node
// seals with the first and opens with any.
func (s *State) CookieKeys() []CookieKey {
	r, ok := s.sessionKeys.Get(clusterKey)
	if !ok {
		return nil
	}
	keys := make([]CookieKey, len(r.Keys))
	for k, stored := range r.Keys {
		keys[k] = CookieKey{ID: stored.ID, CreatedAt: stored.CreatedAt}
		copy(keys[k].Secret[:], stored.Secret)
	}
	return keys
}

// NextCookieKey is the id that the next [RotateSessionKeys] must have: 1 to
// 255, round and round, so that 0 is no key.
func (s *State) NextCookieKey() uint8 {
	r, ok := s.sessionKeys.Get(clusterKey)
	if !ok || len(r.Keys) == 0 {
		return 1
	}
	return r.Keys[0].ID%255 + 1
}

// RotateSessionKeys makes a new key the one that seals cookies and forgets the
// last but one. It names the id that the proposer expects, so that of two
// proposers one is refused.
type RotateSessionKeys struct {
	ID uint8 `json:"id"`
	// Secret is 16 random bytes. They stand in the log, as they must.
	Secret []byte `json:"secret"`
}

// Format implements [fmt.Formatter]: a command may be printed, its secret not.
func (c RotateSessionKeys) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "RotateSessionKeys{%d %s}", c.ID, hiddenSecret)
}

// Name implements [Command].
func (RotateSessionKeys) Name() string { return "RotateSessionKeys" }

// Apply implements [Command]; its value is the id of the key.
func (c RotateSessionKeys) Apply(tx *Tx) (any, error) {
	if len(c.Secret) != sessionSecretBytes {
		return nil, Errorf(Invalid, "session key", "", "has %d bytes, not %d", len(c.Secret), sessionSecretBytes)
	}
	if next := tx.NextCookieKey(); c.ID != next {
		return nil, Errorf(Conflict, "session key", "", "would get the id %d, and the next one is %d", c.ID, next).
			WithHint("another node has rotated the keys; read them again")
	}
	ring := &sessionKeyRing{Keys: []storedKey{{ID: c.ID, Secret: c.Secret, CreatedAt: tx.Meta.Time}}}
	if old, ok := tx.sessionKeys.Get(clusterKey); ok {
		ring.Keys = append(ring.Keys, old.Keys[:min(len(old.Keys), sessionKeysKept-1)]...)
	}
	put(tx, &tx.State.sessionKeys, ring)
	return c.ID, nil
}
