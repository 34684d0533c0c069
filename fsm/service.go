package fsm

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Service is the routable face of a group: on which listeners and for which
// requests every node's proxy sends traffic to the group's instances, and how.
// The zero value routes every request that reaches the shared listener.
type Service struct {
	// Listeners are where the nodes accept the service's traffic; none means
	// the shared HTTP listener.
	Listeners []Listener `json:"listeners,omitempty"`
	// Hosts are the names that requests must ask for, in lower case; one may
	// begin with "*." to match the names one label below. None means any.
	Hosts []string `json:"hosts,omitempty"`
	// PathPrefix is what paths must begin with, up to a "/" or their end; the
	// longest prefix wins. Empty means any.
	PathPrefix string `json:"pathPrefix,omitempty"`

	Balancer   Balancer      `json:"balancer,omitzero"`
	Stickiness Stickiness    `json:"stickiness,omitzero"`
	Health     ServiceHealth `json:"health,omitzero"`
	Retry      Retry         `json:"retry,omitzero"`
	Limits     ServiceLimits `json:"limits,omitzero"`
	Timeouts   Timeouts      `json:"timeouts,omitzero"`
}

// Listener is one place where every node accepts traffic of a service.
type Listener struct {
	// Port is a port of the service's own, on the nodes' traffic address; 0
	// is the shared listener, which speaks HTTP only.
	Port int `json:"port,omitempty"`
	// Protocol is "http" (the default) or "tcp", which passes bytes through
	// and so has its port for itself.
	Protocol string `json:"protocol,omitempty"`
}

// Protocols of a [Listener].
const (
	ProtocolHTTP = "http"
	ProtocolTCP  = "tcp"
)

// Balancer says how an instance is chosen for a request.
type Balancer struct {
	// Policy is one of [BalancerPolicies]; "power_of_two" when empty.
	Policy string `json:"policy,omitempty"`
	// HashOn names what the "hash" policy hashes: "header:NAME",
	// "cookie:NAME" or "query:NAME". A request without it is hashed by the
	// client's address.
	HashOn string `json:"hashOn,omitempty"`
	// BoundedLoadPercent lets a hash policy pass over an instance that has
	// more than this share of the mean load; 0 switches that off.
	BoundedLoadPercent int `json:"boundedLoadPercent,omitempty"`
	// ZoneAware prefers instances of the node's own zone as long as they are
	// not asked for more than their share of the group.
	ZoneAware bool `json:"zoneAware,omitempty"`
	// SlowStart is how long a new instance gets a growing share.
	SlowStart Duration `json:"slowStart,omitzero"`
	// PanicThresholdPercent is the share of usable instances below which all
	// are used, because sending everything to a few would end those as well;
	// 50 when nil, 0 switches it off.
	PanicThresholdPercent *int `json:"panicThresholdPercent,omitempty"`
}

// The balancer policies.
const (
	BalanceRandom             = "random"
	BalanceRoundRobin         = "round_robin"
	BalanceWeightedRoundRobin = "weighted_round_robin"
	BalanceLeastRequests      = "least_requests"
	BalancePowerOfTwo         = "power_of_two"
	BalancePeakEWMA           = "peak_ewma"
	BalanceIPHash             = "ip_hash"
	BalanceHash               = "hash"
)

// BalancerPolicies lists the values of [Balancer].Policy.
func BalancerPolicies() []string {
	return []string{
		BalanceRandom, BalanceRoundRobin, BalanceWeightedRoundRobin, BalanceLeastRequests,
		BalancePowerOfTwo, BalancePeakEWMA, BalanceIPHash, BalanceHash,
	}
}

// WeightLabel is the label of a node that gives its instances their weight, 1
// to [MaxWeight]; 1 without it.
const WeightLabel = "weight"

// MaxWeight is the largest weight of an instance.
const MaxWeight = 256

