package sim

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
)

// Bug is a fault of the product that is planted around it, to prove that the
// checks see it. No product code knows of them.
type Bug string

// The bugs that can be planted.
const (
	// BugNone is the product as it is.
	BugNone Bug = ""
	// BugLostWrites: disks acknowledge writes that a crash loses.
	BugLostWrites Bug = "writes are lost by a crash"
	// BugStaleRead: a strong read is answered from the node's own state.
	BugStaleRead Bug = "strong reads are local"
	// BugDroppedWrite: now and then a write is acknowledged and not made.
	BugDroppedWrite Bug = "acknowledged writes are dropped"
	// BugForgottenRequest: a retry does not carry its request id.
	BugForgottenRequest Bug = "a retry is another write"
	// BugRefusedApplied: an error says that the write was not made, and it was.
	BugRefusedApplied Bug = "a refused write is applied"
	// BugDoubleLaunch: the reconciler's launches are proposed twice.
	BugDoubleLaunch Bug = "launches are proposed twice"
	// BugAboveMax: the reconciler lifts a group's maximum to launch more.
	BugAboveMax Bug = "launches exceed the maximum"
	// BugNoCooldown: the autoscaler does not see cooldowns.
	BugNoCooldown Bug = "cooldowns are ignored"
	// BugEarlyStart: the agent starts instances before its claim is agreed on.
	BugEarlyStart Bug = "instances start before their claim"
	// BugCorruptRow: a row changes in one node's memory.
	BugCorruptRow Bug = "a row changes in memory"
	// BugOtherSnapshot: a node restores a snapshot that says something else.
	BugOtherSnapshot Bug = "a snapshot says something else"
	// BugLeftOver: what runs on a machine is not ended when its row is.
	BugLeftOver Bug = "instances are not ended"
)

// Bugs lists every bug that can be planted.
func Bugs() []Bug {
	return []Bug{
		BugLostWrites, BugStaleRead, BugDroppedWrite, BugForgottenRequest, BugRefusedApplied, BugDoubleLaunch,
		BugAboveMax, BugNoCooldown, BugEarlyStart, BugCorruptRow, BugOtherSnapshot, BugLeftOver,
	}
}

// portOf is how clients reach a node, and the epoch of its process; nil when
// there is none.
func (w *World) portOf(m *machine) (port, int) {
	c, epoch := m.process()
	if c == nil {
		return nil, epoch
	}
	switch w.opt.Bug {
	case BugStaleRead, BugDroppedWrite, BugRefusedApplied, BugForgottenRequest:
		return &buggyPort{port: c, bug: w.opt.Bug}, epoch
	}
	return c, epoch
}

// buggyPort is a node that treats its clients badly.
type buggyPort struct {
	port
	bug Bug
}

// StrongState implements port.
func (p *buggyPort) StrongState(ctx context.Context) (*fsm.State, error) {
	if p.bug == BugStaleRead {
		return p.State(), nil
	}
	return p.port.StrongState(ctx)
}

// Propose implements port.
func (p *buggyPort) Propose(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	unlucky := rand.IntN(200) == 0
	switch {
	case p.bug == BugDroppedWrite && unlucky:
		return fsm.Result{Index: p.State().Index()}, nil
	case p.bug == BugRefusedApplied && unlucky:
		_, _ = p.port.Propose(ctx, c)
		return fsm.Result{}, fsm.Errorf(fsm.NoLeader, "cluster", "", "planted")
	case p.bug == BugForgottenRequest && rand.IntN(4) == 0:
		// The answer is lost, so that the client asks again.
		_, _ = p.port.Propose(ctx, c)
		return fsm.Result{}, fsm.Errorf(fsm.UnknownOutcome, "command", "", "planted")
	}
	return p.port.Propose(ctx, c)
}

