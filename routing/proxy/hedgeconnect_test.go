//go:build linux

package proxy_test

import (
	"net"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// TestHedgeLoserThatConnects: a copy that has lost before it had a connection
// asks nothing on the one that it gets.
func TestHedgeLoserThatConnects(t *testing.T) {
	f := newFleet(t, hedging(func(s *fsm.Service) { s.Timeouts.Connect = fsm.Duration(patience) }))
	addr, queue := darkUntil(t)
	f.instance("slow", addr)
	f.script("fast", answers(ok))
	c := dial(t, f.addr)
	for n := 0; f.hedges() == 0 && n < 100; n++ {
		c.ask(get).want(t, 200, "ok")
	}
	eventually(t, "the loser alone is under way", func() bool { return f.p.Counts().Instances == 1 })
	l, err := net.FileListener(queue)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan bool)
	go func() {
		defer close(asked)
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				_ = nc.SetReadDeadline(time.Now().Add(2 * patience))
				if n, _ := nc.Read(make([]byte, 1)); n > 0 {
					t.Error("the loser has asked")
					_, _ = nc.Read(make([]byte, 4096))
				}
			}()
		}
	}()
	f.quiet()
	_ = l.Close()
	<-asked
}

// TestHedgeFrozenNode: a copy at an instance that is frozen with its node is
// moved, and not held against the instance.
func TestHedgeFrozenNode(t *testing.T) {
	f := newFleet(t, fsm.Service{Retry: fsm.Retry{HedgeAfter: fsm.Duration(time.Minute), BudgetPercent: 1}}, quickly)
	f.handler("i1", echo)
	f.abroad("n2", f.mute().addr, "i2", f.mute().addr)
	f.crowd(func() bool { return f.p.Event("web", "moved") > 0 && f.p.Ejected("web") == 1 })
	if n := f.p.Failures("web", "i2"); n != 0 {
		t.Errorf("%d failures", n)
	}
}