// Stickiness says how a client's requests keep to an instance.
type Stickiness struct {
	// Strategy is one of [StickyStrategies]; "stateless" when empty.
	Strategy string `json:"strategy,omitempty"`
	// CookieName is the name of the session cookie; "paceline" when empty.
	CookieName string `json:"cookieName,omitempty"`
	// TTL is how long an unused session is remembered; 30 minutes when 0.
	TTL Duration `json:"ttl,omitzero"`
	// Insecure lets the cookie travel over plain HTTP even when the request
	// came by TLS.
	Insecure bool `json:"insecure,omitempty"`
	// RefuseWithoutQuorum answers 503 to a new session that the cluster can
	// not agree on now, in the place of a provisional one.
	RefuseWithoutQuorum bool `json:"refuseWithoutQuorum,omitempty"`
}

// The strategies of [Stickiness].
const (
	// StickyStateless sends each request to any instance.
	StickyStateless = "stateless"
	// StickyTable assigns each session to an instance once, in the
	// replicated state.
	StickyTable = "sticky"
	// StickyShared sends each request to any instance; sessions have
	// replicated data.
	StickyShared = "shared"
	// StickyHash derives the instance from the session's id, without state.
	StickyHash = "hash"
)

// StickyStrategies lists the values of [Stickiness].Strategy.
func StickyStrategies() []string {
	return []string{StickyStateless, StickyTable, StickyShared, StickyHash}
}

// ServiceHealth says when a node stops sending requests to an instance because
// of the answers that it got itself. Health checks are the template's.
type ServiceHealth struct {
	// ConsecutiveFailures ejects an instance; 5 when 0. A connection that is
	// refused ejects at once.
	ConsecutiveFailures int `json:"consecutiveFailures,omitempty"`
	// EjectFor is the first time out, doubled with each further one; 5 s
	// when 0.
	EjectFor Duration `json:"ejectFor,omitzero"`
	// MaxEjectedPercent bounds the share of instances that may be out; 50
	// when nil.
	MaxEjectedPercent *int `json:"maxEjectedPercent,omitempty"`
}

// Retry says when a request is tried again on another instance.
type Retry struct {
	// Attempts is how often a request is tried in all; 3 when 0, 1 switches
	// retries off.
	Attempts int `json:"attempts,omitempty"`
	// BudgetPercent bounds retries to this share of the requests; 20 when 0.
	BudgetPercent int `json:"budgetPercent,omitempty"`
	// Statuses are answers that are tried again when the request is safe to
	// repeat, of 500, 502, 503 and 504; 502, 503 and 504 when nil.
	Statuses []int `json:"statuses,omitempty"`
	// PerTryTimeout bounds the wait for an answer's head; 0 leaves it to the
	// request's timeout.
	PerTryTimeout Duration `json:"perTryTimeout,omitzero"`
	// HedgeAfter sends a second copy of a safe request without a body to
	// another instance when the first has not answered in this time; 0
	// switches that off.
	HedgeAfter Duration `json:"hedgeAfter,omitzero"`
}

// ServiceLimits bound what clients may ask of a service, on each node. 0
// means no limit.
type ServiceLimits struct {
	MaxConnections             int `json:"maxConnections,omitempty"`
	MaxConnectionsPerClient    int `json:"maxConnectionsPerClient,omitempty"`
	RequestsPerSecond          int `json:"requestsPerSecond,omitempty"`
	RequestsPerSecondPerClient int `json:"requestsPerSecondPerClient,omitempty"`
	// MaxInFlightPerInstance is how many requests an instance gets at once.
	MaxInFlightPerInstance int `json:"maxInFlightPerInstance,omitempty"`
	// MaxBodyMiB bounds the body of a request.
	MaxBodyMiB int `json:"maxBodyMiB,omitempty"`
	// MaxQueue is how many requests wait for an instance when there is none;
	// 1024 when 0.
	MaxQueue int `json:"maxQueue,omitempty"`
}

// Timeouts bound each wait of the proxy; a zero field has its default.
type Timeouts struct {
	// Connect bounds the dialling of an instance; 1 s.
	Connect Duration `json:"connect,omitzero"`
	// Request bounds the wait for an answer's head; 30 s.
	Request Duration `json:"request,omitzero"`
	// Idle ends a connection of a client that sends no request; 60 s.
	Idle Duration `json:"idle,omitzero"`
	// Stall ends a body that does not move; 30 s.
	Stall Duration `json:"stall,omitzero"`
	// Tunnel ends an upgraded or TCP connection that does not move; 1 h.
	Tunnel Duration `json:"tunnel,omitzero"`
	// Queue bounds the wait for an instance when there is none; 10 s.
	Queue Duration `json:"queue,omitzero"`
}

