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

// hold lets whoever has found no instance of a service wait, until again finds
// one or says otherwise that it need not wait any more. It is asked at the
// beginning, and when an instance may have become free or known: woken then.
// There may be no instance because the group is starting from nothing, or
// because all are full. A group at size 0 is woken meanwhile.
func (p *Proxy) hold(t *target, again func(woken bool) bool) {
	if p.hopeless(t) {
		return
	}
	ctx, cancel := context.WithTimeout(p.life, t.spec.Timeouts.Queue.Std())
	defer cancel()
	q := &t.queue
	for ctx.Err() == nil {
		turn := q.join(t.spec.Limits.MaxQueue)
		if turn == nil {
			t.events.queueFull.Add(1)
			return
		}
		// Between the pick that found nothing and joining, an instance may
		// have become free.
		if again(false) {
			q.leave(turn)
			return
		}
		t.events.queued.Add(1)
		p.rouse(t.service)
		select {
		case <-turn:
			if again(true) {
				return
			}
		case <-ctx.Done():
			q.leave(turn)
		}
	}
	t.events.queueTimeouts.Add(1)
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
