package cluster

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// stopReason is why a node does not apply entries.
//
//	applying ──corrupt entry, digest differs──► stopped (heals) ──state of a peer──► applying
//	    └──────entry of a newer version───────► stopped (until a newer binary)
type stopReason struct {
	err   error
	heals bool
}

// applied is what Raft's future gives for an entry.
type applied struct {
	index, term uint64
	outcome     fsm.Outcome
	err         error
}

// applier feeds committed entries to the machine and tells who waits. It is
// Raft's FSM by way of raftFSM.
type applier struct {
	log     *slog.Logger
	machine *fsm.Machine
	changes changeRing
	recent  recentBatches
	watch   stopwatch
	// settle is told each outcome before the position moves past it.
	settle func(o *fsm.Outcome, data []byte)
	// halted is told when applying stops.
	halted func(stopReason)

	// pos is the index up to which this node has applied. Other than the
	// state's index it counts Raft's configuration entries as well.
	pos   atomic.Uint64
	moved signal
	stop  atomic.Pointer[stopReason]

	mu        sync.Mutex // apply, restore and heal exclude each other
	held      []fsm.LogEntry
	heldBytes int
	heldFrom  uint64 // a healing state must have at least this index
	heldPos   uint64
}

// position returns the index up to which this node has applied.
func (a *applier) position() uint64 { return a.pos.Load() }

func (a *applier) advance(to uint64) {
	if to > a.pos.Load() {
		a.pos.Store(to)
		a.moved.fire()
	}
}

// apply applies entries in order and returns one result for each.
func (a *applier) apply(logs []*raft.Log) []any {
	defer a.watch.end()
	a.mu.Lock()
	defer a.mu.Unlock()
	entries := make([]fsm.LogEntry, 0, len(logs))
	for _, l := range logs {
		if l.Type == raft.LogCommand {
			entries = append(entries, fsm.LogEntry{Index: l.Index, Term: l.Term, Data: l.Data})
		}
	}
	outcomes, err := a.applyEntries(entries)
	results := make([]any, len(logs))
	k := 0
	for i, l := range logs {
		r := &applied{index: l.Index, term: l.Term}
		if l.Type == raft.LogCommand {
			if k < len(outcomes) {
				r.outcome = outcomes[k]
				a.recent.add(r)
			} else {
				r.err = err
			}
			k++
		}
		results[i] = r
	}
	if last := logs[len(logs)-1].Index; err == nil {
		a.advance(last)
	} else {
		a.heldPos = last
	}
	return results
}

// applyEntries applies entries, or holds them back while the node is stopped.
func (a *applier) applyEntries(entries []fsm.LogEntry) ([]fsm.Outcome, error) {
	if why := a.stop.Load(); why != nil {
		a.hold(entries)
		return nil, why.err
	}
	outcomes := make([]fsm.Outcome, 0, len(entries))
	for len(entries) > 0 {
		// A portion at a time, so that the watch on a stuck apply sees
		// progress in a long backlog, and waiters do not wait for all of it.
		n := portion(entries)
		a.watch.begin(time.Now())
		some, err := a.machine.Apply(entries[:n])
		a.publish(entries, some)
		outcomes = append(outcomes, some...)
		if err != nil {
			a.halt(stopReason{err: err, heals: healable(err)})
			a.heldFrom = entries[len(some)].Index
			a.hold(entries[len(some)+1:])
			return outcomes, err
		}
		entries = entries[n:]
	}
	return outcomes, nil
}

// portion is the number of entries to apply in one go: about 256 KiB of them.
func portion(entries []fsm.LogEntry) int {
	size := 0
	for i, e := range entries {
		if size += len(e.Data); size >= 256<<10 {
			return i + 1
		}
	}
	return len(entries)
}

// publish tells the waiters and the watchers.
func (a *applier) publish(entries []fsm.LogEntry, outcomes []fsm.Outcome) {
	sets := make([]fsm.ChangeSet, 0, len(outcomes))
	now := a.machine.State().Time()
	for i := range outcomes {
		o := &outcomes[i]
		if len(o.Changes) > 0 {
			sets = append(sets, fsm.ChangeSet{Index: o.Index, Time: now, Changes: o.Changes})
		}
		a.settle(o, entries[i].Data)
	}
	a.changes.add(sets)
}

// healable reports whether another node's state can replace what an entry
// would have done: it can when the bytes are damaged, not when this binary is
// too old for them.
func healable(err error) bool {
	var corrupt *fsm.CorruptError
	return errors.As(err, &corrupt)
}

