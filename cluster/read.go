package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"iter"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// State returns this node's state, without waiting. It may be behind; see
// [Cluster.Stale].
func (c *Cluster) State() *fsm.State { return c.apply.machine.State() }

// Halted says why this node's state must not be answered from: it has stopped
// applying the log, because the state may be wrong or an entry is of a newer
// version. nil means that it may be.
func (c *Cluster) Halted() error {
	if why := c.apply.stop.Load(); why != nil {
		return notServing(why.err)
	}
	return nil
}

// Watch yields the changes after index from, one set for each entry that
// changed something, and then follows until ctx ends. It ends with [ErrLagged]
// when the node no longer has the changes after from: read [Cluster.State] and
// watch from its index. After a restore it yields one set with Reset.
func (c *Cluster) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return c.apply.changes.watch(ctx, c.stopped, from)
}

// WaitIndex returns the state as soon as this node has applied up to index.
func (c *Cluster) WaitIndex(ctx context.Context, index uint64) (*fsm.State, error) {
	if err := c.apply.waitFor(ctx, index); err != nil {
		return nil, readError(err)
	}
	return c.State(), nil
}

// StrongState returns a state that reflects every write acknowledged, by any
// node, before the call: it asks a quorum.
func (c *Cluster) StrongState(ctx context.Context) (*fsm.State, error) {
	return c.readAt(ctx, c.strong)
}

// LeaderState returns a state that is at least as new as the leader's was,
// without asking a quorum whether that leader is still one.
func (c *Cluster) LeaderState(ctx context.Context) (*fsm.State, error) {
	return c.readAt(ctx, c.weak)
}

// Stale returns the age of this node's state: 0 on a leader, else the time
// since the leader was heard.
func (c *Cluster) Stale() time.Duration {
	if !c.running.Load() {
		return time.Since(c.created)
	}
	if c.actsAsLeader() {
		return 0
	}
	last := c.raft.LastContact()
	if last.IsZero() {
		last = c.created
	}
	return time.Since(last)
}

// readAt waits for a round that begins after now, and then for its index.
func (c *Cluster) readAt(ctx context.Context, r *rounds) (*fsm.State, error) {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultProposeWait)
		defer cancel()
	}
	c.met.readers.Inc()
	n, err := r.join(ctx)
	if err != nil {
		return nil, readError(err)
	}
	if err := c.follow.to(ctx, n); err != nil {
		return nil, readError(err)
	}
	return c.State(), nil
}

// readError makes an ended context an error that says why.
func readError(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return fsm.Errorf(fsm.NoLeader, "cluster", "", "did not confirm the read in time").
			WithHint("a majority of the voters must be up and reach each other; a stale read is answered by any node")
	}
	return err
}

// rounds shares one question to the leader among many readers. A round serves
// only those who came before it began: what was acknowledged before a reader
// came is then in the answer.
type rounds struct {
	ask func(ctx context.Context) (notice, error)
	ctx context.Context
	wg  *tasks

	mu      sync.Mutex
	next    *round
	running bool
}

type round struct {
	done   chan struct{}
	notice notice
	err    error
}

// join waits for a round that begins after the call.
func (r *rounds) join(ctx context.Context) (notice, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &round{done: make(chan struct{})}
	}
	mine := r.next
	if !r.running {
		r.running = r.wg.Go(r.run)
	}
	started := r.running
	r.mu.Unlock()
	if !started {
		return notice{}, errStopped()
	}
	select {
	case <-mine.done:
		return mine.notice, mine.err
	case <-ctx.Done():
		return notice{}, ctx.Err()
	}
}

// run does rounds as long as somebody waits for one.
func (r *rounds) run() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.running = now != nil
		r.mu.Unlock()
		if now == nil {
			return
		}
		now.notice, now.err = r.ask(r.ctx)
		close(now.done)
	}
}

// askLeader puts a question about an index to the leader, whoever that is,
// until the answer comes.
func (c *Cluster) askLeader(ctx context.Context, method string, here func(context.Context) (notice, error)) (notice, error) {
	ctx, cancel := context.WithTimeout(ctx, defaultProposeWait)
	defer cancel()
	for wait := retryWaitMin; ; wait = min(wait*2, retryWaitMax) {
		leader, changed := c.route()
		n, err := notice{}, errNotLeader
		switch leader {
		case "":
		case c.cfg.Name:
			n, err = here(ctx)
		default:
			n, err = c.askNode(ctx, leader, method, changed)
		}
		if err == nil {
			return n, nil
		}
		t := time.NewTimer(wait)
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return notice{}, errors.Join(ctx.Err(), err)
		}
		t.Stop()
	}
}

