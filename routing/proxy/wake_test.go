package proxy_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// askAll sends the same request on n connections at once.
func (f *fleet) askAll(n int) <-chan reply {
	replies := make(chan reply, n)
	for range n {
		go func() { replies <- f.ask(get) }()
	}
	return replies
}

func (f *fleet) waits(n int64) {
	f.t.Helper()
	eventually(f.t, "all wait", func() bool { return f.p.Counts().Waiting == n })
}

// Requests for a group at size 0 wake it, all of them with one command, and
// are answered when an instance has started.
func TestWakeOnce(t *testing.T) {
	var commands atomic.Int64
	gate := make(chan struct{})
	f := newFleet(t, fsm.Service{}, withWake(time.Nanosecond, func(context.Context, fsm.Command) error {
		commands.Add(1)
		<-gate
		return nil
	}))
	const n = 50
	replies := f.askAll(n)
	f.waits(n)
	eventually(t, "a command is under way", func() bool { return commands.Load() > 0 })
	close(gate)
	eventually(t, "the group is awake", func() bool { return f.desired("web") == 1 })
	f.handler("i1", echo)
	for range n {
		r := <-replies
		r.want(t, 200, "*")
	}
	if c := commands.Load(); c != 1 {
		t.Errorf("%d requests have sent %d commands", n, c)
	}
}

// While the cluster refuses or has no leader, requests wait on and the group is
// woken as soon as it agrees.
func TestWakeIsRepeated(t *testing.T) {
	var commands atomic.Int64
	f := newFleet(t, fsm.Service{}, withWake(time.Millisecond, func(context.Context, fsm.Command) error {
		if commands.Add(1) <= 2 {
			return fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader")
		}
		return nil
	}))
	replies := f.askAll(5)
	eventually(t, "the group is awake", func() bool { return f.desired("web") == 1 })
	f.waits(5)
	f.handler("i1", echo)
	for range 5 {
		r := <-replies
		r.want(t, 200, "*")
	}
	if c := commands.Load(); c != 3 {
		t.Errorf("%d commands, want 3", c)
	}
}

// One refusal is not asked about again and again: the rate is bounded, and the
// requests end with their time.
func TestWakeRate(t *testing.T) {
	var commands atomic.Int64
	queue := fsm.Timeouts{Queue: fsm.Duration(time.Second)} // several passes of the janitor
	f := newFleet(t, fsm.Service{Timeouts: queue}, withWake(time.Hour, func(context.Context, fsm.Command) error {
		commands.Add(1)
		return fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader")
	}))
	replies := f.askAll(20)
	for range 20 {
		r := <-replies
		if r.want(t, 503, "*"); r.Header.Get("Retry-After") != "1" {
			t.Errorf("no Retry-After: %v", r.Header)
		}
	}
	if c := commands.Load(); c != 1 || f.p.Event("web", "wake") != 1 || f.p.Event("web", "queue_timeout") != 20 {
		t.Errorf("%d commands, %d wakes, %d timeouts", c, f.p.Event("web", "wake"), f.p.Event("web", "queue_timeout"))
	}
}

// A group that is put back to 0 while requests wait is woken again.
func TestWakeAgain(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withWake(time.Millisecond, nil))
	replies := f.askAll(1)
	for range 3 {
		eventually(t, "the group is awake", func() bool { return f.desired("web") == 1 })
		f.Must(fsm.SetDesired{Group: "web", To: 0})
	}
	f.handler("i1", echo)
	r := <-replies
	r.want(t, 200, "*")
}

// What never gets an instance is not waited for, nor woken.
func TestClosedGroup(t *testing.T) {
	for name, shut := range map[string]fsm.Command{
		"maxSize 0": fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "web", Service: &fsm.Service{}}},
		"deleted":   fsm.DeleteGroup{Group: "web"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)}}, withWake(time.Nanosecond,
				func(context.Context, fsm.Command) error { t.Error("it is woken"); return nil }))
			f.Must(shut)
			r := f.ask(get)
			r.want(t, 503, "*")
			if !strings.Contains(r.body, "maxSize 0") || f.p.Event("web", "queued") != 0 {
				t.Errorf("got %q, %d waited", r.body, f.p.Event("web", "queued"))
			}
		})
	}
}

// A TCP connection waits as a request does.
func TestWakeByTCP(t *testing.T) {
	port, addr := tcpPort(t)
	f := newFleet(t, fsm.Service{
		Listeners: []fsm.Listener{{Port: port, Protocol: fsm.ProtocolTCP}}, Limits: fsm.ServiceLimits{MaxQueue: 2},
	}, withWake(time.Millisecond, nil))
	a, b := dial(t, addr), dial(t, addr)
	f.waits(2)
	dial(t, addr).ended() // one more than may wait
	if n := f.p.Counts().Requests; n != 2 {
		t.Errorf("%d connections are in flight, want 2", n)
	}
	eventually(t, "the group is awake", func() bool { return f.desired("web") == 1 })
	f.script("i1", func(c *rawConn) {
		c.say("hello")
		_, _ = c.r.ReadByte()
	})
	for _, c := range []*client{a, b} {
		c.expect("hello")
		c.Close()
	}
}

// What waits is in flight, and each instance that would take it has its share.
func TestWaitingIsInFlight(t *testing.T) {
	f := newFleet(t, fsm.Service{Limits: fsm.ServiceLimits{MaxInFlightPerInstance: 1}})
	release := make(chan bool)
	f.script("i1", func(c *rawConn) {
		for c.head() != "" {
			<-release
			c.say(ok)
		}
	})
	f.Run("web", "i2", "n1", refusing(t), fsm.Unknown)
	f.sync()
	replies := f.askAll(4)
	f.waits(3)
	samples := map[string]float64{}
	f.p.Sample("n1", func(_, instance, metric string, v float64) { samples[instance+" "+metric] = v })
	if samples["i1 inflight"] != 4 || samples["i2 inflight"] != 0 {
		t.Errorf("samples: %v", samples)
	}
	close(release)
	for range 4 {
		r := <-replies
		r.want(t, 200, "ok")
	}
}

// The first request of a sticky session that has waited sets the cookie.
func TestWokenSessionIsPlaced(t *testing.T) {
	f := newSessionFleet(t, fsm.Service{Stickiness: sticky})
	replies := f.askAll(5)
	eventually(t, "the group is awake", func() bool { return f.desired("web") == 1 })
	f.waits(5)
	f.handler("i1", echo)
	for range 5 {
		r := <-replies
		if r.want(t, 200, "*"); len(r.Cookies()) != 1 {
			t.Errorf("no cookie: %v", r.Header)
		}
	}
	if n := f.State().SessionStats("web").Sessions; n != 5 {
		t.Errorf("%d sessions", n)
	}
}
