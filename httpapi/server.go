package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/netutil"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// Config is what a [Server] is made of. Node, Cluster and Status are required.
type Config struct {
	// Node is this node's name, told in Paceline-Served-By.
	Node string
	// Version is the product's version, shown at /.
	Version string
	// Cluster is the replicated state.
	Cluster Cluster
	// Status describes the cluster as this node sees it.
	Status func() client.ClusterStatus
	// Explain says in a sentence why a group is as it is; nil for a plain
	// account of its instances.
	Explain func(group string) string
	// Ready adds checks to /readyz.
	Ready func() []client.Check
	// Metrics takes pushed samples; nil refuses them as unavailable.
	Metrics MetricsSink
	// Logs reads instances' logs; nil refuses them as unavailable.
	Logs LogSource
	// Heartbeats takes those of instances; nil refuses them as unavailable.
	Heartbeats Heartbeats
	// Sessions assigns sessions; nil proposes a command for each.
	Sessions Sessions
	// SessionData keeps what shared sessions hold; nil keeps it in the
	// replicated state.
	SessionData SessionStore
	// Registerer and Gatherer are for Prometheus; nil for a registry of the
	// server's own.
	Registerer prometheus.Registerer
	Gatherer   prometheus.Gatherer
	// TokenFile has a `role:token` line for each token; without it every
	// caller is an admin, which suits loopback only.
	TokenFile string
	// WriteTimeout bounds a write; [DefaultWriteTimeout] when 0.
	WriteTimeout time.Duration
	// Connections caps the open connections; [DefaultConnections] when 0.
	Connections int
	Logger      *slog.Logger
}

// Server is the API of one node. It is an [http.Handler]; its event stream
// begins with Start or Serve and ends with Shutdown.
type Server struct {
	cfg     Config
	log     *slog.Logger
	engine  *gin.Engine
	routes  []*route
	openapi []byte
	tokens  atomic.Pointer[tokenSet]
	metrics *metrics
	ids     requestIDs
	hub     *hub

	directory *directory
	parking   *parking
	turn      atomic.Uint64 // of the instances that sessions are routed to
	leaving   atomic.Pointer[string]
	blocked   atomic.Int64

	http    http.Server
	start   sync.Once
	life    context.Context // ends every request
	end     context.CancelFunc
	open    context.Context // ends the hub, the streams and the blocking reads
	stop    context.CancelFunc
	workers sync.WaitGroup
}

// New makes the API of a node. It starts nothing.
func New(cfg Config) (*Server, error) {
	if cfg.Node == "" || cfg.Cluster == nil || cfg.Status == nil {
		return nil, fsm.Errorf(fsm.Invalid, "httpapi", "", "needs a node name, a cluster and its status")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.WriteTimeout <= 0 {
		cfg.WriteTimeout = DefaultWriteTimeout
	}
	if cfg.Connections <= 0 {
		cfg.Connections = DefaultConnections
	}
	if cfg.Registerer == nil || cfg.Gatherer == nil {
		own := prometheus.NewRegistry()
		cfg.Registerer, cfg.Gatherer = own, own
	}
	cfg.sessionDefaults()
	s := &Server{cfg: cfg, log: cfg.Logger, ids: newRequestIDs(), parking: newParking()}
	s.life, s.end = context.WithCancel(context.Background())
	s.open, s.stop = context.WithCancel(s.life)
	if err := s.Reload(); err != nil {
		return nil, err
	}
	s.routes = routes()
	var err error
	if s.metrics, err = newMetrics(cfg.Registerer, s.routes); err != nil {
		return nil, err
	}
	s.directory = newDirectory(cfg.Cluster.State().Index(), s.metrics.encoded)
	s.hub = newHub(cfg.Cluster, s.directory)
	if err := cfg.Registerer.Register(sessionCollector{cfg.Cluster}); err != nil {
		return nil, err
	}
	if err := s.build(); err != nil {
		return nil, err
	}
	s.http = http.Server{
		Handler: s, ReadHeaderTimeout: headerTimeout, ReadTimeout: bodyTimeout,
		WriteTimeout: answerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:    slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return s.life }, ConnContext: withConnection,
		ConnState: known,
	}
	return s, nil
}

// Start begins to follow the cluster's changes for the event stream. Serve
// does it too; call it when the server is used as a handler only.
func (s *Server) Start() {
	s.start.Do(func() {
		s.workers.Go(func() { s.hub.run(s.open) })
	})
}

// Serve answers requests from a listener until Shutdown.
func (s *Server) Serve(l net.Listener) error {
	s.Start()
	back := make(chan error, 1)
	go func() { back <- s.http.Serve(parkingListener{s.parking, l.Addr()}) }()
	err := s.http.Serve(netutil.LimitListener(l, s.cfg.Connections))
	if errors.Is(err, http.ErrServerClosed) {
		<-back //nolint:errcheck // it has ended for the same reason
		return nil
	}
	return err
}

// NotReady makes /readyz fail with a reason, so that balancers look
// elsewhere before the node stops.
func (s *Server) NotReady(reason string) { s.leaving.Store(&reason) }

// Shutdown lets the running requests finish, ends the streams, and waits for
// the server's goroutines. When ctx ends first, connections are cut.
func (s *Server) Shutdown(ctx context.Context) error {
	s.NotReady("the node is stopping")
	s.stop()
	s.parking.leave(ctx, s.directory.wakeAll, s.directory.cutAll)
	err := s.http.Shutdown(ctx)
	if err != nil {
		_ = s.http.Close()
	}
	s.end()
	s.workers.Wait()
	return err
}

// OpenAPI returns the OpenAPI 3.1 document, as served at /openapi.json.
func (s *Server) OpenAPI() []byte { return s.openapi }

// headKey is set in the context of a request that was HEAD.
type headKey struct{}

// wasHead reports whether a request was HEAD before it became GET.
func wasHead(r *http.Request) bool { return r.Context().Value(headKey{}) != nil }

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if c := connectionOf(r); c != nil && c.home != nil {
		c.home()
	}
	if r.Method == http.MethodHead {
		// HEAD is GET without the body, which net/http leaves out by itself.
		r = r.WithContext(context.WithValue(r.Context(), headKey{}, true))
		r.Method = http.MethodGet
	}
	s.engine.ServeHTTP(w, r)
}
