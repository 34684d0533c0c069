package discovery_test

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
	"github.com/pacelinehq/paceline/routing/discovery"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of the tests; nothing depends on its length.
const patience = 20 * time.Second

// id is the id of an instance.
func id(n int) string { return fmt.Sprintf("01INSTANCE%016d", n) }

// newCluster has node n1 and the group web: two endpoints that pass, of which
// one has IPv6, one that does not, and one that drains.
func newCluster() *fsmtest.Cluster {
	c := fsmtest.New()
	c.Must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	node(c, "n1", "10.0.0.1:7700", "5")
	c.Group("web", nil)
	c.Run("web", id(1), "n1", "10.1.0.1:8001", fsm.Healthy)
	c.Run("web", id(2), "n1", "[2001:db8::2]:8002", fsm.Healthy)
	c.Run("web", id(3), "n1", "10.1.0.3:8003", fsm.Unhealthy)
	c.Run("web", id(4), "n1", "10.1.0.4:8004", fsm.Healthy)
	c.Drain(id(4), fsm.Healthy)
	return c
}

func node(c *fsmtest.Cluster, name, api, weight string) {
	c.Node(fsm.Node{Name: name, Labels: map[string]string{fsm.WeightLabel: weight}, API: api})
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
