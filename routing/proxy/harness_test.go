package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// patience bounds every wait of a test. It is an alarm, and no assertion.
const patience = 20 * time.Second

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	alarm := time.After(patience)
	for !ok() {
		select {
		case <-tick.C:
		case <-alarm:
			t.Fatalf("still not: %s", what)
		}
	}
}

// fleet is a proxy in front of a cluster.
type fleet struct {
	*cluster
	p       *proxy.Proxy
	addr    string
	metrics *prometheus.Registry
	stop    func()
}

// option changes a proxy before it runs.
type option func(*proxy.Config, *func(*proxy.Proxy))

func withConfig(change func(*proxy.Config)) option {
	return func(c *proxy.Config, _ *func(*proxy.Proxy)) { change(c) }
}

func withWaits(head, warm, drain, relisten time.Duration) option {
	return func(_ *proxy.Config, before *func(*proxy.Proxy)) {
		*before = func(p *proxy.Proxy) { p.Waits(head, warm, drain, relisten) }
	}
}

// withWake makes the cluster wake groups, not more often than every; before
// is asked before each command.
func withWake(every time.Duration, before func(context.Context, fsm.Command) error) option {
	return func(c *proxy.Config, start *func(*proxy.Proxy)) {
		cl := c.Cluster.(*cluster)
		cl.before, c.Proposer = before, cl
		then := *start
		*start = func(p *proxy.Proxy) {
			then(p)
			p.WakeEvery(every)
		}
	}
}

// newFleet runs a proxy with the service "web". At the end of the test nothing
// may be under way.
func newFleet(t testing.TB, s fsm.Service, opts ...option) *fleet {
	t.Helper()
	c := newCluster(t)
	c.Group("web", &s)
	return newFleetOf(t, c, opts...)
}

// newFleetOf runs a proxy of a cluster that is there already.
func newFleetOf(t testing.TB, c *cluster, opts ...option) *fleet {
	t.Helper()
	f := &fleet{cluster: c, metrics: prometheus.NewRegistry()}
	before := func(p *proxy.Proxy) { p.Waits(0, 0, 20*time.Millisecond, 0) }
	cfg := proxy.Config{Cluster: f.cluster, Addr: "127.0.0.1:0", Registerer: f.metrics, Zone: "a"}
	for _, o := range opts {
		o(&cfg, &before)
	}
	p, err := proxy.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	before(p)
	f.p, f.addr = p, p.Addr()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.Run(ctx)
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		<-done
		f.quiet()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := p.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
		if c := p.Counts(); c.Conns != 0 {
			t.Errorf("connections are left after the shutdown: %+v", c)
		}
	})
	t.Cleanup(f.stop)
	f.sync()
	return f
}

// quiet waits until no request is under way, whatever the tests have done.
func (f *fleet) quiet() {
	f.t.Helper()
	var c proxy.Count
	alarm := time.After(patience)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		c = f.p.Counts()
		if c.Requests|c.Instances|c.Loads|c.Waiting|c.Tunnels == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-alarm:
			f.t.Errorf("something still is under way: %+v", c)
			return
		}
	}
}

// sync waits until the proxy routes by the newest state.
func (f *fleet) sync() {
	f.t.Helper()
	routed := f.routed()
	eventually(f.t, "the plan is the newest", func() bool { return f.p.PlanIndex() >= routed })
}

// instance starts a healthy instance.
func (f *fleet) instance(id, addr string) {
	f.t.Helper()
	f.Run("web", id, "n1", addr, fsm.Healthy)
	f.sync()
}

// handler runs a server of net/http as an instance, and returns its address.
func (f *fleet) handler(id string, h http.HandlerFunc) string {
	f.t.Helper()
	s := httptest.NewServer(h)
	f.t.Cleanup(func() {
		f.stop()
		s.CloseClientConnections()
		s.Close()
	})
	addr := s.Listener.Addr().String()
	f.instance(id, addr)
	return addr
}

// raw is an instance whose every byte the test chooses.
type raw struct {
	addr  string
	l     net.Listener
	conns atomic.Int64
}

// rawConn is one connection that an instance has accepted.
type rawConn struct {
	net.Conn
	r *bufio.Reader
	n int64 // which connection it is, from 1
	// over is closed at the end of the test.
	over <-chan struct{}
}

// head reads the head of a request as text; "" when the connection ended.
func (c *rawConn) head() string {
	var b strings.Builder
	for {
		line, err := c.r.ReadString('\n')
		b.WriteString(line)
		if err != nil {
			return ""
		}
		if line == "\r\n" {
			return b.String()
		}
	}
}

func (c *rawConn) say(s string) { _, _ = io.WriteString(c, s) }

// reset ends a connection without ceremony.
func (c *rawConn) reset() {
	_ = c.Conn.(*net.TCPConn).SetLinger(0)
	_ = c.Close()
}

// script runs a raw instance; each connection is closed when f returns.
func (f *fleet) script(id string, do func(*rawConn)) *raw {
	f.t.Helper()
	o := newRaw(f.t, do, f.stop)
	f.instance(id, o.addr)
	return o
}

func newRaw(t testing.TB, do func(*rawConn), before func()) *raw {
	t.Helper()
	return listenAt(t, "127.0.0.1:0", do, before)
}

// listenAt runs a raw instance at an address.
func listenAt(t testing.TB, addr string, do func(*rawConn), before func()) *raw {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	o := &raw{addr: l.Addr().String(), l: l}
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[nc] = true
			mu.Unlock()
			c := &rawConn{nc, bufio.NewReader(nc), o.conns.Add(1), t.Context().Done()}
			wg.Go(func() {
				defer nc.Close()
				do(c)
			})
		}
	})
	t.Cleanup(func() {
		before()
		_ = l.Close()
		mu.Lock()
		for c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return o
}

// refusing is an address that refuses connections.
func refusing(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// client is a connection to a proxy.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func dial(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(patience))
	return &client{t, nc, bufio.NewReader(nc)}
}

func (c *client) send(s string) {
	c.t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		c.t.Fatal(err)
	}
}

// reply is an answer as a client got it.
type reply struct {
	*http.Response
	body string
	err  error // of the body
}

// read reads the answer to a request of a method.
func (c *client) read(method string) reply {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	b, err := io.ReadAll(resp.Body)
	return reply{resp, string(b), err}
}

// ask sends a request and reads its answer.
func (c *client) ask(request string) reply {
	c.t.Helper()
	c.send(request)
	method, _, _ := strings.Cut(request, " ")
	return c.read(method)
}

// ended waits for the end of the connection, and fails on any byte before it.
func (c *client) ended() {
	c.t.Helper()
	b, err := io.ReadAll(c.r)
	var timeout net.Error
	if len(b) > 0 || errors.As(err, &timeout) && timeout.Timeout() {
		c.t.Fatalf("the connection is not at its end: %q, %v", b, err)
	}
}

// ask sends one request on a connection of its own.
func (f *fleet) ask(request string) reply {
	f.t.Helper()
	c := dial(f.t, f.addr)
	defer c.Close()
	return c.ask(request)
}

func (r reply) want(t testing.TB, status int, body string) {
	t.Helper()
	if r.err != nil || r.StatusCode != status || body != "*" && r.body != body {
		t.Fatalf("got %d %q (%v), want %d %q", r.StatusCode, r.body, r.err, status, body)
	}
}

// get is a request without a body.
const get = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"

func post(body string) string {
	return fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// ok is an answer with a short body.
const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// answers answers every request without a body with the same bytes.
func answers(answer string) func(*rawConn) {
	return func(c *rawConn) {
		for c.head() != "" {
			c.say(answer)
		}
	}
}
