package proxy_test

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// An answer that is none, and what the client sees of it.
func TestBadAnswers(t *testing.T) {
	timeouts := fsm.Timeouts{Request: fsm.Duration(50 * time.Millisecond), Stall: fsm.Duration(50 * time.Millisecond)}
	for _, tt := range []struct {
		name, request string
		instance      func(*rawConn)
		status        int
		cut           bool
	}{
		{"no http", get, func(c *rawConn) { c.head(); c.say("hello\r\n\r\n") }, 502, false},
		{"two lengths", get, func(c *rawConn) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na")
		}, 502, false},
		{"head cut", get, func(c *rawConn) { c.head(); c.say("HTTP/1.1 200 OK\r\nContent-") }, 502, false},
		{"head too large", get, func(c *rawConn) { c.head(); c.say("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 70_000) + "\r\n\r\n") }, 502, false},
		{"closed", get, func(c *rawConn) { c.head() }, 502, false},
		{"reset", get, func(c *rawConn) { c.head(); c.reset() }, 502, false},
		{"slow head", get, func(c *rawConn) { c.head(); c.head() }, 504, false},
		{"too many interim", get, func(c *rawConn) { c.head(); c.say(strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 99) + ok) }, 502, false},
		{"unasked upgrade", get, func(c *rawConn) {
			c.head()
			c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + ok)
		}, 502, false},
		{"body cut", get, func(c *rawConn) { c.head(); c.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc") }, 200, true},
		{"large body cut", get, func(c *rawConn) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n" + strings.Repeat("x", 300_000))
		}, 200, true},
		{"chunks cut", get, func(c *rawConn) { c.head(); c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n") }, 200, true},
		{"bad chunks", get, func(c *rawConn) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n")
		}, 502, true},
		{"chunks cut for HTTP/1.0", "GET / HTTP/1.0\r\n\r\n", func(c *rawConn) {
			c.head()
			c.say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
		}, 200, true},
		{"until close, reset", get, func(c *rawConn) { c.head(); c.say("HTTP/1.1 200 OK\r\n\r\nabc"); c.head(); c.reset() }, 200, true},
		{"body stalls", get, func(c *rawConn) { c.head(); c.say("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"); c.head() }, 200, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{Timeouts: timeouts, Retry: fsm.Retry{Attempts: 1}})
			f.script("i1", tt.instance)
			c := dial(t, f.addr)
			r := c.ask(tt.request)
			for r.StatusCode < 200 {
				r = c.read("GET")
			}
			if r.StatusCode != tt.status || tt.cut != (r.err != nil) && r.StatusCode != 502 {
				t.Fatalf("got %d %q, %v", r.StatusCode, r.body, r.err)
			}
			if tt.cut {
				c.Close()
				return
			}
			// The client's connection is in order.
			f.Report("i1", "", fsm.Unhealthy)
			f.script("i2", answers(ok))
			c.ask(get).want(t, 200, "ok")
		})
	}
}

// What is sent again, and what never is.
func TestRetries(t *testing.T) {
	busy := "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy"
	dies := func(c *rawConn) { c.head(); c.reset() }
	says503 := func(c *rawConn) { c.head(); c.say(busy); c.head() }
	put := "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\nhi"
	large := "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20_000)
	for _, tt := range []struct {
		name, request string
		first         func(*rawConn)
		retry         fsm.Retry
		status        int
		body          string
		retries       uint64
	}{
		{"get, reset", get, dies, fsm.Retry{}, 200, "ok", 1},
		{"put, reset", put, dies, fsm.Retry{}, 200, "ok", 1},
		{"post, reset", post("hi"), dies, fsm.Retry{}, 502, "*", 0},
		{"large put, reset", large, dies, fsm.Retry{}, 502, "*", 0},
		{"retries off", get, dies, fsm.Retry{Attempts: 1}, 502, "*", 0},
		{"get, 503", get, says503, fsm.Retry{}, 200, "ok", 1},
		{"post, 503", post("hi"), says503, fsm.Retry{}, 503, "busy", 0},
		{"get, 503 not named", get, says503, fsm.Retry{Statuses: []int{502}}, 503, "busy", 0},
		{"get, slow", get, func(c *rawConn) { c.head(); c.head() }, fsm.Retry{PerTryTimeout: fsm.Duration(30 * time.Millisecond)}, 200, "ok", 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{Retry: tt.retry})
			// One of two instances fails once; which is asked first is chance.
			fail := make(chan bool, 1)
			fail <- true
			do := func(c *rawConn) {
				select {
				case <-fail:
					tt.first(c)
				default:
					h := c.head()
					if strings.Contains(h, "Content-Length: 2\r\n") {
						_, _ = io.CopyN(io.Discard, c.r, 2)
					}
					c.say(ok)
					c.head()
				}
			}
			f.script("i1", do)
			f.script("i2", do)
			f.ask(tt.request).want(t, tt.status, tt.body)
			if n := f.p.Event("web", "retry"); n != tt.retries {
				t.Errorf("%d retries, want %d", n, tt.retries)
			}
		})
	}
}

