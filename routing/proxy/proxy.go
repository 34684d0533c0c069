package proxy

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
)

// Config is what a [Proxy] is made of. Cluster and Addr are required.
type Config struct {
	// Zone is this node's zone, for services that prefer it.
	Zone    string
	Cluster routing.Cluster
	// Proposer wakes groups at size 0 that requests wait for; nil wakes none.
	Proposer Proposer
	// Addr is the address of the shared listener; services with ports of
	// their own listen on its host.
	Addr string
	// Trusted are the proxies in front of us whose word on the client is
	// believed: their X-Forwarded-* and Forwarded fields are continued.
	Trusted []netip.Prefix
	// ProxyProtocol makes connections of trusted proxies begin with a PROXY
	// protocol header, version 2, that names the client.
	ProxyProtocol bool
	// TLS, when given, makes the shared listener speak TLS, with HTTP/2.
	TLS *tls.Config
	// Sessions assigns clients to instances; nil without sticky services.
	Sessions Sessions
	// AccessLog is the share of requests that are logged, 0 to 1; requests
	// that failed are logged always when it is above 0.
	AccessLog float64
	// Registerer takes the metrics; nil for none.
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Proxy routes the traffic of one node. See [New].
type Proxy struct {
	cfg   Config
	log   *slog.Logger
	clock clock
	waits waits
	plan  atomic.Pointer[plan]
	stats proxyCounters

	portErrors sync.Map   // why a port is not open, by port
	planning   sync.Mutex // held by replan; guards services and listeners
	services   map[string]*service
	ports      map[int]*listener
	shared     *listener

	access  *accessLog
	front   *front // HTTP/2 and TLS
	conns   connSet[*conn]
	dialled connSet[*upConn] // to instances, used or idle
	tunnels atomic.Int64
	wake    chan struct{} // an instance was ejected
	probes  chan struct{} // a slot for each check under way
	sampled time.Duration // when Sample was called last; its own
	looking looking

	sleeping chan *service // a request waits for an instance of a group at 0
	wakings  chan struct{} // a slot for each command under way that wakes one

	life context.Context // ends every wait
	end  context.CancelFunc
	wg   sync.WaitGroup
}

// proxyCounters count what belongs to no service.
type proxyCounters struct {
	accepted  atomic.Uint64
	refused   atomic.Uint64 // more connections than the node takes
	malformed atomic.Uint64
	slowHeads atomic.Uint64
	unrouted  atomic.Uint64
	looks     [len(looksNames)]atomic.Uint64
}

// New makes a proxy and listens on its address. Run begins to serve.
func New(cfg Config) (*Proxy, error) {
	if cfg.Cluster == nil || cfg.Addr == "" {
		return nil, fsm.Errorf(fsm.Invalid, "proxy", "", "needs the cluster and an address")
	}
	p := &Proxy{
		cfg: cfg, log: cfg.Logger, clock: clock{time.Now()}, waits: standardWaits(),
		services: map[string]*service{}, ports: map[int]*listener{},
		wake: make(chan struct{}, 1), probes: make(chan struct{}, maxProbes),
		sleeping: make(chan *service, maxWakings), wakings: make(chan struct{}, maxWakings),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.log = p.log.With("part", "proxy")
	p.access = &accessLog{share: cfg.AccessLog, log: p.log}
	p.life, p.end = context.WithCancel(context.Background())
	l, err := net.Listen("tcp", cfg.Addr)
	if err != nil {
		return nil, fsm.Errorf(fsm.Unavailable, "traffic address", cfg.Addr, "can not be listened on: %v", err).
			WithHint("is another node running here? choose another --traffic-addr, or \"\" to route nothing")
	}
	p.shared = newListener(p, l, routing.Shared, fsm.ProtocolHTTP)
	p.front = newFront(p)
	if cfg.Registerer != nil {
		if err := cfg.Registerer.Register(collector{p}); err != nil {
			_ = l.Close()
			return nil, err
		}
	}
	return p, nil
}

// Addr is the address of the shared listener.
func (p *Proxy) Addr() string { return p.shared.l.Addr().String() }

// Run routes until ctx ends, then until Shutdown has ended the connections.
// The first plan is made before the first connection is accepted.
func (p *Proxy) Run(ctx context.Context) {
	p.replanNow()
	p.front.start()
	p.wg.Go(p.shared.accept)
	p.wg.Go(p.janitor)
	routing.Follow(ctx, p.cfg.Cluster, func(*fsm.State) { p.replanNow() })
}

// replanNow makes the next plan and opens and closes the services' own ports. It
// takes the state when it is its turn: with an older one, the plan would go back.
func (p *Proxy) replanNow() {
	p.planning.Lock()
	defer p.planning.Unlock()
	s := p.cfg.Cluster.State()
	if p.cfg.Sessions != nil {
		p.cfg.Sessions.Use(s)
	}
	p.replan(s)
	p.adjustPorts(p.plan.Load().routes.Ports())
	p.shared.idle.Store(int64(p.plan.Load().idle[routing.Shared]))
	for port, l := range p.ports {
		l.idle.Store(int64(p.plan.Load().idle[port]))
	}
}

// Shutdown accepts no more connections, lets the requests under way finish,
// and ends the rest when ctx does. Connections between requests end at once.
func (p *Proxy) Shutdown(ctx context.Context) error {
	p.planning.Lock()
	listeners := []*listener{p.shared}
	for _, l := range p.ports {
		listeners = append(listeners, l)
	}
	for _, l := range listeners { // within the lock, so that no port is opened meanwhile
		l.drain()
	}
	p.planning.Unlock()
	err := p.front.shutdown(ctx)
	if left := p.conns.wait(ctx); left > 0 {
		p.log.Warn("connections were cut", "connections", left, "tunnels", p.tunnels.Load())
	}
	p.end()
	p.wg.Wait() // nobody accepts any more
	p.conns.each(func(c *conn) { _ = c.nc.Close() })
	p.dialled.each(func(c *upConn) { _ = c.Conn.Close() })
	p.conns.wait(context.Background())
	p.planning.Lock()
	defer p.planning.Unlock()
	if pl := p.plan.Load(); pl != nil {
		for _, t := range pl.targets {
			t.retireMissing(nil)
		}
	}
	return err
}

// noteFailure counts a failed attempt against an instance, and ejects it when
// there were too many in a row or it refuses connections.
func (p *Proxy) noteFailure(t *target, i *instance, refused bool) {
	i.stats.failures.Add(1)
	n := i.ejection.failures.Add(1)
	if !refused && int(n) < t.spec.Health.ConsecutiveFailures || i.ejection.out.Load() {
		return
	}
	why := "failures"
	if refused {
		why = "no connection"
	}
	p.eject(t, i, t.spec.Health.EjectFor.Std(), false, why)
}

// eject takes an instance out of the plans for a while. At most a share of a
// service is out, except for what is certain: instances of nodes that are gone.
func (p *Proxy) eject(t *target, i *instance, first time.Duration, certain bool, why string) {
	t.service.ejecting.Lock()
	defer t.service.ejecting.Unlock()
	out := 1
	for _, u := range t.all {
		if u.ejection.out.Load() {
			out++
		}
	}
	if !certain && !i.ejection.out.Load() && out*100 > *t.spec.Health.MaxEjectedPercent*len(t.all) {
		t.events.ejectionCapped.Add(1)
		return
	}
	if !i.ejection.eject(p.clock.now(), first) {
		return
	}
	t.events.ejections.Add(1)
	t.service.ejected.Add(1)
	p.log.Warn("an instance gets no more requests for a while", "group", t.group, "instance", i.id,
		"address", i.addr, "failures", i.ejection.failures.Load(), "why", why)
	p.wakeUp()
}

// wakeUp has the janitor make a new plan.
func (p *Proxy) wakeUp() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// janitor closes idle connections, looks at ejected instances again, makes a
// new plan when an ejection has changed, and wakes groups that requests wait for.
func (p *Proxy) janitor() {
	tick, ports := time.NewTicker(janitorEvery), time.NewTicker(p.waits.relisten)
	defer tick.Stop()
	defer ports.Stop()
	for {
		select {
		case <-p.life.Done():
			return
		case <-p.wake:
			p.replanNow()
		case s := <-p.sleeping:
			p.wakeGroup(s)
		case <-tick.C:
			p.tidy()
		case <-ports.C:
			p.retryPorts()
		}
	}
}

func (p *Proxy) tidy() {
	now := p.clock.now()
	pl := p.plan.Load()
	for _, t := range pl.targets {
		p.wakeGroup(t.service)
		for _, u := range t.all {
			u.expire(now - idleUpstream)
			if u.ejection.due(now) {
				p.probe(t, u, pl.nodes[u.Node].api)
			}
		}
	}
	p.lookWhereQuiet(pl, now)
}

// probe looks whether an ejected instance takes connections again, and whether
// the node of a silent one answers again: the system of a frozen one takes
// connections all the time.
func (p *Proxy) probe(t *target, u *upstream, api string) {
	i := u.instance
	select {
	case p.probes <- struct{}{}:
	default: // too many under way; the next tick tries again
		i.ejection.postpone()
		return
	}
	p.wg.Go(func() {
		defer func() { <-p.probes }()
		ok := p.knock(i.addr, t.spec.Timeouts.Connect.Std()) == foundOpen
		if ok && i.ejection.silent.Load() {
			found := p.askNode(api)
			ok = found != foundSilent && found != foundMute
		}
		if !i.ejection.probed(p.clock.now(), ok) {
			return
		}
		t.service.ejected.Add(1)
		p.log.Info("an instance gets requests again", "group", i.group, "instance", i.id)
		p.wakeUp()
	})
}
