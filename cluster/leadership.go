package cluster

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// leaderJob is work that only the leader does.
type leaderJob struct {
	name string
	run  func(ctx context.Context, term uint64) error
}

// leadership runs the leader's work for exactly as long as this node leads.
//
//	follower ──elected──► settling ──own entry applied──► leading
//	    ▲                    │                               │
//	    └────────────────────┴──lost: context ends, jobs end─┘
//
// The work of one term has ended before that of the next begins.
type leadership struct {
	c      *Cluster
	notify chan bool
	jobs   []leaderJob
	// ready is the term in which this node leads and has applied everything
	// of earlier terms, or 0.
	ready atomic.Uint64
}

// WhileLeader has run called each time this node becomes the leader, after it
// has applied everything that earlier leaders committed. The context ends with
// the leadership; term is for fencing. A run that fails or panics is tried
// again with growing pauses. Register before [Cluster.Start].
func (c *Cluster) WhileLeader(name string, run func(ctx context.Context, term uint64) error) {
	c.lead.jobs = append(c.lead.jobs, leaderJob{name, run})
}

// run follows Raft's notifications until ctx ends.
func (l *leadership) run(ctx context.Context) {
	idle := make(chan struct{})
	close(idle)
	end := func() {}
	for {
		select {
		case leads := <-l.notify:
			l.ready.Store(0)
			end()
			l.c.moved.fire()
			if !leads {
				l.c.log.Info("leadership lost")
				continue
			}
			end, idle = l.begin(ctx, idle)
		case <-ctx.Done():
			l.ready.Store(0)
			end()
			<-idle
			return
		}
	}
}

// begin starts a period of leadership, to be ended by end; done is closed when
// its work has ended.
func (l *leadership) begin(ctx context.Context, before <-chan struct{}) (end func(), done chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	done = make(chan struct{})
	if !l.c.wg.Go(func() { l.term(ctx, before, done) }) {
		close(done)
	}
	return cancel, done
}

// term is one period of leadership.
func (l *leadership) term(ctx context.Context, before <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	<-before
	l.c.met.changes.Inc()
	term, err := l.settleIn(ctx)
	if err != nil {
		l.c.log.Warn("leadership was lost before it began", "error", err)
		return
	}
	l.ready.Store(term)
	l.c.moved.fire()
	l.c.log.Info("leading", "term", term, "index", l.c.apply.position())
	finished := make(chan struct{}, len(l.jobs))
	started := 0
	for _, j := range l.jobs {
		if l.c.wg.Go(func() {
			l.keep(ctx, j, term)
			finished <- struct{}{}
		}) {
			started++
		}
	}
	for range started {
		<-finished
	}
}

// settleIn commits an entry of this term and waits until it is applied, and
// with it everything before. The entry is a command without effect and not one
// of Raft's barriers, which the machine never sees: a reader that waits for
// the commit index must find it in the position.
func (l *leadership) settleIn(ctx context.Context) (uint64, error) {
	for wait := retryWaitMin; ; wait = min(wait*2, retryWaitMax) {
		term := l.c.raft.CurrentTerm()
		r, err := l.c.append(ctx, (&fsm.Entry{Time: time.Now()}).Encode())
		if err == nil && r.Term == term && l.c.raft.State() == raft.Leader {
			return term, nil
		}
		if ctx.Err() != nil || l.c.raft.State() != raft.Leader {
			return 0, fmt.Errorf("settling in: %w", orError(err, errNotLeader))
		}
		if !pause(ctx, wait) {
			return 0, ctx.Err()
		}
	}
}

func orError(err, def error) error {
	if err == nil {
		return def
	}
	return err
}

// keep runs a job until it returns without error or leadership ends.
func (l *leadership) keep(ctx context.Context, j leaderJob, term uint64) {
	for wait := retryWaitMax; ; wait = min(wait*2, 50*retryWaitMax) {
		err := l.once(ctx, j, term)
		if err == nil || ctx.Err() != nil {
			return
		}
		l.c.log.Error("the leader's work failed; it will be tried again", "job", j.name, "error", err, "pause", wait)
		if !pause(ctx, wait) {
			return
		}
	}
}

func (l *leadership) once(ctx context.Context, j leaderJob, term uint64) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
		}
	}()
	return j.run(ctx, term)
}

// actsAsLeader reports whether Raft sees this node as the leader and its disk
// lets it act as one.
func (c *Cluster) actsAsLeader() bool {
	return c.running.Load() && !c.trans.mute.Load() && c.raft.State() == raft.Leader
}

// route returns the leader as this node knows it, "" for none, and a channel
// that is closed when that may have changed.
func (c *Cluster) route() (string, <-chan struct{}) {
	changed := c.moved.wait()
	if !c.running.Load() {
		return "", changed
	}
	if hint, ok := c.hint.Load().(leaderHint); ok && c.trans.mute.Load() {
		return hint.name, changed
	}
	_, id := c.raft.LeaderWithID()
	return string(id), changed
}

// leaderHint is a leader that this node's Raft can not know of, because it is
// stuck.
type leaderHint struct{ name string }

// Leader returns the leader's name and where clients reach it.
func (c *Cluster) Leader() (name, apiAddr string, ok bool) {
	name, _ = c.route()
	row, _ := c.dir.get(name)
	return name, row.API, name != ""
}

// TransferLeadership hands leadership over, to the named voter or, with "",
// to the one with the longest log. It may be asked of any node.
func (c *Cluster) TransferLeadership(ctx context.Context, to string) error {
	leader, _ := c.route()
	switch leader {
	case "":
		return errLeaderless()
	case c.cfg.Name:
		return c.transferHere(ctx, to)
	}
	_, err := c.pool.call(ctx, leader, laneCore, methodTransfer, []byte(to))
	return transferError(err)
}

func transferError(err error) error {
	if err == nil || fsm.KindOf(err) != fsm.Internal {
		return err
	}
	return fsm.Errorf(fsm.Unavailable, "leadership", "", "was not transferred: %v", err).
		WithHint("retry; the target must be a living voter")
}

func (c *Cluster) transferHere(ctx context.Context, to string) error {
	voters := c.voters()
	if len(voters) == 1 {
		return fsm.Errorf(fsm.Conflict, "leadership", "", "can not be transferred: there is one voter only")
	}
	var f raft.Future
	switch {
	case to == "":
		f = c.raft.LeadershipTransfer()
	case to == c.cfg.Name:
		return nil
	default:
		addr, known := c.dir.addr(to)
		if !known || !contains(voters, to) {
			return fsm.Errorf(fsm.NotFound, "voter", to, "does not exist").WithHint("see `paceline cluster status` for the voters")
		}
		f = c.raft.LeadershipTransferToServer(raft.ServerID(to), raft.ServerAddress(addr))
	}
	return transferError(c.await(ctx, f))
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