// halt stops applying.
func (a *applier) halt(why stopReason) {
	if a.stop.CompareAndSwap(nil, &why) {
		a.heldFrom, a.held, a.heldBytes = a.machine.State().Index(), nil, 0
		a.heldPos = a.pos.Load()
		a.halted(why)
	}
}

// diverged stops applying because the state differs from that of the majority.
func (a *applier) diverged(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.halt(stopReason{err: err, heals: true})
}

// hold keeps entries for after the healing. Beyond its limit it forgets them,
// and the healing state has to be newer.
func (a *applier) hold(entries []fsm.LogEntry) {
	for _, e := range entries {
		if a.heldBytes += len(e.Data); a.heldBytes > maxHeldTail {
			a.held, a.heldBytes, a.heldFrom = nil, 0, e.Index
			continue
		}
		a.held = append(a.held, e)
	}
}

// heal replaces the state by that of a peer and applies what was held back.
// It reports false when the peer's state is not new enough.
func (a *applier) heal(s *fsm.State) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stop.Load() == nil || s.Index() < a.heldFrom {
		return false
	}
	held, to := a.held, max(a.heldPos, s.Index())
	a.held, a.heldBytes = nil, 0
	a.install(s)
	a.stop.Store(nil)
	entries := held[:0:0]
	for _, e := range held {
		if e.Index > s.Index() {
			entries = append(entries, e)
		}
	}
	if _, err := a.applyEntries(entries); err != nil {
		return false
	}
	a.advance(to)
	return true
}

func (a *applier) install(s *fsm.State) {
	a.machine.Replace(s)
	a.changes.reset(s)
	a.advance(s.Index())
}

// restore installs a snapshot; the state takes the position at which Raft has
// placed it.
func (a *applier) restore(r io.Reader) error {
	index, term, err := readPosition(r)
	if err != nil {
		return err
	}
	s, err := fsm.ReadSnapshot(r)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.held, a.heldBytes = nil, 0
	// A node that has healed may hold a state from beyond the snapshot's
	// position: moved back, it would apply the entries between twice.
	if s.Index() < index {
		s = s.At(index, term)
	}
	a.install(s)
	a.stop.Store(nil)
	return nil
}

// waitFor waits until this node has applied up to an index.
func (a *applier) waitFor(ctx context.Context, index uint64) error {
	for {
		moved := a.moved.wait()
		if why := a.stop.Load(); why != nil {
			return notServing(why.err)
		}
		if a.position() >= index {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notServing is the answer of a node whose state must not be read.
func notServing(err error) error {
	return fsm.Errorf(fsm.Unavailable, "node", "", "has stopped applying the log: %v", err).
		WithHint("ask another node; this one's /readyz and log say more")
}

// raftFSM makes an applier Raft's FSM.
type raftFSM struct{ *applier }

var _ raft.BatchingFSM = raftFSM{}

// Apply implements [raft.FSM].
func (f raftFSM) Apply(l *raft.Log) any { return f.apply([]*raft.Log{l})[0] }

// ApplyBatch implements [raft.BatchingFSM].
func (f raftFSM) ApplyBatch(logs []*raft.Log) []any { return f.apply(logs) }

// Restore implements [raft.FSM].
func (f raftFSM) Restore(r io.ReadCloser) error {
	defer closeQuietly(r)
	return f.restore(r)
}

// Snapshot implements [raft.FSM]. A node that has stopped applying must not
// cut its log.
func (f raftFSM) Snapshot() (raft.FSMSnapshot, error) {
	if why := f.stop.Load(); why != nil {
		return nil, why.err
	}
	return raftSnapshot{f.machine.State()}, nil
}

// raftSnapshot writes an immutable state, while later entries are applied.
type raftSnapshot struct{ state *fsm.State }

// Persist implements [raft.FSMSnapshot].
func (s raftSnapshot) Persist(sink raft.SnapshotSink) error {
	err := writePositioned(sink, s.state)
	if err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}

// Release implements [raft.FSMSnapshot].
func (raftSnapshot) Release() {}

// writePositioned writes a state in the form that Raft stores.
func writePositioned(w io.Writer, s *fsm.State) error {
	if _, err := w.Write(encodePosition(s.Index(), s.Term())); err != nil {
		return err
	}
	return s.WriteSnapshot(w)
}
