package xds_test

import (
	"bytes"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/xds"
)

// ask asks for resources of a type.
func ask(typ string, names ...string) *discoveryv3.DiscoveryRequest {
	return &discoveryv3.DiscoveryRequest{TypeUrl: typ, ResourceNames: names}
}

// unpack reads the one resource of a response.
func unpack[T proto.Message](t testing.TB, resp *discoveryv3.DiscoveryResponse, m T) T {
	t.Helper()
	if len(resp.Resources) != 1 {
		t.Fatalf("%d resources in a response of %s", len(resp.Resources), resp.TypeUrl)
	}
	if err := resp.Resources[0].UnmarshalTo(m); err != nil {
		t.Fatal(err)
	}
	return m
}

// A change is sent to those who asked for what has changed, and nothing else
// is: not for other services, nor for what does not show.
func TestNothingSpurious(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	c.Group("api", &fsm.Service{PathPrefix: "/api"})
	c.backends("web", 2)
	c.backends("api", 2)
	s := serve(t, c)
	r := s.raw(t)
	types := []string{resource.ListenerType, resource.RouteType, resource.ClusterType, resource.EndpointType}
	for _, typ := range types {
		r.send(ask(typ, "web"))
		if resp := r.next("web"); resp.TypeUrl != typ || len(resp.Resources) != 1 {
			t.Fatalf("asked for %s, got %v", typ, resp)
		}
	}
	// A second client asks for the other service.
	other := s.raw(t)
	other.send(ask(resource.EndpointType, "api"))
	other.next("api")
	// Services that are not this one, and what does not show of it.
	for range 5 {
		c.Report("api-0", "", fsm.Unhealthy)
		other.next("api")
		c.Report("api-0", "", fsm.Healthy)
		other.next("api")
		c.Run("web", fmt.Sprint("ill-", c.State().Index()), "n1", "no address", fsm.Healthy)
	}
	c.Group("third", &fsm.Service{PathPrefix: "/third"})
	c.remove("third")
	c.Group("web", &fsm.Service{Balancer: turns().Balancer, PathPrefix: "/elsewhere"}) // is the proxy's
	// The next message is of the next change, and has that resource only.
	c.Report("web-0", "", fsm.Unhealthy)
	list := unpack(t, r.next("web"), &endpointv3.ClusterLoadAssignment{})
	if len(list.Endpoints) != 1 || len(list.Endpoints[0].LbEndpoints) != 1 {
		t.Errorf("endpoints: %v", list)
	}
	c.Group("web", &fsm.Service{Balancer: fsm.Balancer{Policy: fsm.BalanceLeastRequests}})
	if typ := r.next("web").TypeUrl; typ != resource.ClusterType {
		t.Errorf("after a change of the balancer: %s", typ)
	}
	for typ, want := range map[string]float64{"listener": 1, "route": 1, "cluster": 2, "endpoints": 2 + 11} {
		if n := s.metric(t, "paceline_xds_pushes_total", typ); n != want {
			t.Errorf("%v pushes of %s, want %v", n, typ, want)
		}
	}
}

// What is asked for later comes by the same stream, and what is asked for no
// more does not.
func TestSubscription(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	c.Group("api", &fsm.Service{PathPrefix: "/api"})
	s := serve(t, c)
	r := s.raw(t)
	r.send(ask(resource.ListenerType))
	if resp := r.next(); len(resp.Resources) != 0 {
		t.Errorf("nothing was asked for, and %d listeners came", len(resp.Resources))
	}
	r.send(ask(resource.EndpointType, "web"))
	r.next("web", "api", "none")
	if resp := r.next("api", "none"); len(resp.Resources) != 1 {
		t.Errorf("%d resources for the one that is new", len(resp.Resources))
	}
	c.Run("web", "w", "n1", "10.0.0.1:80", fsm.Healthy) // not asked for now
	c.Run("api", "a", "n1", "10.0.0.2:80", fsm.Healthy)
	if got := unpack(t, r.next("api"), &endpointv3.ClusterLoadAssignment{}).ClusterName; got != "api" {
		t.Errorf("endpoints of %s", got)
	}
	// Removed groups are told by what is left of the names, for these types.
	r = s.raw(t)
	r.send(ask(resource.ClusterType, "web", "api"))
	if n := len(r.next("web", "api").Resources); n != 2 {
		t.Errorf("%d clusters", n)
	}
	c.remove("api")
	if got := unpack(t, r.next("web", "api"), &clusterv3.Cluster{}).Name; got != "web" {
		t.Errorf("cluster %s is left", got)
	}
	// A version of another server is no reason to keep silent.
	late := s.raw(t)
	req := ask(resource.ClusterType, "api")
	req.VersionInfo = "7"
	late.send(req)
	if n := len(late.next("api").Resources); n != 0 {
		t.Errorf("%d clusters of a removed group", n)
	}
}