// askNode asks one node, and stops when the leader changes: one that is frozen
// would never answer.
func (c *Cluster) askNode(ctx context.Context, leader, method string, changed <-chan struct{}) (notice, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.PeerTimeout)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	c.wg.Go(func() {
		for {
			select {
			case <-changed:
				var now string
				if now, changed = c.route(); now != leader {
					cancel()
					return
				}
			case <-over:
				return
			}
		}
	})
	resp, err := c.pool.call(ctx, leader, laneCore, method, nil)
	if err != nil {
		return notice{}, err
	}
	n, err := decodeNotice(resp)
	n.leader = leader
	return n, err
}

func (n notice) encode() []byte {
	return binary.AppendUvarint(binary.AppendUvarint(nil, n.term), n.index)
}

func decodeNotice(b []byte) (n notice, err error) {
	var k, m int
	n.term, k = binary.Uvarint(b)
	if k > 0 {
		n.index, m = binary.Uvarint(b[k:])
	}
	if m <= 0 {
		return n, errBadFrame
	}
	return n, nil
}

// readIndex is the leader's side of a strong read: the commit index, once a
// quorum has said that no newer term exists.
//
// Raft's own VerifyLeader is not enough: it counts the answer to a heartbeat
// that was under way when the question came, so that a leader which was
// paused could count an answer from before the pause. Here every vote of
// confidence is asked for after the reader came.
func (c *Cluster) readIndex(ctx context.Context) (notice, error) {
	term := c.lead.ready.Load()
	if term == 0 || !c.actsAsLeader() {
		return notice{}, errNotLeader
	}
	n := notice{leader: c.cfg.Name, term: term, index: c.raft.CommitIndex()}
	c.met.readRounds.Inc()
	if err := c.confirmTerm(ctx, term); err != nil {
		return notice{}, err
	}
	if c.lead.ready.Load() != term || c.raft.CurrentTerm() != term {
		return notice{}, errNotLeader
	}
	return n, nil
}

// confirmTerm asks the voters for their term and returns nil once a quorum,
// this node included, is at the given one.
func (c *Cluster) confirmTerm(ctx context.Context, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.PeerTimeout)
	defer cancel()
	voters := c.voters()
	need := len(voters)/2 + 1
	terms := make(chan uint64, len(voters))
	asked := 0
	for _, v := range voters {
		if v == c.cfg.Name {
			need--
			continue
		}
		asked++
		ok := c.wg.Go(func() {
			resp, err := c.pool.call(ctx, v, laneCore, methodTerm, nil)
			t, n := binary.Uvarint(resp)
			if err != nil || n <= 0 {
				t = 0
			}
			terms <- t
		})
		if !ok {
			return errStopped()
		}
	}
	for ; need > 0 && asked > 0; asked-- {
		select {
		case t := <-terms:
			if t > term {
				return errNotLeader
			}
			if t == term {
				need--
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if need > 0 {
		return errNotLeader
	}
	return nil
}

// voters lists the voters of the configuration that this node knows.
func (c *Cluster) voters() []string {
	var list []string
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == raft.Voter {
			list = append(list, string(s.ID))
		}
	}
	return list
}

// serveReads registers the leader's side of reads.
func (c *Cluster) serveReads() {
	c.Handle(methodTerm, func(context.Context, []byte) ([]byte, error) {
		return binary.AppendUvarint(nil, c.raft.CurrentTerm()), nil
	})
	c.Handle(methodReadIndex, func(ctx context.Context, _ []byte) ([]byte, error) {
		n, err := c.strongHere.join(ctx)
		if err != nil {
			return nil, errNotLeader
		}
		return n.encode(), nil
	})
	c.Handle(methodApplied, func(ctx context.Context, _ []byte) ([]byte, error) {
		n, err := c.appliedHere(ctx)
		return n.encode(), err
	})
}

func (c *Cluster) appliedHere(context.Context) (notice, error) {
	term := c.lead.ready.Load()
	if term == 0 || !c.actsAsLeader() {
		return notice{}, errNotLeader
	}
	// The state is published, and writes are answered, just before the
	// position follows.
	return notice{leader: c.cfg.Name, term: term, index: max(c.apply.position(), c.State().Index())}, nil
}
