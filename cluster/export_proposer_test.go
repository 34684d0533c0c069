package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// ErrNotLeader is errNotLeader.
var ErrNotLeader = errNotLeader

// NewLogStore puts a logStore before a store; lost is told when Raft would have
// to be started again.
func NewLogStore(below raft.LogStore, snaps raft.SnapshotStore, lost func(error)) raft.LogStore {
	return newLogStore(below, snaps, func(time.Duration) {}, lost)
}

// CachedBytes is the size of a logStore's cache.
func CachedBytes(s raft.LogStore) int { return s.(*logStore).bytes }

// Attempt is one attempt of a proposer to have a batch committed.
type Attempt struct {
	Leader   string
	ID       fsm.BatchID
	Commands int
}

// TestProposer is a proposer without a cluster: an attempt that succeeds is
// applied at once.
type TestProposer struct {
	p     *proposer
	mu    sync.Mutex
	index uint64
}

// NewTestProposer returns a running proposer.
func NewTestProposer(_ context.Context, route func() (string, <-chan struct{}), send func(context.Context, Attempt) error) *TestProposer {
	m, err := newMetrics(&Cluster{}, nil)
	if err != nil {
		panic(err) // without a registry nothing can fail
	}
	t := &TestProposer{p: newProposer("n", 1, m)}
	t.p.route = route
	t.p.send = func(ctx context.Context, leader string, b *batch) (batchReply, error) {
		if err := send(ctx, Attempt{leader, b.id, len(b.envs)}); err != nil {
			return batchReply{}, err
		}
		t.mu.Lock()
		t.index++
		r := batchReply{Index: t.index, Term: 1}
		t.mu.Unlock()
		t.p.settle(&fsm.Outcome{Index: r.Index, Batch: b.id, Results: make([]fsm.Result, len(b.envs)), Errs: make([]error, len(b.envs))}, nil)
		return r, nil
	}
	t.p.follow = func(context.Context, string, batchReply) error { return nil }
	go t.p.run()
	return t
}

// Propose has a command applied.
func (t *TestProposer) Propose(ctx context.Context, c fsm.Command) error {
	_, err := t.p.propose(ctx, c)
	return err
}

// Close ends the proposer.
func (t *TestProposer) Close() { t.p.close() }

// Limit is the number of writes that may wait.
func (t *TestProposer) Limit() int { return maxQueued }

// NewGather returns the decision of a gather on a queue: a batch that took the
// usual time was answered a while ago and left others waiting.
func NewGather(answered, left int, usual, ago time.Duration) func(queued, flying int, since time.Duration) time.Duration {
	var g gather
	now := time.Now()
	then := now.Add(-ago)
	g.answered(flight{answered, then.Add(-usual)}, left, then)
	return func(queued, flying int, since time.Duration) time.Duration {
		f := flight{size: flying}
		if flying > 0 {
			f.since = now.Add(-since)
		}
		return g.hold(queued, f, now)
	}
}