// Limits of services.
const (
	maxListeners  = 16
	maxHosts      = 64
	maxPathPrefix = 1024
	maxHashName   = 128
	maxLimit      = 1 << 30
	maxAttempts   = 10
	maxServices   = 10_000
)

var (
	hostPattern   = regexp.MustCompile(`^(\*\.)?[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)
	pathPattern   = regexp.MustCompile(`^/[A-Za-z0-9._~!$&'()*+,;=:@/-]*$`)
	hashOnPattern = regexp.MustCompile(`^(header|cookie|query):[A-Za-z0-9!#$%&'*+.^_|~-]+$`)
	cookiePattern = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+.^_|~-]{1,64}$`)
)

// WithDefaults returns the service with every default filled in.
func (s Service) WithDefaults() Service {
	if len(s.Listeners) == 0 {
		s.Listeners = []Listener{{}}
	}
	s.Listeners = slices.Clone(s.Listeners)
	for k := range s.Listeners {
		s.Listeners[k].Protocol = orString(s.Listeners[k].Protocol, ProtocolHTTP)
	}
	s.Balancer.Policy = orString(s.Balancer.Policy, BalancePowerOfTwo)
	s.Balancer.PanicThresholdPercent = orInt(s.Balancer.PanicThresholdPercent, 50)
	s.Stickiness.Strategy = orString(s.Stickiness.Strategy, StickyStateless)
	s.Stickiness.CookieName = orString(s.Stickiness.CookieName, "paceline")
	s.Stickiness.TTL = s.Stickiness.TTL.or(30 * time.Minute)
	s.Health.ConsecutiveFailures = orZero(s.Health.ConsecutiveFailures, 5)
	s.Health.EjectFor = s.Health.EjectFor.or(5 * time.Second)
	s.Health.MaxEjectedPercent = orInt(s.Health.MaxEjectedPercent, 50)
	s.Retry.Attempts = orZero(s.Retry.Attempts, 3)
	s.Retry.BudgetPercent = orZero(s.Retry.BudgetPercent, 20)
	if s.Retry.Statuses == nil {
		s.Retry.Statuses = []int{502, 503, 504}
	}
	s.Limits.MaxQueue = orZero(s.Limits.MaxQueue, 1024)
	t := &s.Timeouts
	t.Connect = t.Connect.or(time.Second)
	t.Request = t.Request.or(30 * time.Second)
	t.Idle = t.Idle.or(time.Minute)
	t.Stall = t.Stall.or(30 * time.Second)
	t.Tunnel = t.Tunnel.or(time.Hour)
	t.Queue = t.Queue.or(10 * time.Second)
	return s
}

func orString(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func orZero(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}

func orInt(v *int, def int) *int {
	if v == nil {
		return &def
	}
	return v
}

// validate checks every field and how they fit together.
func (s *Service) validate(f *fieldErrors) {
	s.validateRoute(f)
	s.Balancer.validate(f)
	s.Stickiness.validate(f)
	f.check(s.Health.ConsecutiveFailures >= 0 && s.Health.ConsecutiveFailures <= 1000, "service.health.consecutiveFailures", "must be between 0 (the default, 5) and 1000")
	f.span("service.health.ejectFor", s.Health.EjectFor, time.Hour)
	f.percent("service.health.maxEjectedPercent", s.Health.MaxEjectedPercent)
	s.Retry.validate(f)
	s.Limits.validate(f)
	s.Timeouts.validate(f)
	if s.hasTCP() {
		f.check(len(s.Hosts) == 0 && s.PathPrefix == "", "service.hosts", "and pathPrefix need HTTP; a tcp listener passes bytes through")
		ok := s.Stickiness.Strategy == "" || s.Stickiness.Strategy == StickyStateless
		f.check(ok, "service.stickiness.strategy", "must be stateless with a tcp listener; the ip_hash balancer keeps clients to an instance")
		f.check(s.Balancer.Policy != BalanceHash, "service.balancer.policy", "hash needs HTTP; use ip_hash with a tcp listener")
	}
}

func (s *Service) hasTCP() bool {
	return slices.ContainsFunc(s.Listeners, func(l Listener) bool { return l.Protocol == ProtocolTCP })
}

func (s *Service) validateRoute(f *fieldErrors) {
	f.check(len(s.Listeners) <= maxListeners, "service.listeners", "has %d entries, at most %d are allowed", len(s.Listeners), maxListeners)
	ports := map[int]bool{}
	for _, l := range s.Listeners {
		f.port("service.listeners.port", l.Port)
		f.check(slices.Contains([]string{"", ProtocolHTTP, ProtocolTCP}, l.Protocol), "service.listeners.protocol", "must be http or tcp")
		f.check(l.Protocol != ProtocolTCP || l.Port != 0, "service.listeners.port", "is required for tcp; the shared listener speaks HTTP")
		f.check(!ports[l.Port], "service.listeners.port", "names port %d twice", l.Port)
		ports[l.Port] = true
	}
	f.check(len(s.Hosts) <= maxHosts, "service.hosts", "has %d entries, at most %d are allowed", len(s.Hosts), maxHosts)
	for k, h := range s.Hosts {
		f.check(len(h) <= 253 && hostPattern.MatchString(h), "service.hosts", "has %.64q, which is not a host name in lower case", h)
		f.check(!slices.Contains(s.Hosts[:k], h), "service.hosts", "names %.64q twice", h)
	}
	if p := s.PathPrefix; p != "" {
		ok := len(p) <= maxPathPrefix && pathPattern.MatchString(p) && !strings.Contains(p, "//") &&
			!strings.Contains(p+"/", "/./") && !strings.Contains(p+"/", "/../")
		f.check(ok, "service.pathPrefix", "must be a path such as /shop, without //, . or .. segments, at most %d bytes", maxPathPrefix)
	}
}

func (b *Balancer) validate(f *fieldErrors) {
	f.check(b.Policy == "" || slices.Contains(BalancerPolicies(), b.Policy), "service.balancer.policy", "must be one of %s", strings.Join(BalancerPolicies(), ", "))
	f.check(len(b.HashOn) <= maxHashName && (b.HashOn == "" || hashOnPattern.MatchString(b.HashOn)), "service.balancer.hashOn", "must be header:NAME, cookie:NAME or query:NAME")
	f.check((b.Policy == BalanceHash) == (b.HashOn != ""), "service.balancer.hashOn", "belongs to the hash policy, which needs it")
	hashes := b.Policy == BalanceHash || b.Policy == BalanceIPHash
	f.check(b.BoundedLoadPercent == 0 || hashes, "service.balancer.boundedLoadPercent", "belongs to the policies hash and ip_hash")
	f.check(b.BoundedLoadPercent == 0 || b.BoundedLoadPercent > 100 && b.BoundedLoadPercent <= 1000, "service.balancer.boundedLoadPercent", "must be 0 (off) or between 101 and 1000")
	f.span("service.balancer.slowStart", b.SlowStart, time.Hour)
	f.percent("service.balancer.panicThresholdPercent", b.PanicThresholdPercent)
}

func (s *Stickiness) validate(f *fieldErrors) {
	f.check(s.Strategy == "" || slices.Contains(StickyStrategies(), s.Strategy), "service.stickiness.strategy", "must be one of %s", strings.Join(StickyStrategies(), ", "))
	f.check(s.CookieName == "" || cookiePattern.MatchString(s.CookieName), "service.stickiness.cookieName", "must be a cookie name of at most 64 characters")
	f.span("service.stickiness.ttl", s.TTL, 30*24*time.Hour)
	f.check(s.TTL == 0 || s.TTL.Std() >= time.Second, "service.stickiness.ttl", "must be at least 1s")
}

func (r *Retry) validate(f *fieldErrors) {
	f.check(r.Attempts >= 0 && r.Attempts <= maxAttempts, "service.retry.attempts", "must be between 0 (the default, 3) and %d", maxAttempts)
	f.check(r.BudgetPercent >= 0 && r.BudgetPercent <= 100, "service.retry.budgetPercent", "must be between 0 (the default, 20) and 100")
	for _, code := range r.Statuses {
		f.check(slices.Contains([]int{500, 502, 503, 504}, code), "service.retry.statuses", "has %d; 500, 502, 503 and 504 may be tried again", code)
	}
	f.check(len(r.Statuses) <= 4, "service.retry.statuses", "has %d entries, at most 4 are allowed", len(r.Statuses))
	f.span("service.retry.perTryTimeout", r.PerTryTimeout, time.Hour)
	f.span("service.retry.hedgeAfter", r.HedgeAfter, time.Minute)
}

func (l *ServiceLimits) validate(f *fieldErrors) {
	for _, x := range []struct {
		field string
		value int
	}{
		{"maxConnections", l.MaxConnections}, {"maxConnectionsPerClient", l.MaxConnectionsPerClient},
		{"requestsPerSecond", l.RequestsPerSecond}, {"requestsPerSecondPerClient", l.RequestsPerSecondPerClient},
		{"maxInFlightPerInstance", l.MaxInFlightPerInstance}, {"maxBodyMiB", l.MaxBodyMiB}, {"maxQueue", l.MaxQueue},
	} {
		f.check(x.value >= 0 && x.value <= maxLimit, "service.limits."+x.field, "must be between 0 (no limit of its own) and %d", maxLimit)
	}
}

func (t *Timeouts) validate(f *fieldErrors) {
	for _, x := range []struct {
		field string
		value Duration
	}{
		{"connect", t.Connect}, {"request", t.Request}, {"idle", t.Idle},
		{"stall", t.Stall}, {"tunnel", t.Tunnel}, {"queue", t.Queue},
	} {
		f.span("service.timeouts."+x.field, x.value, 24*time.Hour)
		f.check(x.value == 0 || x.value.Std() >= 10*time.Millisecond, "service.timeouts."+x.field, "must be at least 10ms")
	}
}

func (f *fieldErrors) percent(field string, v *int) {
	f.check(v == nil || *v >= 0 && *v <= 100, field, "must be between 0 and 100")
}

// checkRoutes refuses a service that could be meant by the same requests as
// another group's.
func (tx *Tx) checkRoutes(g *Group) error {
	if g.Service == nil {
		return nil
	}
	services := 0
	for name, other := range tx.Groups.All() {
		if name == g.Name || other.Service == nil {
			continue
		}
		if why := g.Service.clash(other.Service); why != "" {
			return Errorf(Conflict, "group", g.Name, "has a service that overlaps with that of group %q: %s", name, why).
				WithHint("give one of them another host, path prefix or port")
		}
		services++
	}
	if services >= maxServices {
		return Errorf(Exhausted, "group", g.Name, "would be service number %d, at most %d are allowed", services+1, maxServices)
	}
	return nil
}

// clash says which requests two services would both take, or "".
func (s *Service) clash(o *Service) string {
	a, b := s.WithDefaults(), o.WithDefaults()
	for _, x := range a.Listeners {
		for _, y := range b.Listeners {
			switch {
			case x.Port != y.Port:
			case x.Protocol == ProtocolTCP || y.Protocol == ProtocolTCP:
				return fmt.Sprintf("a tcp listener has port %d for itself", x.Port)
			case strings.TrimSuffix(a.PathPrefix, "/") != strings.TrimSuffix(b.PathPrefix, "/"):
			case len(a.Hosts) == 0 && len(b.Hosts) == 0:
				return fmt.Sprintf("both take any host with the path prefix %q", orString(a.PathPrefix, "/"))
			default:
				for _, h := range a.Hosts {
					if slices.Contains(b.Hosts, h) {
						return fmt.Sprintf("both take host %s with the path prefix %q", h, orString(a.PathPrefix, "/"))
					}
				}
			}
		}
	}
	return ""
}
