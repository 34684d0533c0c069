//go:build xds

package node_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

// oneNode is a cluster of one, with an xDS server.
func oneNode(t *testing.T, change func(*node.Config)) (*node.Node, error) {
	t.Helper()
	cfg := node.Config{
		Name: "n1", DataDir: t.TempDir(), PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0", APIAddr: "127.0.0.1:0",
		TrafficAddr: "off", XDSAddr: "127.0.0.1:0", Logger: slog.New(slog.DiscardHandler),
	}
	change(&cfg)
	return node.New(cfg.WithDefaults(), node.Environment{Driver: fake.New("process", fake.Hooks{})})
}

// A node serves what its cluster runs, and tells its clients when it stops.
func TestXDS(t *testing.T) {
	n, err := oneNode(t, func(*node.Config) {})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for _, cmd := range []fsm.Command{
		fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: fsm.SampleCommand}},
		fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "web", MinSize: 2, Desired: 2, MaxSize: 2}},
	} {
		if _, err := n.Cluster().Propose(ctx, cmd); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := grpc.NewClient(n.XDS(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	req := &discoveryv3.DiscoveryRequest{TypeUrl: resource.EndpointType, ResourceNames: []string{"web"}}
	var stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	for passing := 0; passing < 2; {
		if stream == nil {
			if stream, err = discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx); err != nil {
				t.Fatal(err)
			}
			req.ResponseNonce = ""
		}
		_ = stream.Send(req) // Recv says why when it fails
		resp, err := stream.Recv()
		if status.Code(err) == codes.Unavailable && strings.Contains(err.Error(), "has not joined") {
			stream = nil // the node registers after its first leader
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		req.ResponseNonce, req.VersionInfo, passing = resp.Nonce, resp.VersionInfo, 0
		for _, r := range resp.Resources {
			var list endpointv3.ClusterLoadAssignment
			if err := r.UnmarshalTo(&list); err != nil {
				t.Fatal(err)
			}
			for _, l := range list.Endpoints {
				passing += len(l.LbEndpoints)
			}
		}
	}
	if err := n.Stop(ctx); err != nil {
		t.Error("stop:", err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.Unavailable {
		t.Errorf("at the end of the node: %v", err)
	}
}

func TestXDSAddress(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for addr, want := range map[string]string{
		taken.Addr().String(): "choose another --xds-addr",
		"0.0.0.0:7754":        "--insecure",
		"7754":                "is not host:port",
	} {
		n, err := oneNode(t, func(c *node.Config) { c.XDSAddr = addr })
		if err == nil {
			_ = n.Stop(context.Background())
			t.Errorf("%s is listened on", addr)
			continue
		}
		text := err.Error()
		var e *fsm.Error
		if errors.As(err, &e) {
			text += " " + e.Hint
		}
		if !strings.Contains(text, want) || !strings.Contains(text, "xds-addr") {
			t.Errorf("%s: %s", addr, text)
		}
	}
}
