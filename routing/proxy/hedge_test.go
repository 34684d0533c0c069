package proxy_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pacelinehq/paceline/fsm"
)

// hedges reads how many second copies were sent.
func (f *fleet) hedges() uint64 { return f.p.Event("web", "hedge") }

// TestHedge: a request whose instance is slow gets its answer from another,
// once, and the slow one's answer is nobody's.
func TestHedge(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Balancer: fsm.Balancer{Policy: fsm.BalanceRoundRobin},
		Retry:    fsm.Retry{HedgeAfter: fsm.Duration(20 * time.Millisecond), BudgetPercent: 100},
	})
	slow := f.script("slow", func(c *rawConn) { // answers when it was not left alone for a while
		for c.head() != "" {
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if n, _ := c.Read(make([]byte, 1)); n > 0 {
				return
			}
			_ = c.SetReadDeadline(time.Time{})
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
		}
	})
	f.script("fast", answers(ok))
	c := dial(t, f.addr)
	for range 20 {
		c.ask(get).want(t, 200, "ok")
	}
	if f.hedges() == 0 || slow.conns.Load() == 0 {
		t.Fatalf("%d hedges, %d connections to the slow instance", f.hedges(), slow.conns.Load())
	}
	// What may not be repeated, or changes something, is not sent twice.
	before := f.hedges()
	for _, method := range []string{"POST", "DELETE", "PUT"} {
		for range 2 {
			c.ask(method+" / HTTP/1.1\r\nHost: a.test\r\n\r\n").want(t, 200, "*")
		}
	}
	if n := f.hedges() - before; n != 0 {
		t.Errorf("%d copies of requests that change something were sent", n)
	}
	if n := testutil.CollectAndCount(f.metrics); n == 0 {
		t.Error("no metrics")
	}
}

// TestHedgeFails: whichever copy fails, the other one's answer counts; when
// both do, the client hears of it once.
func TestHedgeFails(t *testing.T) {
	service := fsm.Service{
		Balancer: fsm.Balancer{Policy: fsm.BalanceRoundRobin},
		Retry:    fsm.Retry{HedgeAfter: fsm.Duration(10 * time.Millisecond), BudgetPercent: 100, Attempts: 1},
		Health:   fsm.ServiceHealth{ConsecutiveFailures: 1000},
	}
	hang := func(c *rawConn) { // breaks off once the other copy is there, or has gone
		c.head()
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = c.Read(make([]byte, 1))
		c.reset()
	}
	t.Run("one", func(t *testing.T) {
		f := newFleet(t, service)
		f.script("bad", hang)
		f.script("good", answers(ok))
		for range 10 {
			f.ask(get).want(t, 200, "ok")
		}
	})
	t.Run("both", func(t *testing.T) {
		f := newFleet(t, service)
		f.script("bad1", hang)
		f.script("bad2", hang)
		c := dial(t, f.addr)
		for range 5 {
			c.ask(get).want(t, 502, "*")
		}
		if f.hedges() == 0 {
			t.Error("nothing was hedged")
		}
	})
}

// TestHedgeSticky: a session's request has no second copy, however late the
// answer of its instance is.
func TestHedgeSticky(t *testing.T) {
	for _, strategy := range []string{fsm.StickyTable, fsm.StickyHash} {
		t.Run(strategy, func(t *testing.T) { hedgeSticky(t, strategy) })
	}
}

func hedgeSticky(t *testing.T, strategy string) {
	f := newStickyFleet(t, fsm.Stickiness{Strategy: strategy}, func(s *fsm.Service) {
		s.Retry = fsm.Retry{HedgeAfter: fsm.Duration(time.Millisecond), BudgetPercent: 100}
	})
	for _, id := range []string{"e", "f"} {
		f.script(id, func(c *rawConn) {
			for c.head() != "" {
				_ = c.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
				_, _ = c.Read(make([]byte, 1)) // nothing comes: time passes
				_ = c.SetReadDeadline(time.Time{})
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")
			}
		})
	}
	late := 0
	for range 10 {
		at, cookie := f.first()
		f.stays(cookie, at)
		if at == "late" {
			late++
		}
	}
	if late == 0 {
		t.Error("no session was at a slow instance")
	}
	if n := f.hedges(); n != 0 {
		t.Errorf("%d copies were sent", n)
	}
}