// slow is a cluster whose changes are still on their way.
type slow struct{ *cluster }

func (slow) Watch(ctx context.Context, _ uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(func(fsm.ChangeSet, error) bool) { <-ctx.Done() }
}

// A stream begins with the present state, and does not wait to be told of it.
func TestPresentState(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, slow{c})
	for k := range 3 {
		r := s.raw(t)
		r.send(ask(resource.EndpointType, "web"))
		list := unpack(t, r.next("web"), &endpointv3.ClusterLoadAssignment{})
		if len(list.Endpoints) != min(k, 1) || k > 0 && len(list.Endpoints[0].LbEndpoints) != k {
			t.Errorf("with %d instances: %v", k, list)
		}
		c.Run("web", fmt.Sprint("i", k), "n1", fmt.Sprintf("10.0.0.%d:80", k+1), fsm.Healthy)
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.node("n2", "b", "5")
	get := func(s *server, typ string, m proto.Message) string {
		r := s.raw(t)
		r.send(ask(typ, "web"))
		return strings.Join(strings.Fields(fmt.Sprint(unpack(t, r.next("web"), m))), " ")
	}
	c.Group("web", &fsm.Service{
		Balancer: fsm.Balancer{Policy: fsm.BalanceRandom},
		Health:   fsm.ServiceHealth{ConsecutiveFailures: 7},
		Limits:   fsm.ServiceLimits{MaxInFlightPerInstance: 10},
	})
	s := serve(t, c)
	c.Run("web", "1", "n1", "10.0.0.1:80", fsm.Healthy)
	c.Run("web", "2", "n2", "10.0.0.2:80", fsm.Healthy)
	c.Run("web", "3", "n2", "[2001:db8::3]:80", fsm.Healthy)
	c.Run("web", "4", "n1", "10.0.0.2:80", fsm.Healthy) // the address again: the later one counts
	c.Run("web", "5", "n1", "db.example.com:80", fsm.Healthy)
	text := get(s, resource.ClusterType, &clusterv3.Cluster{})
	for _, want := range []string{
		"max_requests:{value:30}", "failure_percentage_request_volume:{value:7}", "base_ejection_time:{seconds:5}",
		"max_ejection_percent:{value:50}", "enforcing_success_rate:{}", "wrr_locality",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the cluster has no %s: %s", want, text)
		}
	}
	places := func() (out []string) {
		r := s.raw(t)
		r.send(ask(resource.EndpointType, "web"))
		for _, l := range unpack(t, r.next("web"), &endpointv3.ClusterLoadAssignment{}).Endpoints {
			text := fmt.Sprintf("%s/%s=%d", l.Locality.Zone, l.Locality.SubZone, l.LoadBalancingWeight.Value)
			for _, e := range l.LbEndpoints {
				text += fmt.Sprintf(" %s*%d", e.GetEndpoint().Address.GetSocketAddress().Address, e.LoadBalancingWeight.GetValue())
			}
			out = append(out, text)
		}
		return out
	}
	if got, want := places(), []string{"a/=2 10.0.0.1*0 10.0.0.2*0", "b/weight-5=5 2001:db8::3*0"}; !slices.Equal(got, want) {
		t.Errorf("by weight: %q, want %q", got, want)
	}
	c.Group("web", turns())
	if got, want := places(), []string{"a/=2 10.0.0.1*0 10.0.0.2*0", "b/=1 2001:db8::3*0"}; !slices.Equal(got, want) {
		t.Errorf("in turn: %q, want %q", got, want)
	}
	if text := get(s, resource.ClusterType, &clusterv3.Cluster{}); strings.Contains(text, "outlier") || !strings.Contains(text, "max_requests:{value:4294967295}") {
		t.Errorf("the cluster has limits that nobody has asked for: %s", text)
	}
	c.Group("web", &fsm.Service{Balancer: fsm.Balancer{Policy: fsm.BalanceHash, HashOn: "header:X-User"}})
	if got, want := places(), []string{"/=7 10.0.0.1*1 10.0.0.2*1 2001:db8::3*5"}; !slices.Equal(got, want) {
		t.Errorf("on a ring: %q, want %q", got, want)
	}
	if text := get(s, resource.RouteType, &routev3.RouteConfiguration{}); !strings.Contains(text, `header_name:"x-user"`) {
		t.Errorf("the route does not hash the header: %s", text)
	}
}

