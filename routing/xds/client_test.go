package xds_test

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/xds"
)

// turns is a service with exact turns, which are the easiest to check.
func turns() *fsm.Service { return &fsm.Service{Balancer: fsm.Balancer{Policy: fsm.BalanceRoundRobin}} }

func TestSpread(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, c)
	all := c.backends("web", 3)
	ch := s.dial(t, "web")
	ch.reaches(all...)
	count := map[string]int{}
	for range 300 {
		count[ch.must(t.Context())]++
	}
	for _, b := range all {
		if count[b.addr] != 100 {
			t.Errorf("of 300 requests the backends got %v", count)
		}
	}
	if n := s.metric(t, "paceline_xds_streams", ""); n != 1 {
		t.Errorf("%v streams", n)
	}
	if n := s.nacks(t); n != 0 {
		t.Errorf("%v nacks", n)
	}
}

// What passes is what is reached: healthy, and not draining.
func TestEndpointsFollowTheState(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, c)
	b := c.backends("web", 2)
	one, two := s.dial(t, "web"), s.dial(t, "web")
	one.reaches(b...)
	two.reaches(b...)
	c.Report("web-0", "", fsm.Unhealthy)
	one.reaches(b[1])
	two.reaches(b[1])
	c.Report("web-0", "", fsm.Healthy)
	one.reaches(b...)
	third := newBackend(t)
	c.Run("web", "web-9", "n1", third.addr, fsm.Healthy)
	one.reaches(append(b, third)...)
	c.Drain("web-1", fsm.Healthy)
	one.reaches(b[0], third)
	two.reaches(b[0], third)
	// The last one goes: requests fail at once and say why.
	c.Drain("web-0", fsm.Healthy)
	c.Drain("web-9", fsm.Healthy)
	eventually(t, "an error without endpoints", func() bool {
		_, err := one.call(t.Context())
		return status.Code(err) == codes.Unavailable
	})
	c.Run("web", "web-10", "n2", b[0].addr, fsm.Healthy)
	one.recovers(b[0])
}

// Under load instances are drained and ended, one after the other, and others
// take their places: no request fails.
func TestDrainLosesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", nil)
	s := serve(t, c)
	c.backends("web", 2)
	live := map[string]*backend{}
	load := s.dial(t, "web")
	load.must(t.Context())
	var calls atomic.Int64
	var seen sync.Map // address to the number of the last call it answered
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				addr, err := load.call(t.Context()) // fails fast
				if err != nil {
					t.Error("a request has failed:", err)
					return
				}
				seen.Store(addr, calls.Add(1))
			}
		})
	}
	ids := []string{"web-0", "web-1"}
	for k := range 6 {
		id := "next-" + string(rune('a'+k))
		b := newBackend(t)
		live[id] = b
		c.Run("web", id, "n1", b.addr, fsm.Healthy)
		eventually(t, "a request to the new instance", func() bool { _, ok := seen.Load(b.addr); return ok || t.Failed() })
		old := ids[0]
		ids = append(ids[1:], id)
		c.Drain(old, fsm.Healthy)
		if b := live[old]; b != nil {
			// It is quiet when others have answered many requests since.
			eventually(t, "no request to the drained instance", func() bool {
				last, _ := seen.Load(b.addr)
				return t.Failed() || calls.Load() > last.(int64)+500
			})
			b.GracefulStop()
			c.Report(old, fsm.Stopped, "")
		}
	}
	close(stop)
	wg.Wait()
}

// Weights are those of the nodes.
func TestWeights(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n2", "b", "3")
	c.Group("web", &fsm.Service{Balancer: fsm.Balancer{Policy: fsm.BalanceWeightedRoundRobin}})
	s := serve(t, c)
	b := c.backends("web", 2)
	ch := s.dial(t, "web")
	ch.reaches(b...)
	share := func() (n int) {
		for range 2000 {
			if ch.must(t.Context()) == b[1].addr {
				n++
			}
		}
		return n
	}
	// Eight times the standard deviation of 2000 draws is 155.
	if n := share(); n < 1345 || n > 1655 {
		t.Errorf("the instance of weight 3 beside one of weight 1 got %d of 2000 requests", n)
	}
	// The weight of a node moves without a change of its instances.
	c.node("n2", "b", "1")
	pushed := s.metric(t, "paceline_xds_pushes_total", "endpoints")
	eventually(t, "equal shares", func() bool { n := share(); return n > 820 && n < 1180 })
	if s.metric(t, "paceline_xds_pushes_total", "cluster") != 1 || pushed < 1 {
		t.Error("a weight is no part of the cluster resource")
	}
}

func TestGroupRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, c)
	b := c.backends("web", 1)
	ch := s.dial(t, "web")
	ch.reaches(b...)
	c.remove("web")
	var err error
	eventually(t, "an error", func() bool { _, err = ch.call(t.Context()); return err != nil })
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "removed") {
		t.Errorf("after the group is gone: %v", err)
	}
	if n := s.metric(t, "paceline_xds_resources", "listener"); n != 0 {
		t.Errorf("%v listeners are left", n)
	}
	c.Group("web", turns())
	c.Run("web", "again", "n1", b[0].addr, fsm.Healthy)
	ch.recovers(b...)
}

// A client that has lost its stream goes on with what it knows, and learns
// what has changed meanwhile from the next server, also that a group is gone.
func TestRestart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	c.Group("old", &fsm.Service{PathPrefix: "/old"})
	s := serve(t, c)
	b := c.backends("web", 2)
	old := c.backends("old", 1)
	ch, lost := s.dial(t, "web"), s.dial(t, "old")
	ch.reaches(b...)
	lost.reaches(old...)
	s.stop()
	for range 50 {
		if _, err := ch.call(t.Context()); err != nil {
			t.Fatal("without a server:", err)
		}
	}
	third := newBackend(t)
	c.Run("web", "web-2", "n1", third.addr, fsm.Healthy)
	c.Drain("web-0", fsm.Healthy)
	c.remove("old")
	serveAt(t, c, s.addr)
	ch.reaches(b[1], third)
	eventually(t, "the end of the removed group", func() bool { _, err := lost.call(t.Context()); return err != nil })
}

// A node that knows nothing must not say that there is nothing.
func TestNotReady(t *testing.T) {
	t.Parallel()
	c := emptyCluster(t)
	var mu sync.Mutex
	var notReady error
	s := serve(t, c, func(cfg *xds.Config) {
		cfg.Ready = func() error { mu.Lock(); defer mu.Unlock(); return notReady }
	})
	refused := func(text string) {
		t.Helper()
		_, err := s.raw(t).Recv()
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want UNAVAILABLE with %q", err, text)
		}
	}
	refused("has not joined")
	mu.Lock()
	notReady = errors.New("the state is damaged")
	mu.Unlock()
	c.found()
	c.Group("web", turns())
	b := c.backends("web", 1)
	refused("damaged")
	ch := s.dial(t, "web")
	if n := s.metric(t, "paceline_xds_refused_total", "not_ready"); n < 2 {
		t.Errorf("%v refusals are counted", n)
	}
	ch.conn.Connect()
	eventually(t, "a refusal of the client", func() bool { return s.metric(t, "paceline_xds_refused_total", "not_ready") > 2 })
	mu.Lock()
	notReady = nil
	mu.Unlock()
	ch.recovers(b...)
	// Nor does it take back what it has said when it loses its state.
	c.Replace(fsm.NewState())
	s.Renew()
	ch.reaches(b...)
	if n := s.metric(t, "paceline_xds_resources", "listener"); n != 1 {
		t.Errorf("%v listeners after the loss of the state", n)
	}
}

// A client that knows several nodes takes the next when the first is not ready,
// or ends.
func TestNextServer(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	b := c.backends("web", 2)
	first, second := serve(t, emptyCluster(t)), serve(t, c)
	dial(t, "web", first, second).recovers(b...)
	if n := second.metric(t, "paceline_xds_streams", ""); n != 1 {
		t.Errorf("%v streams at the node that is ready", n)
	}
	third := serve(t, c)
	ch := dial(t, "web", second, third)
	ch.reaches(b...)
	second.stop()
	c.Group("api", &fsm.Service{PathPrefix: "/api"})
	api := c.backends("api", 1)
	dial(t, "api", second, third).recovers(api...)
	ch.reaches(b...)
}

