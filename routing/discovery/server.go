package discovery

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"github.com/pacelinehq/paceline/fsm"
)

// Cluster is what the server needs of the replicated state.
type Cluster interface {
	// State is this node's state, without waiting.
	State() *fsm.State
}

// Config is what a [Server] is made of. Node and Cluster are required.
type Config struct {
	// Node is this node's name; the zone names it as its name server.
	Node string
	// Domain is the zone; "paceline." when empty.
	Domain string
	// TTL is how long clients may keep answers, negative ones included; 0,
	// the default, not at all: an answer costs microseconds, and an old one
	// sends traffic to an instance that has ended.
	TTL     time.Duration
	Cluster Cluster
	// Ready says why this node's state can not be used, which is then answered
	// with SERVFAIL; nil asks only that the node has joined a cluster.
	Ready func() error
	// Registerer is for Prometheus; nil for a registry of the server's own.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Server answers DNS. It is a [dns.Handler].
type Server struct {
	cfg     Config
	zone    zone
	log     *slog.Logger
	metrics *metrics
	slots   chan struct{} // one for each query that is being answered
	udp     *dns.Server
	tcp     *dns.Server

	mu      sync.Mutex
	serving bool
	closed  bool
	done    chan struct{} // closed when Serve has returned
}

// New makes a server. It starts nothing.
func New(cfg Config) (*Server, error) {
	if !fsm.ValidName(cfg.Node) || cfg.Cluster == nil {
		return nil, fsm.Errorf(fsm.Invalid, "dns", "", "needs a node name and a cluster")
	}
	if cfg.Domain == "" {
		cfg.Domain = "paceline."
	}
	if _, ok := dns.IsDomainName(cfg.Domain); !ok || cfg.Domain == "." || len(cfg.Domain) > maxDomain {
		return nil, fsm.Errorf(fsm.Invalid, "dns", "", "has the domain %.64q, which is not a domain name of at most %d bytes", cfg.Domain, maxDomain).
			WithHint("use a name such as paceline or svc.example.com")
	}
	if cfg.TTL < 0 || cfg.TTL > MaxTTL {
		return nil, fsm.Errorf(fsm.Invalid, "dns", "", "has a TTL of %s, 0s to %s are allowed", cfg.TTL, MaxTTL)
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
		cfg: cfg, zone: newZone(cfg), log: cfg.Logger, metrics: m,
		slots: make(chan struct{}, MaxQueries), done: make(chan struct{}),
	}
	s.udp, s.tcp = s.transport(), s.transport()
	return s, nil
}

// transport is one half of the server: UDP or TCP.
func (s *Server) transport() *dns.Server {
	return &dns.Server{
		Handler: s, UDPSize: MaxUDPSize, ReadTimeout: firstQueryTimeout, WriteTimeout: writeTimeout,
		IdleTimeout: func() time.Duration { return idleTimeout }, MaxTCPQueries: maxConnQueries,
		MsgAcceptFunc: s.accept, MsgInvalidFunc: func([]byte, error) { s.metrics.malformed.Inc() },
	}
}

// Listen opens an address for UDP and for TCP. With port 0 it finds one that
// is free for both.
func Listen(ctx context.Context, address string) (net.PacketConn, net.Listener, error) {
	var lc net.ListenConfig
	var last error
	for range listenAttempts {
		l, err := lc.Listen(ctx, "tcp", address)
		if err != nil {
			return nil, nil, err
		}
		pc, err := lc.ListenPacket(ctx, "udp", l.Addr().String())
		if err == nil {
			return pc, l, nil
		}
		_ = l.Close()
		last = err
		if _, port, _ := net.SplitHostPort(address); port != "0" {
			break
		}
	}
	return nil, nil, last
}

// Serve answers from both, of one address, until Shutdown. It closes them.
func (s *Server) Serve(pc net.PacketConn, l net.Listener) error {
	s.mu.Lock()
	if s.closed || s.serving {
		s.mu.Unlock()
		_ = pc.Close()
		_ = l.Close()
		return fsm.Errorf(fsm.Conflict, "dns", "", "has been started or stopped before")
	}
	s.serving = true
	s.udp.PacketConn, s.tcp.Listener = pc, netutil.LimitListener(l, MaxConnections)
	s.mu.Unlock()
	defer close(s.done)
	var errs [2]error
	var both sync.WaitGroup
	for i, srv := range []*dns.Server{s.udp, s.tcp} {
		both.Go(func() {
			errs[i] = srv.ActivateAndServe()
			// One of them alone is half a server: end the other too.
			_ = pc.Close()
			_ = l.Close()
		})
	}
	both.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	return errors.Join(errs[:]...)
}

// Shutdown lets the running queries finish. When ctx ends first, it returns
// without waiting for them.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	serving := s.serving
	s.closed = true
	s.mu.Unlock()
	if !serving {
		return nil
	}
	// A listener that has not begun to serve yet says so; closing it ends it.
	if s.udp.ShutdownContext(ctx) != nil {
		_ = s.udp.PacketConn.Close()
	}
	if s.tcp.ShutdownContext(ctx) != nil {
		_ = s.tcp.Listener.Close()
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// accept looks at a packet's header before the rest is parsed.
func (s *Server) accept(h dns.Header) dns.MsgAcceptAction {
	action := dns.DefaultMsgAcceptFunc(h)
	if action != dns.MsgAccept {
		s.metrics.malformed.Inc()
	}
	return action
}

// ServeDNS implements [dns.Handler].
func (s *Server) ServeDNS(w dns.ResponseWriter, req *dns.Msg) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		s.metrics.busy.Inc()
		_ = w.Close() // nothing by UDP
		return
	}
	size := dns.MaxMsgSize
	if _, udp := w.RemoteAddr().(*net.UDPAddr); udp {
		size = MaxUDPSize
	}
	resp := s.answer(req, size)
	s.metrics.count(req, resp)
	_ = w.WriteMsg(resp) // a client that is gone asks nobody again
}

// answer makes the answer to a query, of at most size bytes.
func (s *Server) answer(req *dns.Msg, size int) (resp *dns.Msg) {
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("the answer to a DNS query panicked", "panic", p, "stack", string(debug.Stack()))
			resp = new(dns.Msg).SetRcode(req, dns.RcodeServerFailure)
		}
	}()
	return s.reply(req, size)
}
