package sim

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// snapshots keeps the newest complete snapshot. raft's own in-memory store
// shows one that is still being written, which no crash-safe store does.
type snapshots struct {
	mu   sync.Mutex
	meta *raft.SnapshotMeta
	data []byte
	// count is how many were completed.
	count int
}

func (s *snapshots) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Create implements [raft.SnapshotStore].
func (s *snapshots) Create(version raft.SnapshotVersion, index, term uint64, conf raft.Configuration, confIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &sink{store: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: conf.Clone(), ConfigurationIndex: confIndex,
	}}, nil
}

// List implements [raft.SnapshotStore].
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil {
		return nil, nil
	}
	return []*raft.SnapshotMeta{s.meta}, nil
}

// Open implements [raft.SnapshotStore].
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil || s.meta.ID != id {
		return nil, nil, fmt.Errorf("snapshot %s is not there", id)
	}
	return s.meta, io.NopCloser(bytes.NewReader(s.data)), nil
}

// positionBytes is the header that the cluster package writes before a state.
const positionBytes = 16

// falsify makes the newest snapshot say something else, with every checksum
// right.
func (s *snapshots) falsify() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil {
		return
	}
	state, err := fsm.ReadSnapshot(bytes.NewReader(s.data[positionBytes:]))
	if err != nil {
		return
	}
	out := bytes.NewBuffer(bytes.Clone(s.data[:positionBytes]))
	other := altered(state, fsm.PutTemplate{Template: fsm.Template{Name: "false", Driver: driverName, Command: fsm.SampleCommand}})
	if err := other.WriteSnapshot(out); err != nil {
		return
	}
	s.data, s.meta.Size = out.Bytes(), int64(out.Len())
}

// sink is a snapshot being written; it counts when it is closed.
type sink struct {
	store *snapshots
	meta  raft.SnapshotMeta
	buf   bytes.Buffer
	over  bool
}

// Write implements [raft.SnapshotSink].
func (k *sink) Write(b []byte) (int, error) { return k.buf.Write(b) }

// Close implements [raft.SnapshotSink].
func (k *sink) Close() error {
	if k.over {
		return nil
	}
	k.over = true
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	k.meta.Size = int64(k.buf.Len())
	k.store.meta, k.store.data = &k.meta, k.buf.Bytes()
	k.store.count++
	return nil
}

// ID implements [raft.SnapshotSink].
func (k *sink) ID() string { return k.meta.ID }

// Cancel implements [raft.SnapshotSink].
func (k *sink) Cancel() error {
	k.over = true
	return nil
}
