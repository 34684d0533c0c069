//go:build linux

package proxy_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// quickly makes looks short, so that a test need not wait for them.
func quickly(_ *proxy.Config, before *func(*proxy.Proxy)) {
	was := *before
	*before = func(p *proxy.Proxy) {
		was(p)
		p.Doubts(100*time.Millisecond, 200*time.Millisecond, 200*time.Millisecond)
	}
}

// abroad starts a healthy instance on another node, whose API is at an address.
func (f *fleet) abroad(node, api, id, addr string) {
	f.t.Helper()
	f.Node(fsm.Node{Name: node, Zone: "b", API: api})
	f.Run("web", id, node, addr, fsm.Healthy)
	f.sync()
}

// mute takes connections and says nothing, as the system of a stopped process
// does for it.
func (f *fleet) mute() *raw {
	return newRaw(f.t, func(c *rawConn) { <-c.over }, f.stop)
}

// dark is an address that does not answer at all, as that of a machine without
// power: its queue of connections is full, so that the system drops requests
// for more.
func dark(t testing.TB) string {
	t.Helper()
	addr, _ := darkUntil(t)
	return addr
}

// darkUntil is dark until connections are taken from the queue.
func darkUntil(t testing.TB) (addr string, queue *os.File) {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), "dark")
	t.Cleanup(func() { _ = file.Close() })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr = fmt.Sprint("127.0.0.1:", name.(*syscall.SockaddrInet4).Port)
	for range 16 {
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr, file
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	t.Skip("this system takes connections beyond the queue's length")
	return "", nil
}

// crowd sends requests until some of them have been moved from an instance, and
// fails when one is not answered by the living one.
func (f *fleet) crowd(enough func() bool) {
	f.t.Helper()
	var wg sync.WaitGroup
	var over atomic.Bool
	for range 32 { // more than there are free retries
		wg.Go(func() {
			for !over.Load() {
				if r := f.ask(get); r.StatusCode != 200 || r.err != nil {
					f.t.Errorf("got %d %q (%v)", r.StatusCode, r.body, r.err)
					return
				}
			}
		})
	}
	eventually(f.t, "enough is seen", enough)
	over.Store(true)
	wg.Wait()
}

// An instance is frozen together with its node: both take connections and say
// nothing. Its requests are moved, but for those that may not be sent again;
// they end when the cluster says that the instance has.
func TestFrozenNode(t *testing.T) {
	f := newFleet(t, fsm.Service{Retry: fsm.Retry{BudgetPercent: 1}}, quickly)
	f.handler("i1", echo)
	api := f.mute()
	f.abroad("n2", api.addr, "i2", f.mute().addr)
	posted := make(chan reply, 1)
	f.Report("i1", "", fsm.Unhealthy)
	f.sync()
	c := dial(t, f.addr)
	c.send(post("hi"))
	go func() { posted <- c.read("POST") }()
	eventually(t, "the POST waits at the frozen instance", func() bool { return f.p.Counts().Loads == 1 })
	f.Report("i1", "", fsm.Healthy)
	f.sync()
	f.crowd(func() bool { return f.p.Event("web", "moved") > 0 && f.p.Ejected("web") == 1 })
	if f.p.Looks("mute") == 0 || f.p.Looks("silence") != 0 {
		t.Errorf("looks: %d mute, %d silent", f.p.Looks("mute"), f.p.Looks("silence"))
	}
	if f.p.Counts().Instances == 0 {
		t.Error("the POST was given up")
	}
	// A look that finds the same keeps it out, although it takes connections.
	ejections, asked := f.p.Event("web", "ejection"), api.conns.Load()
	f.crowd(func() bool { return api.conns.Load() > asked+6 })
	if f.p.Ejected("web") != 1 || f.p.Event("web", "ejection") != ejections {
		t.Errorf("%d are out after %d ejections, before it were %d", f.p.Ejected("web"), f.p.Event("web", "ejection"), ejections)
	}
	f.Must(fsm.NodeDown{Node: "n2", Incarnation: 1, Term: 1})
	f.sync()
	(<-posted).want(t, 502, "*")
}