// What no client of ours sends ends that stream with a reason, and no other.
func TestGarbage(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, c)
	good := s.raw(t)
	good.send(ask(resource.EndpointType, "web"))
	good.next("web")
	many := make([]string, xds.MaxNames+1)
	for k := range many {
		many[k] = fmt.Sprint("g", k)
	}
	for name, x := range map[string]struct {
		req  *discoveryv3.DiscoveryRequest
		code codes.Code
		text string
	}{
		"no type":      {&discoveryv3.DiscoveryRequest{}, codes.InvalidArgument, "type URL is required"},
		"unknown type": {ask(resource.SecretType, "web"), codes.InvalidArgument, "is not served"},
		"long type":    {ask(strings.Repeat("x", 100_000)), codes.InvalidArgument, "is not served"},
		"many names":   {ask(resource.EndpointType, many...), codes.InvalidArgument, "at most 2048"},
		"wildcard":     {ask(resource.ListenerType, "*"), codes.InvalidArgument, "by name"},
		"huge":         {ask(resource.ListenerType, strings.Repeat("x", xds.MaxRequest)), codes.ResourceExhausted, "larger than max"},
	} {
		r := s.raw(t)
		r.send(x.req)
		_, err := r.Recv()
		if status.Code(err) != x.code || !strings.Contains(err.Error(), x.text) || len(err.Error()) > 500 {
			t.Errorf("%s: %.500v, want %s with %q", name, err, x.code, x.text)
		}
	}
	if n := s.metric(t, "paceline_xds_refused_total", "bad_request"); n != 4 {
		t.Errorf("%v bad requests are counted", n)
	}
	c.Run("web", "1", "n1", "10.0.0.1:80", fsm.Healthy)
	unpack(t, good.next("web"), &endpointv3.ClusterLoadAssignment{})

	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	delta, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(t.Context())
	if err == nil {
		_, err = delta.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("the incremental protocol: %v", err)
	}
}

