package xds

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
)

// Config is what a [Server] is made of. Node and Cluster are required.
type Config struct {
	// Node is this node's name; refusals name it.
	Node    string
	Cluster routing.Cluster
	// Ready says why this node's state can not be used: streams are then
	// refused, for clients to try another node. nil asks only that the node
	// has joined a cluster.
	Ready func() error
	// Registerer is for Prometheus; nil for a registry of the server's own.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Server serves the cluster's groups by xDS.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	cfg     Config
	log     *slog.Logger
	metrics *metrics
	book    *book
	grpc    *grpc.Server
	sotw    sotw.Server
	streams atomic.Int64
	nackLog *rate.Limiter

	run  context.Context // ends when the server is told to stop
	stop context.CancelFunc

	mu      sync.Mutex
	serving bool
	done    chan struct{} // closed when Serve has returned
}

// New makes a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if !fsm.ValidName(cfg.Node) || cfg.Cluster == nil {
		return nil, fsm.Errorf(fsm.Invalid, "xDS", "", "needs a node name and a cluster")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Registerer == nil {
		cfg.Registerer = prometheus.NewRegistry()
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: cfg.Logger, metrics: m, book: newBook(cfg.Cluster, m),
		nackLog: rate.NewLimiter(nackLogsASecond, nackLogsAtOnce), done: make(chan struct{}),
	}
	s.run, s.stop = context.WithCancel(context.Background())
	// In order: what a resource refers to is sent before it. An empty request
	// asks for nothing: gRPC clients send one when they need a type no more.
	s.sotw = sotw.NewServer(s.run, s.book.mux(), guard{s}, sotw.WithOrderedADS(), sotw.DeactivateLegacyWildcard())
	s.grpc = grpc.NewServer(
		grpc.MaxRecvMsgSize(MaxRequest),
		grpc.MaxConcurrentStreams(maxConnStreams),
		grpc.MaxHeaderListSize(maxHeader),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.ReadBufferSize(readBuffer),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: pingAfter, Timeout: pingTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: minPing, PermitWithoutStream: true}),
	)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s.grpc, s)
	return s, nil
}

// Serve answers on a listener, which it closes, until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.mu.Lock()
	if s.serving || s.run.Err() != nil {
		s.mu.Unlock()
		_ = l.Close()
		return fsm.Errorf(fsm.Conflict, "xDS", "", "has been started or stopped before")
	}
	s.serving = true
	s.mu.Unlock()
	defer close(s.done)
	var following sync.WaitGroup
	following.Go(func() { routing.Follow(s.run, s.cfg.Cluster, func(*fsm.State) { s.renew() }) })
	err := s.grpc.Serve(netutil.LimitListener(l, maxConnections))
	stopped := s.run.Err() != nil
	s.stop()
	following.Wait()
	if stopped || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// renew brings the resources to the present state.
func (s *Server) renew() {
	if err := s.book.renew(); err != nil {
		s.log.Error("xDS resources could not be written", "err", err)
	}
}

// Shutdown ends the streams, which clients then open at another node, and
// waits for their last messages. When ctx ends first, it cuts them off. What
// clients have got they go on using.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	serving := s.serving
	s.stop()
	s.mu.Unlock()
	over := make(chan struct{})
	go func() {
		defer close(over)
		s.grpc.GracefulStop()
	}()
	var err error
	select {
	case <-over:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop()
		<-over
	}
	if serving {
		<-s.done
	}
	return err
}
