package cluster

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// logStore stands before the real store: it refuses an entry that was
// damaged on its way, measures how long appends take, and keeps the newest
// entries in memory for replication. Its cache is bounded in bytes, where
// raft.LogCache counts entries, whose size varies a thousandfold with group
// commit.
//
// And it keeps Raft and the store of one mind. When an append fails after the
// entries that it replaces were deleted, Raft goes on as if those were there:
// it would accept, and acknowledge, what follows them, and leave a hole in
// front of it.
type logStore struct {
	raft.LogStore
	watch   *stopwatch
	observe func(time.Duration)
	// covered is the index up to which the newest snapshot stands in for
	// entries, and lost is told when Raft has to be started again.
	covered func() (uint64, error)
	lost    func(error)
	// arrived is the newest index that was given to the store, and coming
	// wakes those who wait for it.
	arrived atomic.Uint64
	coming  signal

	mu    sync.RWMutex
	cut   bool // entries were deleted, and those that replace them are to come
	ring  [maxCachedLogs]*raft.Log
	bytes int
	low   uint64 // the oldest index that may be in the ring
	high  uint64
}

func newLogStore(store raft.LogStore, snaps raft.SnapshotStore, observe func(time.Duration), lost func(error)) *logStore {
	covered := func() (uint64, error) {
		list, err := snaps.List()
		if err != nil || len(list) == 0 {
			return 0, err
		}
		return list[0].Index, nil // newest first
	}
	return &logStore{LogStore: store, watch: &stopwatch{}, observe: observe, covered: covered, lost: lost}
}

// StoreLog implements [raft.LogStore].
func (s *logStore) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements [raft.LogStore].
func (s *logStore) StoreLogs(logs []*raft.Log) error {
	err := s.store(logs)
	s.mu.Lock()
	lost := err != nil && (s.cut || errors.Is(err, errHole))
	if err == nil {
		s.cut = false
		for _, l := range logs {
			s.keep(l)
		}
	}
	s.mu.Unlock()
	if lost {
		s.lost(err)
	}
	return err
}

// store checks entries and has them stored below.
func (s *logStore) store(logs []*raft.Log) error {
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			if err := fsm.CheckEntry(l.Data); err != nil {
				return err
			}
		}
	}
	if err := s.follows(logs[0].Index); err != nil {
		return err
	}
	s.arrived.Store(logs[len(logs)-1].Index)
	s.coming.fire()
	start := time.Now()
	s.watch.begin(start)
	err := s.LogStore.StoreLogs(logs)
	s.watch.end()
	s.observe(time.Since(start))
	return err
}

// errHole is an entry that would leave a hole in the log.
var errHole = errors.New("an entry does not follow the others")

// follows refuses an entry that leaves a hole in the log. A gap is no hole when
// a snapshot covers it, as one does that Raft has just installed.
func (s *logStore) follows(index uint64) error {
	last, err := s.LastIndex()
	if err != nil || index <= last+1 {
		return err
	}
	covered, err := s.covered()
	if err == nil && index > covered+1 {
		err = fmt.Errorf("%w: %d is to come after %d, and the newest snapshot ends with %d", errHole, index, last, covered)
	}
	return err
}

// keep caches an entry and drops the oldest ones beyond the limits.
func (s *logStore) keep(l *raft.Log) {
	if l.Index != s.high+1 {
		s.reset()
		s.low = l.Index
	}
	slot := &s.ring[l.Index%maxCachedLogs]
	if *slot != nil {
		s.bytes -= len((*slot).Data)
		s.low = (*slot).Index + 1
	}
	// A copy: on the leader the entry is a part of Raft's future, which holds
	// all that its commands have returned.
	kept := *l
	*slot, s.high = &kept, l.Index
	s.bytes += len(l.Data)
	for s.bytes > maxCachedLogBytes && s.low < s.high {
		old := &s.ring[s.low%maxCachedLogs]
		if *old != nil {
			s.bytes -= len((*old).Data)
			*old = nil
		}
		s.low++
	}
}

func (s *logStore) reset() {
	clear(s.ring[:])
	s.bytes, s.low, s.high = 0, 0, 0
}

// GetLog implements [raft.LogStore].
func (s *logStore) GetLog(index uint64, out *raft.Log) error {
	s.mu.RLock()
	l := s.ring[index%maxCachedLogs]
	s.mu.RUnlock()
	if l != nil && l.Index == index {
		*out = *l
		return nil
	}
	return s.LogStore.GetLog(index, out)
}

// DeleteRange implements [raft.LogStore]. Raft compacts beside appends, and
// deletes newer entries between them.
func (s *logStore) DeleteRange(from, to uint64) error {
	last, err := s.LastIndex()
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.reset()
	s.mu.Unlock()
	if err := s.LogStore.DeleteRange(from, to); err != nil {
		return err
	}
	s.mu.Lock()
	s.cut = s.cut || to >= last
	s.mu.Unlock()
	return nil
}

// stopwatch knows whether an operation is running, and since when.
type stopwatch struct {
	since atomic.Int64 // unix ns, 0 when nothing runs
}

func (w *stopwatch) begin(now time.Time) { w.since.Store(now.UnixNano()) }
func (w *stopwatch) end()                { w.since.Store(0) }

// running returns for how long the operation has been running, 0 when none is.
func (w *stopwatch) running() time.Duration {
	since := w.since.Load()
	if since == 0 {
		return 0
	}
	return time.Since(time.Unix(0, since))
}