// A node without power, with more instances than the cap lets go: those that
// were never asked are out as well, and come back when the node answers.
func TestDarkNode(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Connect: fsm.Duration(patience)}, Retry: fsm.Retry{BudgetPercent: 1}}, quickly)
	f.handler("i1", echo)
	api := dark(t)
	for k := range 3 {
		f.abroad("n2", api, fmt.Sprint("i", k+2), dark(t))
	}
	f.crowd(func() bool { return f.p.Event("web", "moved") > 0 && f.p.Ejected("web") == 3 })
	if panics, n := f.p.Panics("web"); !panics || n != 1 {
		t.Errorf("%d instances are used (panic %v), want the one that lives", n, panics)
	}
	if n := f.p.Event("web", "capped"); n != 0 {
		t.Errorf("%d instances were spared, although their node is gone", n)
	}
}

// An instance that drops connections while its node answers is ejected, but no
// more than the cap allows: it may be overrun.
func TestOverrunInstances(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Connect: fsm.Duration(patience)}}, quickly)
	f.handler("i1", echo)
	host := f.handler2(echo)
	for k := range 3 {
		f.abroad("n2", host, fmt.Sprint("i", k+2), dark(t))
	}
	f.crowd(func() bool { return f.p.Ejected("web") == 2 && f.p.Event("web", "capped") > 0 })
	if n := f.p.Looks("answer"); n == 0 {
		t.Error("the node was not asked")
	}
}

// A slow instance is looked at, and left alone: its node answers.
func TestSlowIsNotSilent(t *testing.T) {
	f := newFleet(t, fsm.Service{}, quickly)
	go1 := make(chan bool)
	f.abroad("n2", f.handler2(echo), "i2", newRaw(t, func(c *rawConn) {
		for c.head() != "" {
			select {
			case <-go1:
			case <-c.over:
			}
			c.say(ok)
		}
	}, f.stop).addr)
	done := make(chan reply, 1)
	c := dial(t, f.addr)
	c.send(get)
	go func() { done <- c.read("GET") }()
	eventually(t, "it is looked at twice", func() bool { return f.p.Looks("answer") > 1 })
	close(go1)
	(<-done).want(t, 200, "ok")
	if f.p.Event("web", "ejection")+f.p.Event("web", "moved")+f.p.Failures("web", "i2") != 0 {
		t.Error("a slow answer was held against the instance")
	}
}

// Nobody looks at instances that answer, or that nobody waits for.
func TestNoLookWithoutDoubt(t *testing.T) {
	f := newFleet(t, fsm.Service{}, quickly)
	asked := f.mute()
	f.abroad("n2", asked.addr, "i2", f.handler2(echo))
	waits := f.mute() // a service nobody asks
	f.Must(fsm.PutGroup{Group: fsm.Group{Name: "idle", Template: "web", MaxSize: 9, Service: &fsm.Service{Hosts: []string{"idle.test"}}}})
	f.Run("idle", "j1", "n1", waits.addr, fsm.Healthy)
	f.sync()
	alarm := time.After(time.Second) // many times the doubt
	for over := false; !over; {
		f.ask(get).want(t, 200, "*")
		select {
		case <-alarm:
			over = true
		default:
		}
	}
	if n := asked.conns.Load() + waits.conns.Load(); n != 0 {
		t.Errorf("%d connections were made for looks", n)
	}
}

// handler2 is a server that is no instance.
func (f *fleet) handler2(h http.HandlerFunc) string {
	f.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		f.t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: patience}
	go func() { _ = s.Serve(l) }()
	f.t.Cleanup(func() { f.stop(); _ = s.Close() })
	return l.Addr().String()
}
