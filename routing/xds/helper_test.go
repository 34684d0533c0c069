package xds_test

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/peer"
	grpcxds "google.golang.org/grpc/xds"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
	"github.com/pacelinehq/paceline/routing/xds"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of a test. It is an alarm, and no assertion.
const patience = 30 * time.Second

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

// server is a running xDS server.
type server struct {
	*xds.Server
	addr string
	reg  *prometheus.Registry
	stop func()
}

func serve(t testing.TB, c routing.Cluster, change ...func(*xds.Config)) *server {
	t.Helper()
	return serveAt(t, c, "127.0.0.1:0", change...)
}

func serveAt(t testing.TB, c routing.Cluster, addr string, change ...func(*xds.Config)) *server {
	t.Helper()
	reg := prometheus.NewRegistry()
	cfg := xds.Config{Node: "n1", Cluster: c, Registerer: reg}
	for _, f := range change {
		f(&cfg)
	}
	s, err := xds.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	stop := sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := s.Shutdown(ctx); err != nil {
			t.Error("shutdown:", err)
		}
		if err := <-done; err != nil {
			t.Error("serve:", err)
		}
	})
	t.Cleanup(stop)
	return &server{Server: s, addr: l.Addr().String(), reg: reg, stop: stop}
}

// metric reads a metric by the value of its label; "" for one without.
func (s *server) metric(t testing.TB, name, label string) float64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && (label == "" && len(m.Label) == 0 || len(m.Label) == 1 && m.Label[0].GetValue() == label) {
				return m.Counter.GetValue() + m.Gauge.GetValue()
			}
		}
	}
	t.Fatalf("there is no %s %s", name, label)
	return 0
}

// nacks is how often clients have refused what they were sent.
func (s *server) nacks(t testing.TB) (n float64) {
	for _, typ := range []string{"cluster", "endpoints", "listener", "route"} {
		n += s.metric(t, "paceline_xds_nacks_total", typ)
	}
	return n
}

// backend is an instance: a gRPC server with the health service.
type backend struct {
	*grpc.Server
	addr string
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	l := listen(t)
	s := grpc.NewServer()
	healthv1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return &backend{s, l.Addr().String()}
}

// backends runs n instances of a group, on n1 and n2 in turn, with the ids
// GROUP-0, GROUP-1 and so on.
func (c *cluster) backends(group string, n int) []*backend {
	c.t.Helper()
	var list []*backend
	for k := range n {
		b := newBackend(c.t)
		c.Run(group, fmt.Sprintf("%s-%d", group, k), fmt.Sprintf("n%d", k%2+1), b.addr, fsm.Healthy)
		list = append(list, b)
	}
	return list
}

// bootstrap is what a client is told of servers.
func bootstrap(servers ...*server) []byte {
	var list []string
	for _, s := range servers {
		list = append(list, fmt.Sprintf(`{"server_uri": %q, "channel_creds": [{"type": "insecure"}], "server_features": ["xds_v3"]}`, s.addr))
	}
	return fmt.Appendf(nil, `{"xds_servers": [%s], "node": {"id": "test", "locality": {"zone": "a"}}}`, strings.Join(list, ","))
}

// channel is a client of a group: grpc-go with its xds resolver.
type channel struct {
	t    testing.TB
	conn *grpc.ClientConn
	rpc  healthv1.HealthClient
}

func (s *server) dial(t testing.TB, group string) *channel {
	t.Helper()
	return dial(t, group, s)
}

// dial makes a client that uses the first of the servers that serves it.
func dial(t testing.TB, group string, servers ...*server) *channel {
	t.Helper()
	builder, err := grpcxds.NewXDSResolverWithConfigForTesting(bootstrap(servers...))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///"+group, grpc.WithResolvers(builder), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &channel{t, conn, healthv1.NewHealthClient(conn)}
}

// call makes one RPC and says who has answered it.
func (c *channel) call(ctx context.Context, opts ...grpc.CallOption) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var p peer.Peer
	if _, err := c.rpc.Check(ctx, &healthv1.HealthCheckRequest{}, append(opts, grpc.Peer(&p))...); err != nil {
		return "", err
	}
	return p.Addr.String(), nil
}

// must makes one RPC that does not fail.
func (c *channel) must(ctx context.Context) string {
	c.t.Helper()
	addr, err := c.call(ctx, grpc.WaitForReady(true))
	if err != nil {
		c.t.Fatal(err)
	}
	return addr
}

// reaches calls until exactly these backends answer, each among 20 calls, of
// which none fails.
func (c *channel) reaches(want ...*backend) {
	c.t.Helper()
	c.await(want, func() (string, error) { return c.must(c.t.Context()), nil })
}

// recovers is reaches for a channel that has failed: calls may go on failing
// for a while.
func (c *channel) recovers(want ...*backend) {
	c.t.Helper()
	c.await(want, func() (string, error) { return c.call(c.t.Context()) })
}

func (c *channel) await(want []*backend, call func() (string, error)) {
	c.t.Helper()
	var addrs []string
	for _, b := range want {
		addrs = append(addrs, b.addr)
	}
	slices.Sort(addrs)
	eventually(c.t, fmt.Sprintf("answers of %v", addrs), func() bool {
		seen := map[string]bool{}
		for range 20 {
			addr, err := call()
			if err != nil {
				return false
			}
			seen[addr] = true
		}
		return slices.Equal(slices.Sorted(maps.Keys(seen)), addrs)
	})
}

// raw is a stream without a client's logic.
type raw struct {
	t testing.TB
	discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
}

func (s *server) raw(t testing.TB) *raw {
	t.Helper()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ctx := t.Context()
	if _, bench := t.(*testing.B); !bench { // which takes as long as it takes
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		t.Cleanup(cancel)
	}
	stream, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t, stream}
}

// next receives a response and acknowledges it.
func (r *raw) next(names ...string) *discoveryv3.DiscoveryResponse {
	r.t.Helper()
	resp, err := r.Recv()
	if err != nil {
		r.t.Fatal(err)
	}
	r.send(&discoveryv3.DiscoveryRequest{
		TypeUrl: resp.TypeUrl, ResourceNames: names, ResponseNonce: resp.Nonce, VersionInfo: resp.VersionInfo,
	})
	return resp
}

func (r *raw) send(req *discoveryv3.DiscoveryRequest) {
	r.t.Helper()
	if err := r.Send(req); err != nil {
		r.t.Fatal(err)
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}
