package proxy_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/pacelinehq/paceline/fsm"
)

// Instances come, drain and go while clients ask: nobody notices. An instance
// ends when all requests are over that had begun before it left the plan.
func TestNoRequestIsLost(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	const clients, each = 8, 250
	var finished [clients]atomic.Int64 // requests
	type leaving struct {
		server *httptest.Server
		seen   [clients]int64
	}
	var all []*httptest.Server
	var gone []leaving
	start := func() {
		s := httptest.NewServer(http.HandlerFunc(echo))
		all = append(all, s)
		f.instance(fmt.Sprint("i", len(all)), s.Listener.Addr().String())
	}
	for range 3 {
		start()
	}
	var wg sync.WaitGroup
	for k := range clients {
		wg.Go(func() {
			defer finished[k].Store(each + 1)
			c := dial(t, f.addr)
			for j := range each {
				r := c.ask([]string{get, post("hello"), post(strings.Repeat("x", 20_000))}[(j+k)%3])
				if r.StatusCode != 200 || r.err != nil {
					t.Errorf("got %d %q, %v", r.StatusCode, r.body, r.err)
					return
				}
				if r.Close { // allowed, when the end of a body was noticed late
					c.Close()
					c = dial(t, f.addr)
				}
				finished[k].Store(int64(j + 1))
			}
		})
	}
	busy := func(l leaving) bool {
		for k := range clients {
			if finished[k].Load() <= min(l.seen[k], each) {
				return true
			}
		}
		return false
	}
	asking := func() bool {
		for k := range finished {
			if finished[k].Load() <= each {
				return true
			}
		}
		return false
	}
	for replaced := 0; asking(); replaced++ {
		start()
		old := fmt.Sprint("i", replaced+1)
		f.Drain(old, fsm.Unknown)
		f.Report(old, fsm.Stopping, "")
		f.Report(old, fsm.Stopped, "")
		f.sync()
		l := leaving{server: all[replaced]}
		for k := range clients {
			l.seen[k] = finished[k].Load()
		}
		gone = append(gone, l)
		for len(gone) > 0 && !busy(gone[0]) {
			gone[0].server.Close()
			gone = gone[1:]
		}
	}
	wg.Wait()
	f.stop()
	for _, s := range all {
		s.Close()
	}
}

// A shutdown lets requests finish and ends connections that are idle, whether
// they have ever asked for anything or not.
func TestShutdown(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withWaits(0, 5*time.Millisecond, 20*time.Millisecond, 0))
	release := make(chan bool)
	f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-release
		}
		_, _ = io.WriteString(w, "ok")
	})
	fresh, used, busy := dial(t, f.addr), dial(t, f.addr), dial(t, f.addr)
	used.ask(get).want(t, 200, "ok")
	busy.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	eventually(t, "it is under way", func() bool { return f.p.Counts().Instances == 1 && f.p.Counts().Conns == 3 })
	down := make(chan error)
	go func() { down <- f.p.Shutdown(t.Context()) }()
	fresh.ended()
	used.ended()
	release <- true
	r := busy.read("GET")
	if r.want(t, 200, "ok"); !r.Close {
		t.Error("the last answer does not say that it is the last")
	}
	busy.Close()
	if err := <-down; err != nil {
		t.Error(err)
	}
	if canDial(f.addr) {
		t.Error("the address still is listened on")
	}
}

// What does not end by itself is cut when the shutdown's time is over.
func TestShutdownCuts(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.script("i1", func(c *rawConn) {
		if strings.HasPrefix(c.head(), "GET /ws") {
			c.say(switched)
		}
		c.head() // never an answer
	})
	f.Group("empty", &fsm.Service{Hosts: []string{"empty.test"}})
	f.sync()
	ws, held, slow, half := dial(t, f.addr), dial(t, f.addr), dial(t, f.addr), dial(t, f.addr)
	ws.send(upgrade)
	ws.expect(switched)
	slow.send(get)
	held.send("GET / HTTP/1.1\r\nHost: empty.test\r\n\r\n")
	half.send("GET / HT")
	eventually(t, "all is under way", func() bool {
		c := f.p.Counts()
		return c.Instances == 2 && c.Waiting == 1 && c.Conns == 4
	})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = f.p.Shutdown(ctx)
	if c := f.p.Counts(); c.Conns+c.Instances+c.Waiting != 0 {
		t.Errorf("still under way: %+v", c)
	}
}

