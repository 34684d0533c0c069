package proxy

import (
	"context"

	"github.com/pacelinehq/paceline/fsm"
)

// Proposer is what the proxy needs of the cluster to wake a group.
type Proposer interface {
	// Propose applies a command and returns when the local state shows it.
	Propose(ctx context.Context, c fsm.Command) (fsm.Result, error)
}

// hopeless reports whether waiting for an instance is of no use: there is
// none, and the group is to have none.
func (p *Proxy) hopeless(t *target) bool {
	if t.set.Len() > 0 {
		return false
	}
	g, ok := p.cfg.Cluster.State().Groups.Get(t.group)
	return ok && g.Closed()
}

// asleep reports whether a group has to be woken before it has instances. The
// plan does not say so: it is not made anew for a change of size.
func (p *Proxy) asleep(group string) bool {
	g, ok := p.cfg.Cluster.State().Groups.Get(group)
	return ok && g.Asleep()
}

// rouse asks the janitor to wake a group that a request waits for. When it has
// its hands full, its next pass finds the group by those who wait.
func (p *Proxy) rouse(s *service) {
	if p.cfg.Proposer == nil || !p.asleep(s.group) {
		return
	}
	select {
	case p.sleeping <- s:
	default:
	}
}

// wakeGroup asks the cluster to start a group that requests wait for, with one
// command for all of them and again after a while as long as the group sleeps.
// It is the janitor's.
func (p *Proxy) wakeGroup(s *service) {
	now := p.clock.now()
	if p.cfg.Proposer == nil || s.queue.waiting.Load() == 0 || now < s.wakeAfter || !p.asleep(s.group) {
		return
	}
	if s.waking.Load() {
		return
	}
	select {
	case p.wakings <- struct{}{}:
	default: // too many under way; the next pass tries again
		return
	}
	s.waking.Store(true)
	s.wakeAfter = now + p.waits.wake
	s.events.wakes.Add(1)
	p.wg.Go(func() {
		defer func() {
			s.waking.Store(false)
			<-p.wakings
		}()
		ctx, cancel := context.WithTimeout(fsm.WithActor(p.life, "proxy"), wakeTimeout)
		defer cancel()
		_, err := p.cfg.Proposer.Propose(ctx, fsm.WakeGroup{Group: s.group})
		if err != nil && p.life.Err() == nil {
			p.log.Warn("a group that requests wait for could not be woken; it is tried again", "group", s.group, "err", err)
		}
	})
}
