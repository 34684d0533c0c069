package discovery_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of the tests; nothing depends on its length.
const patience = 20 * time.Second

// cluster is a state machine without Raft round it.
type cluster struct {
	mu      sync.Mutex
	machine *fsm.Machine
}

// State implements discovery.Cluster.
func (c *cluster) State() *fsm.State { return c.machine.State() }

func (c *cluster) must(cmd fsm.Command) {
	c.mu.Lock()
	defer c.mu.Unlock()
	env, err := fsm.Seal(cmd, "test", "")
	if err != nil {
		panic(err)
	}
	entry := fsm.Entry{Time: time.Unix(1, 0), Commands: []fsm.Envelope{env}}
	out, err := c.machine.Apply([]fsm.LogEntry{{Index: c.machine.State().Index() + 1, Term: 1, Data: entry.Encode()}})
	if err == nil {
		err = out[0].Errs[0]
	}
	if err != nil {
		panic(err)
	}
}

// id is the id of an instance.
func id(n int) string { return fmt.Sprintf("01INSTANCE%016d", n) }

func (c *cluster) group(name string) {
	c.must(fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MinSize: 0, MaxSize: 1000, Desired: 900}})
}

// run places an instance of a group on n1 and lets it serve at an address.
func (c *cluster) run(group string, n int, address string, health fsm.Health) {
	c.must(fsm.LaunchInstances{Group: group, Term: 1, Launches: []fsm.Launch{{ID: id(n), Node: "n1"}}})
	c.report(n, fsm.Starting, "", "")
	c.report(n, fsm.Running, address, health)
}

func (c *cluster) report(n int, state fsm.InstanceState, address string, health fsm.Health) {
	c.must(fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{
		{ID: id(n), State: state, Address: address, Health: health, Incarnation: 1},
	}})
}

// newCluster has node n1 and the group web: two endpoints that pass, of which
// one has IPv6, one that does not, and one that drains.
func newCluster() *cluster {
	c := &cluster{machine: fsm.NewMachine()}
	c.must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	c.node("n1", "10.0.0.1:7700", "5")
	c.must(fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: fsm.SampleCommand}})
	c.group("web")
	c.run("web", 1, "10.1.0.1:8001", fsm.Healthy)
	c.run("web", 2, "[2001:db8::2]:8002", fsm.Healthy)
	c.run("web", 3, "10.1.0.3:8003", fsm.Unhealthy)
	c.run("web", 4, "10.1.0.4:8004", fsm.Healthy)
	c.must(fsm.StopInstances{Instances: []string{id(4)}, Cause: "test"})
	c.report(4, "", "", fsm.Healthy) // it still passes its checks
	return c
}

func (c *cluster) node(name, api, weight string) {
	c.must(fsm.RegisterNode{Node: fsm.Node{
		Name: name, Incarnation: 1, Labels: map[string]string{fsm.WeightLabel: weight}, Drivers: []string{"process"},
		Resources: fsm.Resources{CPU: 4, MemoryMiB: 8192}, API: api, Version: "test",
	}})
}

// server is a running server.
type server struct {
	*discovery.Server
	address string
	reg     *prometheus.Registry
}

func serve(t testing.TB, c discovery.Cluster, change ...func(*discovery.Config)) *server {
	t.Helper()
	reg := prometheus.NewRegistry()
	cfg := discovery.Config{Node: "n1", Cluster: c, Registerer: reg}
	for _, f := range change {
		f(&cfg)
	}
	s, err := discovery.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	pc, l, err := discovery.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(pc, l) }()
	t.Cleanup(func() {
		if err := s.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return &server{Server: s, address: l.Addr().String(), reg: reg}
}

// counter reads a metric by its labels in the order of their names.
func (s *server) counter(t testing.TB, name string, values ...string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
	metrics:
		for _, m := range f.Metric {
			if f.GetName() != name || len(m.Label) != len(values) {
				continue
			}
			for i, l := range m.Label {
				if l.GetValue() != values[i] {
					continue metrics
				}
			}
			return m.Counter.GetValue()
		}
	}
	t.Fatalf("there is no %s %v", name, values)
	return 0
}

// ask sends one query and returns the answer.
func (s *server) ask(t testing.TB, network, name string, typ uint16, change ...func(*dns.Msg)) *dns.Msg {
	t.Helper()
	req := new(dns.Msg).SetQuestion(name, typ)
	for _, f := range change {
		f(req)
	}
	c := dns.Client{Net: network, Timeout: patience, UDPSize: dns.MaxMsgSize}
	resp, _, err := c.Exchange(req, s.address)
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[typ], err)
	}
	return resp
}

// writer is a client that takes the packed answer.
type writer struct {
	dns.ResponseWriter
	remote net.Addr
	sent   []byte
	closed bool
}

func (w *writer) RemoteAddr() net.Addr { return w.remote }
func (w *writer) Close() error         { w.closed = true; return nil }

func (w *writer) WriteMsg(m *dns.Msg) (err error) {
	w.sent, err = m.Pack()
	return err
}
