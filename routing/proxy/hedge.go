package proxy

import (
	"bytes"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// hedged reports whether the request may have a second copy: it changes nothing,
// has no body, and any instance can answer it, which knows nothing of another's
// sessions.
func (x *exchange) hedged() bool {
	if x.t.spec.Retry.HedgeAfter == 0 || x.retries > 0 || !x.replay || len(x.w.body) > 0 || len(x.upgrade()) > 0 {
		return false
	}
	switch x.t.spec.Stickiness.Strategy {
	case fsm.StickyTable, fsm.StickyHash:
		return false
	}
	switch string(x.w.req.Method) {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return true
	}
	return false
}

// firstAttempt is the first attempt of a request, which a second copy may join
// when the service hedges and the answer is late (Dean, Barroso: The Tail at
// Scale). It returns the instance that the answer, or the failure, is of.
func (x *exchange) firstAttempt(k int, u *upstream) (int, *upstream, *upConn, *failure) {
	if !x.hedged() {
		c, fail := x.attempt(u, false)
		return k, u, c, fail
	}
	done := make(chan *shot, 2)
	x.w.up = x.appendHead(x.w.up[:0])
	first := x.shoot(k, u, done)
	timer := time.NewTimer(x.t.spec.Retry.HedgeAfter.Std())
	defer timer.Stop()
	var second *shot
	select {
	case s := <-done:
		return x.take(s)
	case <-timer.C:
		second = x.second(k, done)
	}
	s := <-done
	if second == nil {
		return x.take(s)
	}
	if s.fail != nil { // the other one may do better
		x.worked = x.worked || !s.fail.refused
		if s.fail.blames() {
			x.from.p.noteFailure(x.t, s.u.instance, s.fail.refused)
		}
		return x.take(<-done)
	}
	loser := first
	if s == first {
		loser = second
	}
	loser.give(done)
	return x.take(s)
}

// take makes a copy's attempt the request's.
func (x *exchange) take(s *shot) (int, *upstream, *upConn, *failure) {
	x.attemptAt = s.began
	return s.k, s.u, s.c, s.fail
}

// second sends another copy to another instance, if there is one and the
// budget allows it.
func (x *exchange) second(k int, done chan<- *shot) *shot {
	x.w.pick.Tried = append(x.w.pick.Tried, int32(k))
	k2, u2 := x.t.pick(&x.w.pick)
	if u2 == nil {
		return nil
	}
	if !x.t.budget.spend() {
		x.t.release(u2.instance, x.from.now(), unknownLatency)
		x.t.events.noBudget.Add(1)
		return nil
	}
	x.t.events.hedges.Add(1)
	return x.shoot(k2, u2, done)
}

// shot is one of two copies of a request that race for an answer. It shares
// nothing with the exchange that the client's next request could change.
type shot struct {
	k      int
	u      *upstream
	t      *target
	p      *Proxy
	head   []byte
	method []byte
	conn   atomic.Pointer[upConn]
	lost   atomic.Bool

	began time.Duration // of the attempt that counts
	c     *upConn
	fail  *failure
}

func (x *exchange) shoot(k int, u *upstream, done chan<- *shot) *shot {
	s := &shot{k: k, u: u, t: x.t, p: x.from.p, head: bytes.Clone(x.w.up), method: bytes.Clone(x.w.req.Method)}
	go func() {
		if s.c, s.fail = s.fire(false); s.fail != nil && s.fail.stale && !s.lost.Load() {
			s.t.claim(s.u.instance)
			s.c, s.fail = s.fire(true)
		}
		done <- s
	}()
	return s
}

// fire sends the copy and reads the head of the answer.
func (s *shot) fire(fresh bool) (*upConn, *failure) {
	spec := &s.t.spec
	s.began = s.p.clock.now()
	c, err := s.t.connect(s.p, s.u, fresh)
	if err != nil {
		s.t.release(s.u.instance, s.began, unknownLatency)
		return nil, noConnection(err)
	}
	s.conn.Store(c)
	if s.lost.Load() {
		_ = c.Close()
	}
	now := s.p.clock.now()
	c.writeIn(now, spec.Timeouts.Stall.Std())
	c.readIn(now, s.t.answerWait())
	c.await(now, true)
	fail := s.ask(c)
	if !c.awaited() {
		fail = &failure{err: errSilent, moved: true}
	}
	if fail != nil {
		s.drop(c)
		return nil, fail
	}
	return c, nil
}

func (s *shot) ask(c *upConn) *failure {
	if _, err := c.Conn.Write(s.head); err != nil {
		return &failure{err: err, stale: c.used}
	}
	return c.answerHead(s.method, func() error { return nil }) // interim answers of a race are nobody's
}

func (s *shot) drop(c *upConn) {
	_ = c.Close()
	now := s.p.clock.now()
	s.t.release(s.u.instance, now, now-s.began)
}

// give ends a copy that has lost the race, whatever it is at.
func (s *shot) give(done <-chan *shot) {
	s.lost.Store(true)
	if c := s.conn.Load(); c != nil {
		_ = c.Close()
	}
	s.p.wg.Go(func() {
		if <-done; s.c != nil {
			s.drop(s.c)
		}
	})
}
