package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

func TestMain(m *testing.M) {
	// memberlist's probe under way outlives its Shutdown by up to a probe's time.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probe"))
}

// patience is how long a test waits for something that must happen.
const patience = 20 * time.Second

// incarnations counts up from the time of the start, as real ones do.
var incarnations = func() *atomic.Uint64 {
	n := &atomic.Uint64{}
	n.Store(uint64(time.Now().UnixNano()))
	return n
}()

// Ports for the nodes lie below those that systems give to outgoing
// connections: a port that was free a moment ago can then not be taken by one
// of these. Test processes that run beside this one begin elsewhere.
const (
	firstPort = 10_000
	portCount = 10_000
)

var portsTried = func() *atomic.Uint32 {
	n := &atomic.Uint32{}
	n.Store(uint32(os.Getpid()) * 257)
	return n
}()

// freePort finds a port of 127.0.0.1 that is free for TCP and UDP, and that
// this process has not given out before.
func freePort(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", firstPort+portsTried.Add(1)%portCount)
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		u, uerr := net.ListenPacket("udp", addr)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if uerr == nil {
			if err := u.Close(); err != nil {
				t.Fatal(err)
			}
			return addr
		}
	}
	t.Fatal("no free port")
	return ""
}

// node is one node of a fleet, through its restarts.
type node struct {
	name string
	cfg  cluster.Config
	*cluster.Cluster
	up bool
}

// fleet is a cluster of nodes in this process.
type fleet struct {
	t     testing.TB
	nodes []*node
}

type option func(*cluster.Config)

func logger(t testing.TB, name string) *slog.Logger {
	if os.Getenv("CLUSTER_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	level := slog.LevelInfo
	if os.Getenv("CLUSTER_LOG") == "debug" {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

// newFleet makes the nodes n1 to nN of one cluster, without starting them.
func newFleet(t testing.TB, n int, opts ...option) *fleet {
	t.Helper()
	f := &fleet{t: t}
	for range n {
		f.add(n, opts...)
	}
	var join []string
	for _, n := range f.nodes {
		join = append(join, n.cfg.GossipAddr)
	}
	for _, n := range f.nodes {
		n.cfg.Join = join
	}
	t.Cleanup(f.killAll)
	return f
}

func (f *fleet) add(expect int, opts ...option) *node {
	name := fmt.Sprintf("n%d", len(f.nodes)+1)
	n := &node{name: name, cfg: cluster.Config{
		Name: name, DataDir: f.t.TempDir(), PeerAddr: freePort(f.t), GossipAddr: freePort(f.t),
		APIAddr: "127.0.0.1:1" + name[1:], BootstrapExpect: expect, Logger: logger(f.t, name),
	}}
	if len(f.nodes) > 0 {
		n.cfg.Join = f.nodes[0].cfg.Join
	}
	for _, o := range opts {
		o(&n.cfg)
	}
	n.name = n.cfg.Name
	f.nodes = append(f.nodes, n)
	return n
}

// start starts nodes side by side.
func (f *fleet) start(nodes ...*node) {
	f.t.Helper()
	var wg sync.WaitGroup
	errs := make([]error, len(nodes))
	for i, n := range nodes {
		wg.Go(func() { errs[i] = f.tryStart(n) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) tryStart(n *node) error {
	n.cfg.Incarnation = incarnations.Add(1)
	c, err := cluster.Open(n.cfg)
	if err != nil {
		return err
	}
	if err := c.Start(context.Background()); err != nil {
		return err
	}
	n.Cluster, n.up = c, true
	return nil
}

// running starts a fleet of n nodes and waits until it has a leader.
func running(t testing.TB, n int, opts ...option) *fleet {
	t.Helper()
	f := newFleet(t, n, opts...)
	f.start(f.nodes...)
	f.settled()
	return f
}

// settled waits until every running node is in the configuration and knows one
// leader.
func (f *fleet) settled() *node {
	f.t.Helper()
	var leader *node
	f.eventually("all nodes know one leader", func() error {
		leader = nil
		want := ""
		for _, n := range f.nodes {
			if !n.up {
				continue
			}
			s := n.Status()
			if s.Leader == "" || s.ClusterID == "" || (want != "" && s.Leader != want) {
				return fmt.Errorf("%s sees leader %q (%s)", n.name, s.Leader, s.Problem)
			}
			want = s.Leader
			if n.name == want {
				leader = n
			}
		}
		if leader == nil {
			return fmt.Errorf("the leader %s is not running", want)
		}
		return nil
	})
	return leader
}

func (f *fleet) leader() *node { return f.settled() }

func (f *fleet) followers() []*node {
	l := f.leader()
	var list []*node
	for _, n := range f.nodes {
		if n.up && n != l {
			list = append(list, n)
		}
	}
	return list
}

func (f *fleet) kill(n *node) {
	n.Kill()
	n.up = false
}

func (f *fleet) stop(n *node) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		f.t.Fatal(err)
	}
	n.up = false
}

func (f *fleet) killAll() {
	var wg sync.WaitGroup
	for _, n := range f.nodes {
		if n.up {
			wg.Go(func() { f.kill(n) })
		}
	}
	wg.Wait()
}

// eventually waits until check returns nil.
func (f *fleet) eventually(what string, check func() error) {
	f.t.Helper()
	eventually(f.t, what, check)
}

func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-deadline.C:
			t.Fatalf("%s: %v", what, err)
		case <-tick.C:
		}
	}
}

// put is the write that the tests use: a template.
func put(name string) fsm.Command {
	return fsm.PutTemplate{Template: fsm.Template{Name: name, Driver: "process", Command: "@sample"}}
}

func mustPut(t testing.TB, c *cluster.Cluster, name string) fsm.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	res, err := c.Propose(ctx, put(name))
	if err != nil {
		t.Fatalf("put %s: %v", name, err)
	}
	return res
}

func hasTemplate(s *fsm.State, name string) bool {
	_, ok := s.Templates.Get(name)
	return ok
}

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}