// A refused connection is tried elsewhere whatever the method, and the instance
// is ejected at once; it comes back when it takes connections again.
func TestRefused(t *testing.T) {
	f := newFleet(t, fsm.Service{Health: fsm.ServiceHealth{EjectFor: fsm.Duration(10 * time.Millisecond)}})
	dead := refusing(t)
	f.instance("i1", dead)
	f.handler("i2", echo)
	eventually(t, "the instance is ejected", func() bool {
		f.ask(post("hi")).want(t, 200, "*")
		return f.p.Event("web", "ejection") > 0
	})
	eventually(t, "the plan knows", func() bool { _, n := f.p.Panics("web"); return n == 1 })
	back := listenAt(t, dead, answers(ok), f.stop)
	eventually(t, "it is back", func() bool { return f.p.Ejected("web") == 0 })
	eventually(t, "it is asked", func() bool {
		f.ask(get).want(t, 200, "*")
		return back.conns.Load() > 1
	})
}

func TestAttemptsAreBounded(t *testing.T) {
	f := newFleet(t, fsm.Service{Retry: fsm.Retry{Attempts: 3}})
	var all []*raw
	for k := range 6 {
		all = append(all, f.script(fmt.Sprint("i", k), func(c *rawConn) { c.head(); c.reset() }))
	}
	f.ask(get).want(t, 502, "*")
	asked := int64(0)
	for _, o := range all {
		asked += o.conns.Load()
		if o.conns.Load() > 1 {
			t.Error("an instance was asked twice")
		}
	}
	if asked != 3 {
		t.Errorf("%d attempts, want 3", asked)
	}
}

// Retries are a share of the requests, after the ten that are free.
func TestRetryBudget(t *testing.T) {
	f := newFleet(t, fsm.Service{Retry: fsm.Retry{BudgetPercent: 10}, Health: fsm.ServiceHealth{ConsecutiveFailures: 1000}})
	for k := range 3 {
		f.script(fmt.Sprint("i", k), answers("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"))
	}
	c := dial(t, f.addr)
	for range 200 {
		c.ask(get).want(t, 503, "")
	}
	retries, over := f.p.Event("web", "retry"), f.p.Event("web", "over_budget")
	if retries != 30 || over == 0 {
		t.Errorf("%d retries of 200 requests, %d over the budget; 10 + 10%% are allowed", retries, over)
	}
}

// A connection that the instance has closed while it was idle costs nobody a
// request.
func TestStaleConnection(t *testing.T) {
	for _, request := range []string{get, post("hi")} {
		t.Run(request[:4], func(t *testing.T) {
			f := newFleet(t, fsm.Service{Retry: fsm.Retry{Attempts: 1}})
			closed := make(chan bool, 1)
			o := f.script("i1", func(c *rawConn) {
				h := c.head()
				if strings.HasPrefix(h, "POST") {
					_, _ = io.CopyN(io.Discard, c.r, 2)
				}
				c.say(ok)
				if c.n == 1 {
					_ = c.Close()
					closed <- true
					return
				}
				c.head()
			})
			c := dial(t, f.addr)
			c.ask(request).want(t, 200, "ok")
			<-closed
			eventually(t, "it is idle", func() bool { return f.p.Counts().Idle == 1 })
			c.ask(request).want(t, 200, "ok")
			if n := o.conns.Load(); n != 2 {
				t.Errorf("%d connections", n)
			}
			if n := f.p.Failures("web", "i1"); n != 0 {
				t.Errorf("%d failures are held against the instance", n)
			}
		})
	}
}

// What an instance sends besides an answer that is thrown away is not taken for
// the next answer.
func TestExtraBytesBehindADiscardedAnswer(t *testing.T) {
	f := newFleet(t, fsm.Service{Health: fsm.ServiceHealth{ConsecutiveFailures: 1000}})
	bad := "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
	f.script("i1", answers(bad))
	f.script("i2", answers(bad))
	c := dial(t, f.addr)
	for range 10 {
		if r := c.ask(get); r.body == "evil" {
			t.Fatal("a client got what nobody has asked for")
		}
	}
}

