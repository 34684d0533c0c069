package proxy_test

import (
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// A process that has been launched does not listen yet. What it refuses, and so
// has nothing of, waits for it, whatever the method and however the body comes.
func TestNobodyListensYet(t *testing.T) {
	f := newFleet(t, fsm.Service{Retry: fsm.Retry{Attempts: 1}})
	addr := refusing(t)
	f.instance("i1", addr)
	requests := []string{
		get, post("hi"), "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
	}
	replies := make(chan reply, len(requests))
	for _, r := range requests {
		go func() { replies <- f.ask(r) }()
	}
	f.waits(int64(len(requests)))
	listenAt(t, addr, answers(ok), f.stop)
	for range requests {
		r := <-replies
		r.want(t, 200, "*")
	}
	if n := f.p.Event("web", "queued"); n != uint64(len(requests)) {
		t.Errorf("%d requests have waited, by their count", n)
	}
}

// The same for a TCP connection.
func TestNobodyTakesTCPYet(t *testing.T) {
	port, front := tcpPort(t)
	f := newFleet(t, fsm.Service{Listeners: []fsm.Listener{{Port: port, Protocol: fsm.ProtocolTCP}}})
	addr := refusing(t)
	f.instance("i1", addr)
	c := dial(t, front)
	f.waits(1)
	listenAt(t, addr, func(c *rawConn) { c.say("hello") }, f.stop)
	c.expect("hello")
	c.Close()
}

// A new session whose only instance does not listen yet keeps its place there.
func TestSessionOfNobodyYet(t *testing.T) {
	f := newSessionFleet(t, fsm.Service{Stickiness: sticky})
	addr := refusing(t)
	f.instance("i1", addr)
	replies := f.askAll(1)
	f.waits(1)
	listenAt(t, addr, answers(ok), f.stop)
	r := <-replies
	if r.want(t, 200, "*"); len(r.Cookies()) != 1 {
		t.Fatalf("no cookie: %v", r.Header)
	}
	if row, known := f.State().Session("web", ticket(t, r.Cookies()[0].Value).Session); !known || row.Instance != "i1" {
		t.Errorf("the session is at %+v", row)
	}
}

// The wait is bounded in time and in attempts: those that are refused again do
// not wake one another.
func TestRefusedIsBounded(t *testing.T) {
	const n = 20
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Second)}, Retry: fsm.Retry{Attempts: 1}})
	f.instance("i1", refusing(t))
	replies := f.askAll(n)
	for range n {
		r := <-replies
		if r.want(t, 502, "*"); r.Header.Get("Retry-After") != "1" {
			t.Errorf("got %v", r.Header)
		}
	}
	if q := f.p.Event("web", "queue_timeout"); q != n {
		t.Errorf("%d timeouts", q)
	}
	// The first, after 20, 40, 80, 160 and 320 ms, and at the end.
	if asked := f.p.Failures("web", "i1"); asked > 7*n {
		t.Errorf("the instance was asked %d times", asked)
	}
}

// withRefusedPause sets the first pause of what was refused.
func withRefusedPause(d time.Duration) option {
	return func(_ *proxy.Config, start *func(*proxy.Proxy)) {
		then := *start
		*start = func(p *proxy.Proxy) {
			then(p)
			p.RefusedPause(d)
		}
	}
}

// One that gets a connection lets all others try at once.
func TestRefusedAreWoken(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)}}, withRefusedPause(time.Hour))
	addr := refusing(t)
	f.instance("i1", addr)
	const n = 5
	replies := f.askAll(n)
	f.waits(n)
	listenAt(t, addr, answers(ok), f.stop)
	f.ask(get).want(t, 200, "ok")
	for range n {
		r := <-replies
		r.want(t, 200, "ok")
	}
}

// No more wait than may, for whatever reason.
func TestRefusedQueueIsFull(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Limits: fsm.ServiceLimits{MaxQueue: 1}, Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)},
	}, withRefusedPause(time.Hour))
	addr := refusing(t)
	f.instance("i1", addr)
	if !f.p.HasPlace("web") {
		t.Fatal("an empty queue is full")
	}
	replies := f.askAll(1)
	f.waits(1)
	f.ask(get).want(t, 502, "*")
	if full := f.p.Event("web", "queue_full"); full != 1 || f.p.HasPlace("web") {
		t.Errorf("it was full %d times, and what found no instance may wait as well", full)
	}
	listenAt(t, addr, answers(ok), f.stop)
	f.ask(get).want(t, 200, "ok")
	r := <-replies
	r.want(t, 200, "ok")
}

// A service that is taken away is not waited for.
func TestServiceGoesWhileRefused(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)}})
	f.instance("i1", refusing(t))
	replies := f.askAll(1)
	f.waits(1)
	f.Group("web", nil)
	r := <-replies
	r.want(t, 502, "*")
}

// What an instance may have acted on is not sent again for as long as the others
// refuse: it would reach each instance that comes back.
func TestWorkedOnIsNotOutlasted(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)}, Retry: fsm.Retry{BudgetPercent: 100},
		Balancer: fsm.Balancer{Policy: fsm.BalanceRandom}, Health: fsm.ServiceHealth{MaxEjectedPercent: new(int)},
	}, withRefusedPause(time.Millisecond))
	poisoned := f.script("i1", func(c *rawConn) { c.head(); c.reset() })
	f.instance("i2", refusing(t))
	const n = 20 // sometimes one is first, sometimes the other
	for range n {
		f.ask(get).want(t, 502, "*")
	}
	if sent := poisoned.conns.Load(); sent != n {
		t.Errorf("%d requests were sent %d times", n, sent)
	}
}

// One that some refuse while the others are full waits as well.
func TestRefusedOrFull(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)}, Retry: fsm.Retry{BudgetPercent: 100},
		Limits: fsm.ServiceLimits{MaxInFlightPerInstance: 1}, Health: fsm.ServiceHealth{MaxEjectedPercent: new(int)},
	})
	release := make(chan bool)
	f.script("i1", func(c *rawConn) {
		for c.head() != "" {
			<-release
			c.say(ok)
		}
	})
	f.instance("i2", refusing(t))
	const n = 4
	replies := f.askAll(n)
	f.waits(n - 1)
	for range n {
		release <- true
		r := <-replies
		r.want(t, 200, "ok")
	}
}

// Of a group that is to have no instances nothing is waited for, also not for the
// last one that a session lived on.
func TestRefusedByTheLast(t *testing.T) {
	f := newStickyFleet(t, sticky, func(s *fsm.Service) {
		s.Timeouts.Queue, s.Health.MaxEjectedPercent = fsm.Duration(time.Hour), new(int)
	})
	addr := refusing(t)
	cookie, _ := f.atE(func() { f.instance("e", addr) })
	f.Drain("e", fsm.Unknown)
	for _, id := range []string{"b", "c", "d"} {
		f.Report(id, fsm.Failed, "")
	}
	g, _ := f.State().Groups.Get("web")
	shut := *g
	shut.MinSize, shut.Desired, shut.MaxSize = 0, 0, 0
	f.Must(fsm.PutGroup{Group: shut})
	f.sync()
	r, _ := f.visit(cookie)
	r.want(t, 503, "*")
}