// wrap is what the loops and the agent of a node get for their cluster.
func (m *machine) wrap(c node.Cluster) node.Cluster {
	switch m.w.opt.Bug {
	case BugDoubleLaunch, BugAboveMax:
		return &buggyLeader{Cluster: c, bug: m.w.opt.Bug}
	case BugNoCooldown:
		return &hasty{Cluster: c}
	case BugEarlyStart:
		return &eager{Cluster: c, claimed: map[string]bool{}}
	}
	return c
}

// buggyLeader proposes too much.
type buggyLeader struct {
	node.Cluster
	bug Bug
}

// Propose implements [scaling.Cluster].
func (b *buggyLeader) Propose(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	l, ok := c.(fsm.LaunchInstances)
	if !ok {
		return b.Cluster.Propose(ctx, c)
	}
	again := l
	again.Launches = nil
	for _, n := range l.Launches {
		again.Launches = append(again.Launches, fsm.Launch{ID: ulid.Make().String(), Node: n.Node})
	}
	if g, ok := b.State().Groups.Get(l.Group); ok && b.bug == BugAboveMax {
		lifted := *g
		lifted.MaxSize += 2 * len(l.Launches)
		_, _ = b.Cluster.Propose(ctx, fsm.PutGroup{Group: lifted})
		defer func() {
			lifted.MaxSize = g.MaxSize
			_, _ = b.Cluster.Propose(ctx, fsm.PutGroup{Group: lifted})
		}()
	}
	_, _ = b.Cluster.Propose(ctx, again)
	return b.Cluster.Propose(ctx, c)
}

// hasty sees policies without their cooldowns.
type hasty struct{ node.Cluster }

// State implements [scaling.Cluster].
func (h *hasty) State() *fsm.State {
	s := h.Cluster.State()
	var list []fsm.Command
	for _, p := range s.Policies.All() {
		q := *p
		q.Cooldown = 0
		list = append(list, fsm.PutPolicy{Policy: q})
	}
	return altered(s, list...)
}

// altered is a state after commands that were never agreed on, at the same
// index.
func altered(s *fsm.State, list ...fsm.Command) *fsm.State {
	e := fsm.Entry{Time: s.Time()}
	for _, c := range list {
		env, err := fsm.Seal(c, "", "")
		if err == nil {
			e.Commands = append(e.Commands, env)
		}
	}
	m := fsm.NewMachine()
	m.Replace(s)
	if _, err := m.Apply([]fsm.LogEntry{{Index: s.Index() + 1, Term: s.Term(), Data: e.Encode()}}); err != nil {
		return s
	}
	return m.State().At(s.Index(), s.Term())
}

// eager shows an agent its claims before they are agreed on.
type eager struct {
	node.Cluster
	mu      sync.Mutex
	claimed map[string]bool
}

// Propose implements [scaling.Cluster].
func (e *eager) Propose(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	r, ok := c.(fsm.ReportInstances)
	if !ok {
		return e.Cluster.Propose(ctx, c)
	}
	e.mu.Lock()
	for _, i := range r.Reports {
		if i.State == fsm.Starting {
			e.claimed[i.ID] = true
		}
	}
	e.mu.Unlock()
	if len(r.Reports) == 1 && r.Reports[0].State == fsm.Starting {
		time.Sleep(12 * time.Second) // the agent looks at everything meanwhile
	}
	return e.Cluster.Propose(ctx, c)
}

// State implements [scaling.Cluster].
func (e *eager) State() *fsm.State {
	s := e.Cluster.State()
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []fsm.Command
	for id := range e.claimed {
		i, ok := s.Instances.Get(id)
		if !ok || i.State != fsm.Planned {
			continue
		}
		if n, ok := s.Nodes.Get(i.Node); ok {
			list = append(list, fsm.ReportInstances{
				Node: i.Node, NodeIncarnation: n.Incarnation, Reports: []fsm.InstanceReport{{ID: id, State: fsm.Starting}},
			})
		}
	}
	if len(list) == 0 {
		return s
	}
	return altered(s, list...)
}
