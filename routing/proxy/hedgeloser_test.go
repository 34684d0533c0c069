package proxy_test

import (
	"fmt"
	"io"
	"net/http/httputil"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// hedging is a service whose requests have a second copy soon.
func hedging(change ...func(*fsm.Service)) fsm.Service {
	s := fsm.Service{
		Balancer: fsm.Balancer{Policy: fsm.BalanceRoundRobin},
		Retry:    fsm.Retry{HedgeAfter: fsm.Duration(time.Millisecond), BudgetPercent: 100, Attempts: 1},
		Health:   fsm.ServiceHealth{ConsecutiveFailures: 1000},
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

// later answers when nothing has come for a while.
func later(c *rawConn) {
	for c.head() != "" {
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetReadDeadline(time.Time{})
		c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
	}
}

// tillEnd takes a request and waits until the connection is closed.
func tillEnd(c *rawConn) {
	if c.head() != "" {
		_, _ = c.Read(make([]byte, 1))
	}
}

// TestHedgeLoserIsEnded: the copy that lost is ended at once; its instance
// would take as long as it likes.
func TestHedgeLoserIsEnded(t *testing.T) {
	f := newFleet(t, hedging())
	f.script("slow", tillEnd)
	f.script("fast", answers(ok))
	c := dial(t, f.addr)
	for range 10 {
		c.ask(get).want(t, 200, "ok")
	}
	f.quiet()
	if f.hedges() == 0 {
		t.Error("nothing was hedged")
	}
}

// TestHedgeLoserIsNotSentAgain: that its connection, which was used before, has
// ended is no reason to send it on another one.
func TestHedgeLoserIsNotSentAgain(t *testing.T) {
	f := newFleet(t, hedging())
	slow := f.script("slow", func(c *rawConn) {
		if c.n == 1 && c.head() != "" {
			c.say(ok)
		}
		tillEnd(c)
	})
	c := dial(t, f.addr)
	c.ask(get).want(t, 200, "ok")
	eventually(t, "it is idle", func() bool { return f.p.Counts().Idle == 1 })
	f.script("fast", answers(ok))
	for n := 0; f.hedges() == 0 && n < 100; n++ {
		c.ask(get).want(t, 200, "ok")
	}
	hedged := f.hedges()
	f.stop()
	if hedged == 0 {
		t.Error("nothing was hedged")
	}
	if n := slow.conns.Load(); n != 1 {
		t.Errorf("%d connections to the slow instance, want 1", n)
	}
}

// TestHedgeBothAnswer: one answer is the client's, and the other one nobody's,
// in this request and in all that follow.
func TestHedgeBothAnswer(t *testing.T) {
	f := newFleet(t, hedging())
	var mu sync.Mutex
	first := map[string]chan struct{}{}
	both := func(c *rawConn) {
		for {
			line, _, _ := strings.Cut(c.head(), " HTTP/1.1")
			if line == "" {
				return
			}
			mu.Lock()
			other := first[line]
			if other == nil {
				first[line] = make(chan struct{})
				other = first[line]
			} else {
				close(other)
			}
			mu.Unlock()
			select {
			case <-other:
			case <-c.over:
			}
			c.say(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(line), line))
		}
	}
	f.script("i1", both)
	f.script("i2", both)
	c := dial(t, f.addr)
	for n := range 80 {
		line := fmt.Sprintf("GET /%d", n)
		c.ask(line+" HTTP/1.1\r\nHost: a.test\r\n\r\n").want(t, 200, line)
	}
	f.quiet()
	if n := f.hedges(); n != 80 {
		t.Errorf("%d requests of 80 were hedged", n)
	}
}

// TestHedgeAlone: without another instance there is no second copy.
func TestHedgeAlone(t *testing.T) {
	f := newFleet(t, hedging())
	f.script("slow", later)
	for range 3 {
		f.ask(get).want(t, 200, "late")
	}
	if n := f.hedges(); n != 0 {
		t.Errorf("%d copies were sent to the instance that has the request", n)
	}
}

// TestHedgeBudget: second copies are retries, and a budget bounds them.
func TestHedgeBudget(t *testing.T) {
	f := newFleet(t, hedging(func(s *fsm.Service) { s.Retry.BudgetPercent = 1 }))
	var asked atomic.Uint64
	decided := func(c *rawConn) { // answers when it is known whether there is a second copy
		for c.head() != "" {
			for f.hedges()+f.p.Event("web", "over_budget") < asked.Load() {
				_ = c.SetReadDeadline(time.Now().Add(time.Millisecond))
				_, _ = c.Read(make([]byte, 1))
			}
			_ = c.SetReadDeadline(time.Time{})
			c.say(ok)
		}
	}
	f.script("slow1", decided)
	f.script("slow2", decided)
	c := dial(t, f.addr)
	for range 15 {
		asked.Add(1)
		c.ask(get).want(t, 200, "ok")
	}
	f.quiet()
	if n, over := f.hedges(), f.p.Event("web", "over_budget"); n != 10 || over != 5 {
		t.Errorf("%d copies were sent, %d were not, want 10 and 5", n, over)
	}
}

// TestHedgeNever: what has a body, or becomes another protocol, has no second
// copy, and reaches its instance whole.
func TestHedgeNever(t *testing.T) {
	f := newFleet(t, hedging())
	for _, id := range []string{"slow1", "slow2"} {
		f.script(id, func(c *rawConn) {
			head := c.head()
			if strings.Contains(head, "Upgrade: websocket") {
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				_, _ = c.Read(make([]byte, 1))
				c.say(switched + "bye")
				return
			}
			var from io.Reader = c.r
			if strings.Contains(head, "chunked") {
				from = httputil.NewChunkedReader(c.r)
			}
			body := make([]byte, 5)
			_, _ = io.ReadFull(from, body)
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
			_, _ = c.Read(make([]byte, 1))
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n" + string(body))
		})
	}
	f.ask("GET / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello").want(t, 200, "hello")
	f.ask("GET / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").want(t, 200, "hello")
	c := dial(t, f.addr)
	c.send(upgrade)
	c.expect(switched + "bye")
	if n := f.hedges(); n != 0 {
		t.Errorf("%d copies were sent", n)
	}
}

// TestHedgeBadAnswer: a copy that fails is noted, and its connection closed;
// the other one is the answer.
func TestHedgeBadAnswer(t *testing.T) {
	f := newFleet(t, hedging())
	closed := make(chan struct{}, 100)
	f.script("bad", func(c *rawConn) {
		c.head()
		_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
		_ = c.SetReadDeadline(time.Time{})
		c.say("nonsense\r\n\r\n")
		_, _ = c.Read(make([]byte, 1))
		closed <- struct{}{}
	})
	f.script("slower", func(c *rawConn) {
		for c.head() != "" {
			select {
			case <-closed:
			case <-c.over:
			}
			c.say(ok)
		}
	})
	noted := func() bool { return f.p.Failures("web", "bad") > 0 }
	for n := 0; !noted() && n < 20; n++ {
		f.ask(get).want(t, 200, "ok")
	}
	if !noted() {
		t.Error("no failure is noted")
	}
	if n := f.p.Failures("web", "slower"); n != 0 {
		t.Errorf("%d failures of the good instance", n)
	}
}

// TestHedgeStale: a copy that meets a connection which the instance has closed
// is sent on a fresh one.
func TestHedgeStale(t *testing.T) {
	f := newFleet(t, hedging(func(s *fsm.Service) { s.Retry.HedgeAfter = fsm.Duration(time.Minute) }))
	i := f.script("i1", func(c *rawConn) {
		if c.head() != "" {
			c.say(ok)
		}
		if c.n == 1 {
			c.head()
			return
		}
		answers(ok)(c)
	})
	c := dial(t, f.addr)
	c.ask(get).want(t, 200, "ok")
	eventually(t, "it is idle", func() bool { return f.p.Counts().Idle == 1 })
	c.ask(get).want(t, 200, "ok")
	f.quiet()
	if n := i.conns.Load(); n != 2 {
		t.Errorf("%d connections, want 2", n)
	}
}

// TestHedgeLatency: an instance is measured from when its own copy was sent.
func TestHedgeLatency(t *testing.T) {
	f := newFleet(t, hedging(func(s *fsm.Service) { s.Retry.HedgeAfter = fsm.Duration(time.Minute) }))
	f.script("i1", answers(ok))
	began := time.Now()
	f.ask(get).want(t, 200, "ok")
	if took, all := f.p.MeanLatency("web", "i1"), time.Since(began); took > all {
		t.Errorf("the answer took %s of the %s of the request", took, all)
	}
}

// TestHedgeRefused: a copy that gets no connection is one attempt, as any other.
func TestHedgeRefused(t *testing.T) {
	f := newFleet(t, hedging(func(s *fsm.Service) {
		s.Retry.HedgeAfter, s.Retry.Attempts = fsm.Duration(time.Minute), 2
	}))
	f.instance("bad", refusing(t))
	f.script("good", answers(ok))
	for n := 0; f.p.Failures("web", "bad") == 0 && n < 100; n++ {
		f.ask(get).want(t, 200, "ok")
	}
	f.quiet()
	if n := f.p.Failures("web", "bad"); n != 1 {
		t.Errorf("%d failures, want 1", n)
	}
}

// TestHedgeTimeout: an answer is not waited for longer than the service says.
func TestHedgeTimeout(t *testing.T) {
	f := newFleet(t, hedging(func(s *fsm.Service) { s.Timeouts.Request = fsm.Duration(100 * time.Millisecond) }))
	f.script("slow1", tillEnd)
	f.script("slow2", tillEnd)
	f.ask(get).want(t, 504, "*")
}
