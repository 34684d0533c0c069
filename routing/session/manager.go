package session

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Manager is a node's part in keeping sessions: it knows the keys, has new
// sessions assigned, and records the use of old ones.
type Manager struct {
	*Assigner
	log  *slog.Logger
	keys atomic.Pointer[ring]

	mu      sync.Mutex
	touched map[string]map[[16]byte]struct{}
	count   int
}

// ring is the key ring of a state, and as it is used.
type ring struct {
	row  []fsm.CookieKey
	keys *Keys
}

// NewManager returns a manager. Run records uses.
func NewManager(c Cluster, log *slog.Logger) *Manager {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Manager{Assigner: NewAssigner(c), log: log.With("part", "sessions"), touched: map[string]map[[16]byte]struct{}{}}
}

// Keys returns the keys of the newest state that Use was given, or nil when it
// had none.
func (m *Manager) Keys() *Keys {
	if r := m.keys.Load(); r != nil {
		return r.keys
	}
	return nil
}

// Use takes the keys of a state. It is called by one goroutine at a time.
func (m *Manager) Use(s *fsm.State) {
	row := s.CookieKeys()
	if r := m.keys.Load(); len(row) == 0 || r != nil && slices.Equal(r.row, row) {
		return
	}
	secrets := make([]Secret, len(row))
	for k := range row {
		secrets[k] = Secret{ID: row[k].ID, Key: row[k].Secret}
	}
	keys, err := NewKeys(secrets)
	if err != nil {
		m.log.Error("the session keys can not be used", "err", err)
		return
	}
	m.keys.Store(&ring{row, keys})
}

// Touch notes that a session was used; the cluster learns it soon.
func (m *Manager) Touch(group string, key [16]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set := m.touched[group]
	if set == nil {
		set = map[[16]byte]struct{}{}
		m.touched[group] = set
	}
	if _, known := set[key]; !known && m.count < maxTouched {
		set[key] = struct{}{}
		m.count++
	}
}

// Run records the uses of sessions until ctx ends, then those that are left,
// and closes the assigner.
func (m *Manager) Run(ctx context.Context) {
	tick := time.NewTicker(touchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			m.record(ctx)
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTimeout)
			defer cancel()
			m.record(last)
			m.Close()
			return
		}
	}
}

// record proposes what was noted. What the cluster could not agree on is noted
// again: a session notes its use only once in half of its time to live.
func (m *Manager) record(ctx context.Context) {
	m.mu.Lock()
	touched := m.touched
	m.touched, m.count = map[string]map[[16]byte]struct{}{}, 0
	m.mu.Unlock()
	ctx = fsm.WithActor(ctx, "sessions")
	for group, set := range touched {
		keys := make([][16]byte, 0, len(set))
		for key := range set {
			keys = append(keys, key)
		}
		for chunk := range slices.Chunk(keys, fsm.MaxSessionKeys) {
			if ctx.Err() != nil || !m.touch(ctx, group, chunk) {
				for _, key := range chunk {
					m.Touch(group, key)
				}
			}
		}
	}
}

// touch records uses with one command; false when it is worth another try.
func (m *Manager) touch(ctx context.Context, group string, keys [][16]byte) bool {
	c, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := m.cluster.Propose(c, fsm.TouchSessions{Group: group, Keys: pack(keys)})
	if err == nil {
		return true
	}
	kind := fsm.KindOf(err)
	if kind == fsm.NotFound || kind == fsm.Conflict {
		return true // the group is gone, or has other sessions now
	}
	if ctx.Err() == nil {
		m.log.Warn("uses of sessions were not recorded; they will be", "group", group, "sessions", len(keys), "err", err)
	}
	return false
}