// services has a service for each thing that resources are made of.
func services() map[string]*fsm.Service {
	zero := 0
	list := map[string]*fsm.Service{
		"none":    nil,
		"header":  {Balancer: fsm.Balancer{Policy: fsm.BalanceHash, HashOn: "header:X-User"}},
		"cookie":  {Balancer: fsm.Balancer{Policy: fsm.BalanceHash, HashOn: "cookie:user"}},
		"query":   {Balancer: fsm.Balancer{Policy: fsm.BalanceHash, HashOn: "query:user"}},
		"binary":  {Balancer: fsm.Balancer{Policy: fsm.BalanceHash, HashOn: "header:user-bin"}},
		"sticky":  {Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable}},
		"hash-id": {Stickiness: fsm.Stickiness{Strategy: fsm.StickyHash}},
		"health":  {Health: fsm.ServiceHealth{ConsecutiveFailures: 1000, EjectFor: fsm.Duration(1)}},
		"never":   {Health: fsm.ServiceHealth{ConsecutiveFailures: 3, MaxEjectedPercent: &zero}},
		"limits":  {Limits: fsm.ServiceLimits{MaxInFlightPerInstance: 1 << 30}},
	}
	for _, policy := range fsm.BalancerPolicies() {
		if policy != fsm.BalanceHash {
			list[strings.ReplaceAll(policy, "_", "-")] = &fsm.Service{Balancer: fsm.Balancer{Policy: policy}}
		}
	}
	for name, s := range list { // each on a route of its own
		if s != nil {
			s.PathPrefix = "/" + name
		}
	}
	return list
}

// Whatever the state accepts, grpc-go accepts, and sends requests by it.
func TestConformance(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n2", "b", "2")
	s := serve(t, c)
	for name, spec := range services() {
		c.Group(name, spec)
		b := c.backends(name, 3)
		// What must be left out: an address twice, names, no port.
		c.Run(name, name+"-8", "n2", b[0].addr, fsm.Healthy)
		c.Run(name, name+"-9", "n1", "db.example.com:80", fsm.Healthy)
		c.Run(name, name+"-x", "n1", "10.0.0.1:0", fsm.Healthy)
		ch := s.dial(t, name)
		seen := map[string]bool{}
		ask := func() int {
			seen[ch.must(t.Context())] = true
			return len(seen)
		}
		if spec != nil && (spec.Balancer.Policy == fsm.BalanceHash || spec.Balancer.Policy == fsm.BalanceIPHash) {
			for range 30 {
				if ask() != 1 {
					t.Fatalf("%s: several instances answer one channel", name)
				}
			}
		} else { // the first may answer alone until there are connections to the others
			eventually(t, name+": several instances answer one channel", func() bool { return ask() > 1 })
		}
		if n := s.nacks(t); n != 0 {
			t.Fatalf("%s is refused by the client", name)
		}
	}
}

// A header decides, and channels without it differ.
func TestHash(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", &fsm.Service{Balancer: fsm.Balancer{Policy: fsm.BalanceHash, HashOn: "header:X-User"}})
	s := serve(t, c)
	c.backends("web", 3)
	one, two := s.dial(t, "web"), s.dial(t, "web")
	seen := map[string]bool{}
	for k := range 40 {
		ctx := metadata.AppendToOutgoingContext(t.Context(), "x-user", strings.Repeat("u", k+1))
		addr := one.must(ctx)
		seen[addr] = true
		if again, other := one.must(ctx), two.must(ctx); again != addr || other != addr {
			t.Fatalf("a user's requests go to %s, %s and, from another client, to %s", addr, again, other)
		}
	}
	if len(seen) != 3 {
		t.Errorf("40 users are on %d of 3 instances", len(seen))
	}
}
