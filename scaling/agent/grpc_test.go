package agent_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/agent"
)

// grpcServer is a real gRPC server; register gives it what it serves.
func grpcServer(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	register(s)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// httpServer is a server that speaks HTTP/2 or HTTP/1, but no gRPC.
func httpServer(t *testing.T, http2 bool, answer http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(http2)
	p.SetHTTP1(!http2)
	s := &http.Server{Handler: answer, Protocols: p, ReadHeaderTimeout: time.Minute}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		<-done
	})
	return l.Addr().String()
}

// hangsUp is a server that takes connections and ends them.
func hangsUp(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// refusing is a health service whose calls fail.
type refusing struct {
	healthpb.UnimplementedHealthServer
	err error
}

func (r refusing) Check(context.Context, *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	return nil, r.err
}

func ask(t *testing.T, addr, service string) string {
	t.Helper()
	a := agent.New(agent.Config{Node: node, Cluster: newCluster()})
	err := a.Ask(t.Context(), addr, fsm.HealthCheck{Type: fsm.CheckGRPC, Service: service, Timeout: fsm.Duration(10 * time.Second)})
	if err == nil {
		return ""
	}
	return err.Error()
}

func TestGRPCChecksARealServer(t *testing.T) {
	t.Parallel()
	h := health.NewServer()
	addr := grpcServer(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, h) })
	h.SetServingStatus("shop.Cart", healthpb.HealthCheckResponse_SERVING)
	h.SetServingStatus("shop.Pay", healthpb.HealthCheckResponse_NOT_SERVING)
	h.SetServingStatus("shop.New", healthpb.HealthCheckResponse_UNKNOWN)
	for service, want := range map[string]string{
		"": "", "shop.Cart": "",
		"shop.Pay":   "answered NOT_SERVING",
		"shop.New":   "answered UNKNOWN",
		"shop.Other": `its gRPC health service does not know the service "shop.Other"`,
	} {
		if got := ask(t, addr, service); got != want {
			t.Errorf("service %q: got %q, want %q", service, got, want)
		}
	}
	h.Shutdown()
	if got, want := ask(t, addr, ""), "answered NOT_SERVING"; got != want {
		t.Errorf("after its end: got %q, want %q", got, want)
	}
}

