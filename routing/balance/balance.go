package balance

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Endpoint is one instance that may be picked.
type Endpoint struct {
	// Key is its identity, unique in a set. Hashing goes by it, so that all
	// nodes agree whatever the order of their endpoints.
	Key  string
	Zone string
	// Weight is its share of the requests in relation to others', up to 256;
	// values below 1 count as 1.
	Weight int
	// Since is when it became ready, on the clock of [Request].Now.
	Since time.Duration
	// Load is shared by all sets that hold the endpoint; New makes one when nil.
	Load *Load
}

// Config says how a [Set] picks.
type Config struct {
	// Policy is one of [Policies].
	Policy string
	// BoundedLoadPercent lets a hash policy pass over an endpoint that would get
	// more than this share of the mean load, by weight, as in "Consistent
	// Hashing with Bounded Loads" by Mirrokni, Thorup and Zadimoghaddam; 0 is
	// off, else above 100. What is in flight is known by [Load.Begin] and
	// [Load.End]; when sets share endpoints, the mean is that of the newest one.
	BoundedLoadPercent int
	// SlowStart is how long the share of a new endpoint grows, from a tenth to
	// all of it; 0 is off.
	SlowStart time.Duration
	// ZoneAware prefers the endpoints in Zone as long as they get no more than
	// their share of the requests. ZoneShare, above 0 and up to 1, is the share
	// of all proxies that stand in Zone.
	ZoneAware bool
	Zone      string
	ZoneShare float64
}

// Request is what a pick may depend on.
type Request struct {
	// Hash is what the hash policies go by. It need not be well mixed.
	Hash uint64
	// Now is the time of the caller's monotonic clock.
	Now time.Duration
	// Tried are the indexes that were picked before for this request. They are
	// not picked again.
	Tried []int32
}

type policy int

const (
	random policy = iota
	roundRobin
	weightedRoundRobin
	leastRequests
	powerOfTwo
	peakEWMA
	ipHash
	hash
)

func (p policy) hashes() bool { return p == ipHash || p == hash }

// Policies lists the values of [Config].Policy.
func Policies() []string {
	return []string{
		random: "random", roundRobin: "round_robin", weightedRoundRobin: "weighted_round_robin",
		leastRequests: "least_requests", powerOfTwo: "power_of_two", peakEWMA: "peak_ewma",
		ipHash: "ip_hash", hash: "hash",
	}
}

// Set is an immutable set of endpoints with a policy. It is safe for concurrent
// use.
type Set struct {
	endpoints []Endpoint
	policy    policy

	slowStart time.Duration
	settled   time.Duration // when the newest endpoint has its full share

	bounded  int64 // percent, 0 for off
	weight   int64 // of all endpoints
	families []*family

	near *pool // nil when there are no endpoints
	far  *pool // the other zones, when near can not take everything
	// spill is the share of the requests that goes to far, of 2^64.
	spill uint64
}

// New makes a set. The endpoints are copied.
func New(cfg Config, endpoints []Endpoint) (*Set, error) {
	p := slices.Index(Policies(), cfg.Policy)
	if p < 0 {
		return nil, fmt.Errorf("balancer policy %q is unknown; it must be one of %s", cfg.Policy, strings.Join(Policies(), ", "))
	}
	s := &Set{policy: policy(p), slowStart: cfg.SlowStart, bounded: int64(cfg.BoundedLoadPercent)}
	if err := cfg.validate(s.policy); err != nil {
		return nil, err
	}
	if err := s.adopt(endpoints); err != nil {
		return nil, err
	}
	if len(s.endpoints) == 0 {
		return s, nil
	}
	s.split(cfg)
	if s.bounded > 0 {
		loads := make([]*Load, 0, len(s.endpoints))
		for i := range s.endpoints {
			loads = append(loads, s.endpoints[i].Load)
		}
		s.families = gather(loads)
	}
	return s, nil
}

func (c *Config) validate(p policy) error {
	switch {
	case c.SlowStart < 0:
		return fmt.Errorf("slow start of %s is negative", c.SlowStart)
	case c.BoundedLoadPercent != 0 && !p.hashes():
		return fmt.Errorf("bounded load belongs to the policies ip_hash and hash, not to %s", c.Policy)
	case c.BoundedLoadPercent != 0 && (c.BoundedLoadPercent <= 100 || c.BoundedLoadPercent > maxBoundedLoad):
		return fmt.Errorf("bounded load of %d percent must be 0 (off) or above 100, up to %d", c.BoundedLoadPercent, maxBoundedLoad)
	case c.ZoneAware && !(c.ZoneShare > 0 && c.ZoneShare <= 1): // not a number is neither
		return fmt.Errorf("zone share of %v must be above 0 and up to 1", c.ZoneShare)
	}
	return nil
}

