package cluster

import (
	"context"
	"sync"
	"time"
)

// follower speeds this node up to an index that the leader has told it out of
// band. Raft tells followers of a commit with its next message only, which
// with little traffic is as late as the commit timeout; a write that was
// accepted here, or a strong read, would wait for it.
type follower struct {
	c    *Cluster
	wake chan struct{}

	mu     sync.Mutex
	target notice
}

// notice says that the entry at index, of the leader's own term, is committed.
type notice struct {
	leader      string
	term, index uint64
}

func newFollower(c *Cluster) *follower {
	return &follower{c: c, wake: make(chan struct{}, 1)}
}

// to waits until this node has applied up to an index.
func (f *follower) to(ctx context.Context, n notice) error {
	f.aim(n)
	return f.c.apply.waitFor(ctx, n.index)
}

// aim begins to speed this node up to an index.
func (f *follower) aim(n notice) {
	if f.c.apply.position() >= n.index || n.leader == f.c.cfg.Name {
		return
	}
	f.mu.Lock()
	if n.term > f.target.term || (n.term == f.target.term && n.index > f.target.index) {
		f.target = n
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run passes notices on until ctx ends.
func (f *follower) run(ctx context.Context) {
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		for wait := time.Millisecond; ; wait = min(wait*2, f.c.cfg.Timing.Commit) {
			f.mu.Lock()
			n := f.target
			f.mu.Unlock()
			moved, coming := f.c.apply.moved.wait(), f.c.logs.coming.wait()
			if f.c.apply.position() >= n.index || f.c.raft.CurrentTerm() != n.term {
				break
			}
			// An entry that is just being stored will do: Raft takes messages
			// in order, and looks at this one when the entry is there.
			if f.c.logs.arrived.Load() >= n.index && f.c.raft.CommitIndex() < n.index {
				f.tell(ctx, n)
			}
			t := time.NewTimer(wait)
			select {
			case <-moved:
			case <-coming:
			case <-t.C:
			case <-f.wake:
				wait = time.Millisecond
			case <-ctx.Done():
				t.Stop()
				return
			}
			t.Stop()
		}
	}
}

func (f *follower) tell(ctx context.Context, n notice) {
	ctx, cancel := context.WithTimeout(ctx, f.c.cfg.Timing.Heartbeat)
	defer cancel()
	// An error means that Raft is busy or stopping; the loop tries again.
	_ = f.c.trans.commitNotice(ctx, n.leader, n.term, n.index)
}