func TestGRPCChecksThatCanNotSucceed(t *testing.T) {
	t.Parallel()
	const grpcType = "application/grpc"
	// says is an answer by hand: a body, then a status.
	says := func(body, code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", grpcType)
			_, _ = io.WriteString(w, body)
			if code != "" {
				w.Header().Set(http.TrailerPrefix+"Grpc-Status", code)
			}
		}
	}
	good := "\x00\x00\x00\x00\x02\x08\x01"
	tail := strings.Repeat("x", 5000)
	for name, c := range map[string]struct{ addr, want string }{
		"no health service": {grpcServer(t, func(*grpc.Server) {}), "has no gRPC health service (grpc.health.v1)"},
		"an error of its own": {
			grpcServer(t, func(s *grpc.Server) {
				healthpb.RegisterHealthServer(s, refusing{err: status.Error(codes.Unavailable, "datenbank: 100% überlastet")})
			}), "answered gRPC status 14: datenbank: 100% überlastet",
		},
		"a long error": {
			grpcServer(t, func(s *grpc.Server) {
				healthpb.RegisterHealthServer(s, refusing{err: status.Error(codes.Internal, tail)})
			}),
			"answered gRPC status 13: " + tail[:97] + "…",
		},
		"HTTP/1":              {httpServer(t, false, says(good, "0")), "does not speak HTTP/2, which gRPC needs, or broke the connection off"},
		"nothing":             {hangsUp(t), "does not speak HTTP/2, which gRPC needs, or broke the connection off"},
		"a web page":          {httpServer(t, true, http.NotFound), "answered 404 Not Found, which is not gRPC"},
		"another type":        {httpServer(t, true, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hi") }), `answered "text/plain; charset=utf-8", which is not gRPC`},
		"good, by hand":       {httpServer(t, true, says(good, "0")), ""},
		"no status":           {httpServer(t, true, says(good, "")), "answered without a gRPC status"},
		"no message":          {httpServer(t, true, says("", "0")), "answered what is not one plain gRPC message"},
		"a compressed one":    {httpServer(t, true, says("\x01"+good[1:], "0")), "answered what is not one plain gRPC message"},
		"two messages":        {httpServer(t, true, says(good+good, "0")), "answered what is not one plain gRPC message"},
		"a broken message":    {httpServer(t, true, says("\x00\x00\x00\x00\x02\x08\xff", "0")), "answered what is not a HealthCheckResponse"},
		"a message of a day":  {httpServer(t, true, says("\x00\x00\x00\x00\x00", "0")), "answered UNKNOWN"},
		"a health of a day":   {httpServer(t, true, says("\x00\x00\x00\x00\x02\x08\x07", "0")), "answered the unknown health 7"},
		"an unknown field":    {httpServer(t, true, says("\x00\x00\x00\x00\x04\x10\x05\x08\x01", "0")), ""},
		"an answer too large": {httpServer(t, true, says(good+tail, "0")), "answered more than 4096 bytes"},
		"nobody":              {"127.0.0.1:1", "connection refused"},
	} {
		if got := ask(t, c.addr, ""); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// TestGRPCChecksReadNoMoreThanTheyMust: a server that never ends its answer is
// not listened to.
func TestGRPCChecksReadNoMoreThanTheyMust(t *testing.T) {
	t.Parallel()
	ended := make(chan struct{})
	addr := httpServer(t, true, func(w http.ResponseWriter, _ *http.Request) {
		defer close(ended)
		w.Header().Set("Content-Type", "application/grpc")
		for {
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	if got, want := ask(t, addr, ""), fmt.Sprintf("answered more than %d bytes", 4096); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	<-ended
}

// TestQuestionsDoNotHoldUpChecks: instances of other nodes that hang take none
// of the slots that this node's own need.
func TestQuestionsDoNotHoldUpChecks(t *testing.T) {
	const many = 64 // as many as are asked at once
	arrived := make(chan struct{}, many)
	addr := httpServer(t, false, func(_ http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		<-r.Context().Done()
	})
	c := withTemplate(t, func(tpl *fsm.Template) { tpl.HealthCheck.Interval = fsm.Duration(100 * time.Millisecond) })
	n := startReal(t, c, node)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range many {
		wg.Go(func() {
			_ = n.agent.Ask(ctx, addr, fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/", Timeout: fsm.Duration(time.Minute)})
		})
	}
	for range many {
		<-arrived
	}
	c.Must(fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: node}}})
	c.becomes(t, "i1", fsm.Running, fsm.Healthy)
}

// TestAGRPCCheckOfAnInstance goes all the way: template, agent, state.
func TestAGRPCCheckOfAnInstance(t *testing.T) {
	h := health.NewServer()
	addr := grpcServer(t, func(s *grpc.Server) { healthpb.RegisterHealthServer(s, h) })
	port := 0
	if _, err := fmt.Sscanf(addr[strings.LastIndexByte(addr, ':')+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	c := withTemplate(t, func(tpl *fsm.Template) {
		tpl.HealthCheck = &fsm.HealthCheck{
			Type: fsm.CheckGRPC, Service: "shop", Port: port, Interval: fsm.Duration(100 * time.Millisecond), Fall: 2,
		}
	})
	h.SetServingStatus("shop", healthpb.HealthCheckResponse_SERVING)
	startReal(t, c, node)
	c.Must(fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: node}}})
	c.becomes(t, "i1", fsm.Running, fsm.Healthy)
	h.SetServingStatus("shop", healthpb.HealthCheckResponse_NOT_SERVING)
	if row := c.becomes(t, "i1", fsm.Running, fsm.Unhealthy); row.Reason != "2 health checks in a row failed: answered NOT_SERVING" {
		t.Errorf("got the reason %q", row.Reason)
	}
}
