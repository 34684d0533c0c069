package xds

import (
	"context"
	"runtime/debug"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"golang.org/x/time/rate"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/pacelinehq/paceline/fsm"
)

// StreamAggregatedResources serves one client. It is called by gRPC.
func (s *Server) StreamAggregatedResources(stream discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("an xDS stream panicked", "panic", p, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "the stream has failed; the node's log has more")
		}
	}()
	if err := s.usable(); err != nil {
		return s.refuse(refusedNotReady, codes.Unavailable, "%v; try another node", err)
	}
	if s.streams.Add(1) > MaxStreams {
		s.streams.Add(-1)
		return s.refuse(refusedBusy, codes.ResourceExhausted, "node %s has its %d streams; try another node", s.cfg.Node, MaxStreams)
	}
	s.metrics.streams.Inc()
	defer func() {
		s.streams.Add(-1)
		s.metrics.streams.Dec()
	}()
	// A stream begins with what the node knows now, also when the change that
	// brought it is still on its way to the others.
	s.renew()
	err = s.sotw.StreamHandler(pace(stream), resource.AnyType)
	if err == nil && s.run.Err() != nil {
		return status.Errorf(codes.Unavailable, "node %s is stopping; try another node", s.cfg.Node)
	}
	return err
}

// usable says why the node's state can not be served.
func (s *Server) usable() error {
	if s.cfg.Cluster.State().ClusterID() == "" {
		return fsm.Errorf(fsm.Unavailable, "node", s.cfg.Node, "has not joined a cluster yet")
	}
	if s.cfg.Ready != nil {
		return s.cfg.Ready()
	}
	return nil
}

func (s *Server) refuse(reason string, code codes.Code, format string, args ...any) error {
	s.metrics.refused.WithLabelValues(reason).Inc()
	return status.Errorf(code, format, args...)
}

// paced is a stream whose requests are read at a bounded rate; the client is
// slowed by the window of its connection.
type paced struct {
	discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer
	rate *rate.Limiter
}

func pace(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) *paced {
	return &paced{s, rate.NewLimiter(requestsASecond, requestsAtOnce)}
}

// Recv returns the next request.
func (p *paced) Recv() (*discoveryv3.DiscoveryRequest, error) {
	if err := p.rate.Wait(p.Context()); err != nil {
		return nil, err
	}
	return p.AggregatedDiscoveryService_StreamAggregatedResourcesServer.Recv()
}

// guard sees each request and response of the streams.
type guard struct{ s *Server }

// OnStreamOpen implements sotw.Callbacks.
func (guard) OnStreamOpen(context.Context, int64, string) error { return nil }

// OnStreamClosed implements sotw.Callbacks.
func (guard) OnStreamClosed(int64, *corev3.Node) {}

// OnStreamResponse implements sotw.Callbacks.
func (g guard) OnStreamResponse(_ context.Context, _ int64, _ *discoveryv3.DiscoveryRequest, resp *discoveryv3.DiscoveryResponse) {
	if label, ok := labelOf(resp.GetTypeUrl()); ok {
		g.s.metrics.pushes.WithLabelValues(label).Inc()
	}
}

// OnStreamRequest implements sotw.Callbacks. An error ends the stream.
func (g guard) OnStreamRequest(_ int64, req *discoveryv3.DiscoveryRequest) error {
	s := g.s
	label, ok := labelOf(req.GetTypeUrl())
	switch names := req.GetResourceNames(); {
	case !ok:
		return s.refuse(refusedBadRequest, codes.InvalidArgument,
			"type %.128q is not served; there are listeners, routes, clusters and endpoints, version 3", req.GetTypeUrl())
	case len(names) > MaxNames:
		return s.refuse(refusedBadRequest, codes.InvalidArgument, "%d resources of a type are asked for, at most %d are allowed", len(names), MaxNames)
	case slices.Contains(names, "*"):
		return s.refuse(refusedBadRequest, codes.InvalidArgument, "ask for groups by name: there is no wildcard")
	}
	if req.GetErrorDetail() != nil {
		s.metrics.nacks.WithLabelValues(label).Inc()
		if s.nackLog.Allow() {
			s.log.Warn("an xDS client refuses what it was sent", "type", label, "client", short(req.GetNode().GetId()),
				"version", short(req.GetVersionInfo()), "reason", short(req.GetErrorDetail().GetMessage()))
		}
	}
	if req.GetResponseNonce() == "" {
		// The first request of a type on this stream. A version is of another
		// stream, or of another server: without it all is sent, also that
		// something is there no more.
		req.VersionInfo = ""
	}
	return nil
}

func short(text string) string { return text[:min(len(text), maxLogText)] }