// adopt copies the endpoints.
func (s *Set) adopt(endpoints []Endpoint) error {
	if len(endpoints) > maxEndpoints {
		return fmt.Errorf("%d endpoints are too many for a set, which holds up to %d", len(endpoints), maxEndpoints)
	}
	s.endpoints = slices.Clone(endpoints)
	seen := make(map[string]bool, len(endpoints))
	for i := range s.endpoints {
		e := &s.endpoints[i]
		if seen[e.Key] {
			return fmt.Errorf("endpoint %q is in the set twice", e.Key)
		}
		seen[e.Key] = true
		if e.Weight > maxWeight {
			return fmt.Errorf("weight %d of endpoint %q is above %d", e.Weight, e.Key, maxWeight)
		}
		e.Weight = max(e.Weight, 1)
		if e.Load == nil {
			e.Load = new(Load)
		}
		s.weight += int64(e.Weight)
		s.settled = max(s.settled, e.Since+s.slowStart)
	}
	return nil
}

// split makes one pool of all endpoints, or two when the own zone's endpoints
// can not take all of the own zone's requests.
func (s *Set) split(cfg Config) {
	var local, others, all []int
	inZone := 0.0
	for i := range s.endpoints {
		e := &s.endpoints[i]
		all = append(all, i)
		if e.Zone != cfg.Zone {
			others = append(others, i)
			continue
		}
		local = append(local, i)
		inZone += float64(s.weightOf(i))
	}
	if !cfg.ZoneAware || len(local) == 0 || len(others) == 0 {
		s.near = s.newPool(all)
		return
	}
	total := inZone
	for _, i := range others {
		total += float64(s.weightOf(i))
	}
	s.near, s.far = s.newPool(local), s.newPool(others)
	if keep := inZone / total / cfg.ZoneShare; keep < 1 {
		s.spill = uint64((1 - keep) * (1 << 63) * 2)
	}
}

// weightOf is an endpoint's weight as the policy sees it.
func (s *Set) weightOf(i int) int {
	if s.policy == roundRobin {
		return 1
	}
	return s.endpoints[i].Weight
}

// Len is the number of endpoints.
func (s *Set) Len() int { return len(s.endpoints) }

// At is the endpoint of an index that Pick gave, nil when there is none.
func (s *Set) At(i int) *Endpoint {
	if i < 0 || i >= len(s.endpoints) {
		return nil
	}
	return &s.endpoints[i]
}

// Pick chooses an endpoint for a request: an index into the endpoints given to
// [New], or -1 when all were tried or there are none.
func (s *Set) Pick(r *Request) int {
	first, second := s.near, s.far
	if first == nil {
		return -1
	}
	if s.spill > 0 && s.spills(r) {
		first, second = second, first
	}
	at := s.pickFrom(first, r)
	if at < 0 && second != nil {
		at = s.pickFrom(second, r)
	}
	if at < 0 && s.bounded > 0 {
		at = s.leastLoaded(r)
	}
	return at
}

func (s *Set) pickFrom(p *pool, r *Request) int {
	slow := s.slowStart > 0 && r.Now < s.settled
	at := -1
	switch s.policy {
	case roundRobin, weightedRoundRobin:
		at = p.turn(s, r, slow)
	case leastRequests:
		if len(p.members) <= leastScan {
			at = p.scanLeast(s, r, slow)
		} else {
			at = p.choose(s, r, slow, leastChoices)
		}
	case powerOfTwo, peakEWMA:
		at = p.choose(s, r, slow, 2)
	case ipHash, hash:
		at = p.hashed(s, r, slow)
	default:
		at = p.draw(s, r, slow)
	}
	if at < 0 {
		return -1
	}
	return int(p.members[at].index)
}

// ramp is the share that an endpoint has by its age, up to 1.
func (s *Set) ramp(since, now time.Duration) float64 {
	switch age := now - since; {
	case age >= s.slowStart:
		return 1
	case age <= 0:
		return slowStartFloor
	default:
		return slowStartFloor + (1-slowStartFloor)*float64(age)/float64(s.slowStart)
	}
}