// A connection may bring one more request after its listener is closed.
func TestServicePort(t *testing.T) {
	port, addr := tcpPort(t)
	s := fsm.Service{Listeners: []fsm.Listener{{Port: port}}}
	f := newFleet(t, s, withWaits(0, 0, 50*time.Millisecond, 0))
	release := make(chan bool)
	f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			w.(http.Flusher).Flush()
			<-release
		}
	})
	eventually(t, "the port is open", func() bool { return canDial(addr) })
	c, busy := dial(t, addr), dial(t, addr)
	c.ask(get).want(t, 200, "*")
	f.ask(get).want(t, 404, "*") // not on the shared listener
	busy.send("GET /slow HTTP/1.1\r\nHost: a.test\r\n\r\n")
	if _, err := busy.r.Peek(1); err != nil { // its answer has begun, and does not say that it is the last
		t.Fatal(err)
	}
	f.Group("web", &fsm.Service{})
	eventually(t, "the port is closed", func() bool { return !canDial(addr) })
	release <- true
	busy.read("GET").want(t, 200, "")
	for _, c := range []*client{c, busy} {
		if r := c.ask(get); r.StatusCode != 404 || !r.Close {
			t.Errorf("one more request got %d, close %v", r.StatusCode, r.Close)
		}
	}
	f.Group("web", &s)
	eventually(t, "the port is open again", func() bool { return canDial(addr) })
	f.Group("web", nil)
	eventually(t, "the port is closed again", func() bool { return !canDial(addr) })
}

// A request goes on although its instance is in the plan no more; its connection
// is not kept then.
func TestInstanceLeavesDuringARequest(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	asked, release, closed := make(chan bool), make(chan bool), make(chan bool, 1)
	f.script("i1", func(c *rawConn) {
		c.head()
		asked <- true
		<-release
		c.say(ok)
		closed <- c.head() == ""
	})
	c := dial(t, f.addr)
	c.send(get)
	<-asked
	f.Report("i1", fsm.Stopping, "")
	f.sync()
	release <- true
	c.read("GET").want(t, 200, "ok")
	select {
	case <-closed:
	case <-time.After(patience):
		t.Error("the connection is kept for an instance that nobody asks any more")
	}
}

// A port that somebody else has is reported, and taken when it is free; one
// that nobody wants any more is forgotten.
func TestPortConflict(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	f := newFleet(t, fsm.Service{Listeners: []fsm.Listener{{Port: port}}}, withWaits(0, 0, 0, 5*time.Millisecond))
	f.handler("i1", echo)
	if why := f.p.PortErrors(); len(why) != 1 || why[port] == "" {
		t.Fatalf("the conflict is not reported: %v", why)
	}
	f.Group("web", &fsm.Service{})
	eventually(t, "it is forgotten", func() bool { return len(f.p.PortErrors()) == 0 })
	f.Group("web", &fsm.Service{Listeners: []fsm.Listener{{Port: port}}})
	eventually(t, "it is reported again", func() bool { return len(f.p.PortErrors()) == 1 })
	l.Close()
	eventually(t, "it is taken", func() bool { return len(f.p.PortErrors()) == 0 })
	dial(t, l.Addr().String()).ask(get).want(t, 200, "*")
}

// A connection that is idle for longer gives its buffers back, and serves on.
func TestIdleConnections(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withWaits(0, time.Millisecond, 0, 0))
	f.handler("i1", echo)
	var all []*client
	for range 20 {
		all = append(all, dial(t, f.addr))
	}
	for range 3 {
		for _, c := range all {
			c.ask(post("hello")).want(t, 200, "*")
		}
		eventually(t, "all are cold", func() bool { return f.p.Counts().Cold == int64(len(all)) })
	}
}

// A part of the next head that has come already is not lost while its rest is
// waited for.
func TestSlowPipelinedHead(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withWaits(0, 5*time.Millisecond, 0, 0))
	f.handler("i1", echo)
	c := dial(t, f.addr)
	c.ask(get+get[:20]).want(t, 200, "*")
	tick := time.NewTicker(20 * time.Millisecond) // longer than a connection is warm
	defer tick.Stop()
	<-tick.C
	c.send(get[20:])
	c.read("GET").want(t, 200, "*")
}

func TestIdleTimeout(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Idle: fsm.Duration(30 * time.Millisecond)}})
	f.handler("i1", echo)
	c := dial(t, f.addr)
	c.ask(get).want(t, 200, "*")
	c.ended()
	dial(t, f.addr).ended()
}

func TestSlowHead(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withWaits(50*time.Millisecond, 0, 0, 0))
	c := dial(t, f.addr)
	c.send("GET / HTTP/1.1\r\nHost:")
	c.read("GET").want(t, 408, "*")
	c.ended()
}

// Two hundred clients that send nothing but a drop now and then do not keep
// another from being served.
func TestSlowloris(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	var slow []*client
	for range 200 {
		c := dial(t, f.addr)
		c.send("GET / HTTP/1.1\r\nX-")
		slow = append(slow, c)
	}
	c := dial(t, f.addr)
	for k := range 100 {
		slow[rand.IntN(len(slow))].send("a")
		c.ask(get).want(t, 200, "*")
		if k%10 == 0 {
			f.ask(get).want(t, 200, "*")
		}
	}
	for _, c := range slow {
		c.Close()
	}
}