// A refusal is counted and logged, but not without end.
func TestNack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	var log syncBuffer
	s := serve(t, c, func(cfg *xds.Config) { cfg.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	r := s.raw(t)
	req := ask(resource.ClusterType, "web")
	req.Node = &corev3.Node{Id: "app-1"}
	r.send(req)
	resp, err := r.Recv()
	if err != nil {
		t.Fatal(err)
	}
	const times = 200
	for range times {
		r.send(&discoveryv3.DiscoveryRequest{
			TypeUrl: resp.TypeUrl, ResourceNames: []string{"web"}, ResponseNonce: resp.Nonce,
			ErrorDetail: &rpc.Status{Message: "unknown policy " + strings.Repeat("x", 10_000)},
		})
	}
	eventually(t, "all refusals to be counted", func() bool { return s.metric(t, "paceline_xds_nacks_total", "cluster") == times })
	lines := strings.Count(log.String(), "refuses")
	if lines < 1 || lines > times/2 || !strings.Contains(log.String(), "unknown policy") || !strings.Contains(log.String(), "app-1") {
		t.Errorf("%d lines: %.600s", lines, log.String())
	}
	if long := slices.MaxFunc(strings.Split(log.String(), "\n"), func(a, b string) int { return len(a) - len(b) }); len(long) > 1000 {
		t.Errorf("a line of %d bytes", len(long))
	}
	// What is refused is not sent again, a change of it is.
	c.Group("web", &fsm.Service{Balancer: fsm.Balancer{Policy: fsm.BalanceLeastRequests}})
	if resp := r.next("web"); resp.TypeUrl != resource.ClusterType {
		t.Errorf("after the refusal: %v", resp)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, c)
	s.TakeStreams(xds.MaxStreams - 1)
	first := s.raw(t)
	first.send(ask(resource.ListenerType, "web"))
	first.next("web")
	if _, err := s.raw(t).Recv(); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("one stream too many: %v", err)
	}
	s.TakeStreams(-1)
	second := s.raw(t)
	second.send(ask(resource.ListenerType, "web"))
	second.next("web")
	if n := s.metric(t, "paceline_xds_refused_total", "busy"); n != 1 {
		t.Errorf("%v refusals", n)
	}
}

// endless is a client that sends requests as fast as they are read.
type endless struct {
	xds.Stream
	ctx context.Context
}

func (e endless) Context() context.Context                   { return e.ctx }
func (endless) Recv() (*discoveryv3.DiscoveryRequest, error) { return nil, nil }

// A burst is free; what goes on faster than the rate waits for its turn, or for
// the end of the stream.
func TestRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := xds.Paced(endless{ctx: ctx})
		read := func(n int) time.Duration {
			began := time.Now()
			for range n {
				if _, err := s.Recv(); err != nil {
					t.Fatal(err)
				}
			}
			return time.Since(began)
		}
		if d := read(xds.RequestsAtOnce); d != 0 {
			t.Errorf("a burst took %v", d)
		}
		if d := read(3 * xds.RequestsASecond).Round(10 * time.Millisecond); d != 3*time.Second {
			t.Errorf("what is sent in three seconds took %v", d)
		}
		cancel()
		if _, err := s.Recv(); err == nil {
			t.Error("a stream that has ended is read")
		}
	})
}

func TestStop(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.Group("web", turns())
	s := serve(t, c)
	r := s.raw(t)
	r.send(ask(resource.ListenerType, "web"))
	r.next("web")
	s.stop()
	if _, err := r.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "stopping") {
		t.Errorf("at the end: %v", err)
	}
	if n := s.metric(t, "paceline_xds_streams", ""); n != 0 {
		t.Errorf("%v streams are left", n)
	}
	if err := s.Serve(listen(t)); err == nil {
		t.Error("a stopped server serves again")
	}
	idle, err := xds.New(xds.Config{Node: "n1", Cluster: c})
	if err != nil {
		t.Fatal(err)
	}
	if err := idle.Shutdown(context.Background()); err != nil {
		t.Error("a server that has not served:", err)
	}
	if err := idle.Serve(listen(t)); err == nil {
		t.Error("a server serves after its end")
	}
	for _, cfg := range []xds.Config{{}, {Node: "n1"}, {Node: "No Name", Cluster: c}} {
		if _, err := xds.New(cfg); fsm.KindOf(err) != fsm.Invalid {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// Every series is there before the first client.
func TestMetricsAtZero(t *testing.T) {
	t.Parallel()
	s := serve(t, newCluster(t))
	for _, typ := range []string{"cluster", "endpoints", "listener", "route"} {
		for _, name := range []string{"resources", "pushes_total", "nacks_total"} {
			if n := s.metric(t, "paceline_xds_"+name, typ); n != 0 {
				t.Errorf("%s of %s: %v", name, typ, n)
			}
		}
	}
	for _, reason := range []string{"not_ready", "busy", "bad_request"} {
		if n := s.metric(t, "paceline_xds_refused_total", reason); n != 0 {
			t.Errorf("%s: %v", reason, n)
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
