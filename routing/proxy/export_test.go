package proxy

import (
	"net"
	"time"
)

// Waits shortens the times that no service chooses; 0 leaves one as it is. It
// is called before Run.
func (p *Proxy) Waits(head, warm, drain, relisten time.Duration) {
	for _, w := range []struct {
		to   *time.Duration
		wait time.Duration
	}{{&p.waits.head, head}, {&p.waits.warm, warm}, {&p.waits.drain, drain}, {&p.waits.relisten, relisten}} {
		if w.wait > 0 {
			*w.to = w.wait
		}
	}
}

// WakeEvery shortens the time between two commands that wake a group. It is
// called before Run.
func (p *Proxy) WakeEvery(d time.Duration) { p.waits.wake = d }

// RefusedPause sets the first pause of a request that all instances refuse. It is
// called before Run.
func (p *Proxy) RefusedPause(d time.Duration) { p.waits.refused = d }

// HasPlace reports whether a request that finds no instance may wait.
func (p *Proxy) HasPlace(group string) bool {
	t := p.plan.Load().targets[group]
	turn := t.queue.join(t.room(&t.queue))
	if turn != nil {
		t.queue.leave(turn)
	}
	return turn != nil
}

// StuckAfter shortens the time that a client of HTTP/2 may take nothing.
func (p *Proxy) StuckAfter(d time.Duration) { p.waits.stuck = d }

// Doubts sets the times of a look, as Waits does: until an instance is in doubt,
// for a connection, and for the answer of a node.
func (p *Proxy) Doubts(after, look, ask time.Duration) {
	p.waits.doubt, p.waits.look, p.waits.ask = after, look, ask
}

// Looks is how often a look at a node has found something.
func (p *Proxy) Looks(what string) (n uint64) {
	for k, name := range looksNames {
		if name == what {
			n = p.stats.looks[k].Load()
		}
	}
	return n
}

// ReadInterrupted interrupts a body and reads it then, as an upload does that
// was about to read.
func ReadInterrupted(nc net.Conn) error {
	c := &conn{stream: stream{Conn: nc, clk: clock{time.Now()}}, phase: phaseBody}
	c.clock = c.clk
	c.interruptBody()
	_, err := c.Read(make([]byte, 1))
	return err
}

// PlanIndex is the index of the state that requests are routed by.
func (p *Proxy) PlanIndex() uint64 {
	if pl := p.plan.Load(); pl != nil {
		return pl.index
	}
	return 0
}

// Count is what a proxy has under way.
type Count struct {
	Requests, Instances, Loads, Conns, Counted, Tunnels, Waiting, Idle, Cold int64
}

// Counts adds up what the proxy has under way, over all services.
func (p *Proxy) Counts() (c Count) {
	c.Conns, c.Tunnels = int64(p.conns.len()), p.tunnels.Load()
	p.conns.each(func(k *conn) {
		if k.cold.Load() {
			c.Cold++
		}
	})
	for _, t := range p.plan.Load().targets {
		c.Requests += t.stats.inflight.Load()
		c.Counted += t.conns.Load()
		c.Waiting += t.waiting()
		for _, u := range t.all {
			c.Instances += u.stats.inflight.Load()
			c.Loads += u.load.InFlight()
			u.mu.Lock()
			c.Idle += int64(len(u.idle))
			u.mu.Unlock()
		}
	}
	return c
}

// Event reads a counter of a service.
func (p *Proxy) Event(group, name string) uint64 {
	e := &p.plan.Load().targets[group].events
	return map[string]uint64{
		"retry": e.retries.Load(), "moved": e.moved.Load(), "over_budget": e.noBudget.Load(), "ejection": e.ejections.Load(), "capped": e.ejectionCapped.Load(),
		"queued": e.queued.Load(), "queue_full": e.queueFull.Load(), "queue_timeout": e.queueTimeouts.Load(), "wake": e.wakes.Load(), "client_gone": e.clientGone.Load(),
		"too_large": e.tooLarge.Load(), "upgrade": e.upgrades.Load(), "hedge": e.hedges.Load(), "bad_cookie": e.badCookies.Load(),
	}[name]
}

// Ejected reports how many instances of a group get no requests.
func (p *Proxy) Ejected(group string) (n int) {
	for _, u := range p.plan.Load().targets[group].all {
		if u.ejection.out.Load() {
			n++
		}
	}
	return n
}

// Panics reports whether all instances of a group are used because few are
// usable, and how many are used.
func (p *Proxy) Panics(group string) (bool, int) {
	t := p.plan.Load().targets[group]
	return t.panic, len(t.ups)
}

// Failures is how many attempts at an instance have failed.
func (p *Proxy) Failures(group, id string) uint64 {
	return p.plan.Load().targets[group].all[id].stats.failures.Load()
}

// Answers is how many answers an instance has given.
func (p *Proxy) Answers(group, id string) uint64 {
	return p.plan.Load().targets[group].all[id].stats.requests.Load()
}

// MeanLatency is the mean time until the head of an instance's answer.
func (p *Proxy) MeanLatency(group, id string) time.Duration {
	s := &p.plan.Load().targets[group].all[id].stats
	return time.Duration(s.latencySum.Load() / max(s.requests.Load(), 1))
}

// Steady reports how many instances of a group are not in their slow start.
func (p *Proxy) Steady(group string) (n int) {
	for _, u := range p.plan.Load().targets[group].all {
		if u.since < 0 {
			n++
		}
	}
	return n
}

// Replan makes the next plan, as any part of the proxy may.
func (p *Proxy) Replan() { p.replanNow() }

// Services is how many services are remembered.
func (p *Proxy) Services() int {
	p.planning.Lock()
	defer p.planning.Unlock()
	return len(p.services)
}

// Refuse notes refused connections of all instances of a group at once.
func (p *Proxy) Refuse(group string) {
	t := p.plan.Load().targets[group]
	start, done := make(chan struct{}), make(chan struct{})
	for _, u := range t.all {
		go func() {
			<-start
			p.noteFailure(t, u.instance, true)
			done <- struct{}{}
		}()
	}
	close(start)
	for range t.all {
		<-done
	}
}

// Queue is the queue of requests that wait for an instance.
type Queue = queue

// Join is queue.join.
func (q *Queue) Join(limit int) chan struct{} { return q.join(limit) }

// Leave is queue.leave.
func (q *Queue) Leave(ch chan struct{}) { q.leave(ch) }

// Wake is queue.wake.
func (q *Queue) Wake(n int) { q.wake(n) }

// Bucket is a rate limit.
type Bucket = bucket

// Take is bucket.take.
func (b *Bucket) Take(now time.Duration, perSecond int) (time.Duration, bool) {
	return b.take(now, perSecond)
}

// Budget is the share of requests that may be tried again.
type Budget = budget

// Earn is budget.earn.
func (b *Budget) Earn(percent int) { b.earn(percent) }

// Spend is budget.spend.
func (b *Budget) Spend() bool { return b.spend() }

// BucketOf and UpperBound are those of the histogram.
func BucketOf(d time.Duration) int        { return bucketOf(d) }
func UpperBound(bucket int) time.Duration { return upperBound(bucket) }

// Buckets is how many buckets a histogram has.
const Buckets = numBuckets