// The counters of a service are there as long as the service.
func TestMetrics(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	f.ask(post("hello")).want(t, 200, "*")
	f.ask("GARBAGE\r\n\r\n").want(t, 400, "*")
	f.quiet()
	if problems, err := testutil.GatherAndLint(f.metrics); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	want := `
# HELP paceline_proxy_instance_requests_in_flight Requests that an instance has from this node.
# TYPE paceline_proxy_instance_requests_in_flight gauge
paceline_proxy_instance_requests_in_flight{group="web",instance="i1"} 0
# HELP paceline_proxy_malformed_requests_total Requests refused because they are not valid HTTP.
# TYPE paceline_proxy_malformed_requests_total counter
paceline_proxy_malformed_requests_total 1
# HELP paceline_proxy_request_bytes_total Bytes of bodies of requests.
# TYPE paceline_proxy_request_bytes_total counter
paceline_proxy_request_bytes_total{group="web"} 5
# HELP paceline_proxy_requests_total Requests answered, by class of the status; "none" without an answer.
# TYPE paceline_proxy_requests_total counter
paceline_proxy_requests_total{code="1xx",group="web"} 0
paceline_proxy_requests_total{code="2xx",group="web"} 1
paceline_proxy_requests_total{code="3xx",group="web"} 0
paceline_proxy_requests_total{code="4xx",group="web"} 0
paceline_proxy_requests_total{code="5xx",group="web"} 0
paceline_proxy_requests_total{code="none",group="web"} 0
`
	names := []string{
		"paceline_proxy_requests_total", "paceline_proxy_instance_requests_in_flight", "paceline_proxy_malformed_requests_total",
		"paceline_proxy_request_bytes_total",
	}
	if err := testutil.GatherAndCompare(f.metrics, strings.NewReader(want), names...); err != nil {
		t.Error(err)
	}
	f.Group("web", nil)
	f.sync()
	if n, err := testutil.GatherAndCount(f.metrics, names...); n != 1 || err != nil {
		t.Errorf("%d series are left of a service that is gone, %v", n-1, err)
	}
	if n := f.p.Services(); n != 0 {
		t.Errorf("%d services are remembered", n)
	}
	f.Group("web", &fsm.Service{})
	f.sync()
	f.ask(get).want(t, 200, "*")
	samples := map[string]float64{}
	f.p.Sample("n1", func(group, instance, metric string, v float64) { samples[group+instance+metric] = v })
	if samples["webi1requests"] <= 0 || samples["webi1responseTime"] <= 0 {
		t.Errorf("samples: %v", samples)
	}
}

// A plan never goes back to an older state, whoever makes it.
func TestPlansGoForward(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	var wg sync.WaitGroup
	var over atomic.Bool
	for range 4 {
		wg.Go(func() {
			for last := uint64(0); !over.Load(); {
				f.p.Replan()
				now := f.p.PlanIndex()
				if now < last {
					t.Errorf("the plan went from %d to %d", last, now)
					return
				}
				last = now
			}
		})
	}
	for k := range 200 {
		f.Run("web", fmt.Sprint("i", k), "n1", "127.0.0.1:1", fsm.Healthy)
	}
	over.Store(true)
	wg.Wait()
	f.sync()
}

// Slow start is for instances that become healthy, and not for those that a
// proxy finds healthy when it begins.
func TestSlowStartIsForNewOnes(t *testing.T) {
	before := newCluster(t)
	s := fsm.Service{Balancer: fsm.Balancer{SlowStart: fsm.Duration(time.Hour)}}
	before.Group("web", &s)
	before.Run("web", "old", "n1", "127.0.0.1:1", fsm.Healthy)
	f := newFleetOf(t, before)
	f.instance("new", "127.0.0.1:2")
	if n := f.p.Steady("web"); n != 1 {
		t.Errorf("%d of the two instances are steady", n)
	}
}

// An idle connection may bring one more request while its listener drains, also
// when it has given its buffers back.
func TestDrainKeepsIdleConnections(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withWaits(0, 10*time.Millisecond, patience, 0))
	f.script("i1", answers(ok))
	warm, cold := dial(t, f.addr), dial(t, f.addr)
	cold.ask(get).want(t, 200, "ok")
	eventually(t, "one is cold", func() bool { return f.p.Counts().Cold == 1 })
	warm.ask(get).want(t, 200, "ok")
	done := make(chan error)
	go func() { done <- f.p.Shutdown(t.Context()) }()
	eventually(t, "both are cold", func() bool { return f.p.Counts().Cold == 2 })
	for _, c := range []*client{warm, cold} {
		r := c.ask(get)
		r.want(t, 200, "ok")
		if !r.Close {
			t.Error("the answer does not end the connection")
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