// What an instance sends on an idle connection is not taken for the answer to
// the next request, which may be another client's.
func TestUnaskedAnswer(t *testing.T) {
	for name, after := range map[string]time.Duration{"plain": 0, "hedged": time.Minute} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{Retry: fsm.Retry{HedgeAfter: fsm.Duration(after)}})
			idle, sent := make(chan bool), make(chan bool)
			f.script("i1", func(c *rawConn) {
				if c.head() == "" {
					return
				}
				c.say(ok)
				if c.n > 1 {
					return
				}
				<-idle
				c.say("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
				sent <- true
				c.head()
			})
			f.ask(get).want(t, 200, "ok")
			eventually(t, "it is idle", func() bool { return f.p.Counts().Idle == 1 })
			idle <- true
			<-sent
			f.ask(get).want(t, 200, "ok")
		})
	}
}

// At most half of the instances are ejected, however many fail at once.
func TestEjectionCap(t *testing.T) {
	const n = 64
	for range 5 {
		f := newFleet(t, fsm.Service{Health: fsm.ServiceHealth{EjectFor: fsm.Duration(time.Minute)}})
		addr := refusing(t)
		for k := range n {
			f.Run("web", fmt.Sprint("i", k), "n1", addr, fsm.Healthy)
		}
		f.sync()
		f.p.Refuse("web")
		if out, spared := f.p.Ejected("web"), f.p.Event("web", "capped"); out != n/2 || spared != n/2 {
			t.Fatalf("%d of %d are ejected, %d were spared, want half", out, n, spared)
		}
		f.stop()
	}
}

// Below the panic threshold all instances are used that ever were healthy.
func TestPanic(t *testing.T) {
	for _, tt := range []struct {
		name                        string
		healthy, unhealthy, unknown int
		threshold                   int
		panics                      bool
		used                        int
	}{
		{"all well", 3, 0, 0, 50, false, 3},
		{"half", 2, 2, 0, 50, false, 2},
		{"below half", 1, 2, 0, 50, true, 3},
		{"none", 0, 2, 0, 50, true, 2},
		{"switched off", 0, 2, 0, 0, false, 0},
		{"starting ones are not ill", 1, 1, 4, 50, false, 1},
		{"only starting ones", 0, 0, 2, 50, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{Balancer: fsm.Balancer{PanicThresholdPercent: &tt.threshold}})
			n := 0
			for h, count := range map[fsm.Health]int{fsm.Healthy: tt.healthy, fsm.Unhealthy: tt.unhealthy, fsm.Unknown: tt.unknown} {
				for range count {
					n++
					f.Run("web", fmt.Sprint("i", n), "n1", refusing(t), h)
				}
			}
			f.sync()
			if panics, used := f.p.Panics("web"); panics != tt.panics || used != tt.used {
				t.Errorf("panics %v and uses %d, want %v and %d", panics, used, tt.panics, tt.used)
			}
		})
	}
}

// While a connection is made the request is load already: an instance that takes
// no connections must not look idle.
func TestDialIsLoad(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Connect: fsm.Duration(time.Second), Queue: fsm.Duration(10 * time.Millisecond)}, Retry: fsm.Retry{Attempts: 1}})
	f.instance("i1", dark(t))
	c := dial(t, f.addr)
	c.send(get)
	eventually(t, "it is load", func() bool { return f.p.Counts().Loads == 1 })
	if n := f.p.Answers("web", "i1"); n != 0 {
		t.Fatal("the instance has taken the connection")
	}
	_ = c.read("GET")
}

// An instance is not charged with the time that another has taken.
func TestLatencyIsTheInstancesOwn(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Balancer: fsm.Balancer{Policy: fsm.BalanceRoundRobin},
		Retry:    fsm.Retry{PerTryTimeout: fsm.Duration(300 * time.Millisecond), BudgetPercent: 100},
		Health:   fsm.ServiceHealth{ConsecutiveFailures: 1000},
	})
	f.script("slow", func(c *rawConn) { c.head(); c.head() })
	f.script("fast", answers(ok))
	for range 4 {
		f.ask(get).want(t, 200, "ok")
	}
	if f.p.Event("web", "retry") == 0 {
		t.Fatal("nothing was tried again")
	}
	if d := f.p.MeanLatency("web", "fast"); d >= 150*time.Millisecond {
		t.Errorf("the fast instance answers in %v", d)
	}
}

// A retry takes the newest plan: the only instance may have been replaced.
func TestRetryTakesTheNewestPlan(t *testing.T) {
	f := newFleet(t, fsm.Service{Retry: fsm.Retry{BudgetPercent: 100}})
	arrived, gone := make(chan bool), make(chan bool)
	f.script("old", func(c *rawConn) {
		c.head()
		arrived <- true
		<-gone
		c.reset()
	})
	c := dial(t, f.addr)
	c.send(get)
	<-arrived
	f.Report("old", fsm.Failed, "")
	f.script("new", answers(ok))
	gone <- true
	c.read("GET").want(t, 200, "ok")
}
