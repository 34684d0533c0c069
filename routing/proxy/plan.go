package proxy

import (
	"hash/fnv"
	"io"
	"maps"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
	"github.com/pacelinehq/paceline/routing/balance"
	"github.com/pacelinehq/paceline/routing/session"
)

// plan is everything that a request needs to find its instance, made from one
// state. It is immutable.
type plan struct {
	index     uint64
	routes    *routing.Routes
	targets   map[string]*target // by group
	nodes     map[string]nodeInfo
	nodesSum  uint64
	zoneShare float64               // the share of all nodes that stand in our zone
	idle      map[int]time.Duration // the longest idle timeout of a port's services
}

// nodeInfo is what a node's row says of its instances.
type nodeInfo struct {
	zone   string
	weight int
	api    string // where the node itself can be asked
}

// replan makes the next plan from a state. It is called by one goroutine at a
// time, with p.planning held.
func (p *Proxy) replan(s *fsm.State) {
	old := p.plan.Load()
	next := &plan{index: s.Index(), targets: map[string]*target{}, idle: map[int]time.Duration{}}
	next.readNodes(s, p.cfg.Zone)
	next.routes = routing.NewRoutes(s.Groups.All())
	for name, g := range s.Groups.All() {
		if g.Service == nil {
			continue
		}
		var before *target
		if old != nil {
			before = old.targets[name]
		}
		t := p.retarget(s, next, g, before)
		next.targets[name] = t
		for _, l := range t.spec.Listeners {
			next.idle[l.Port] = max(next.idle[l.Port], t.spec.Timeouts.Idle.Std())
		}
	}
	p.plan.Store(next)
	maps.DeleteFunc(p.services, func(name string, _ *service) bool { return next.targets[name] == nil })
	if old == nil {
		return
	}
	for name, before := range old.targets {
		now := next.targets[name]
		before.retireMissing(now)
		if now != before { // whoever waits for an instance looks again
			before.wakeAll()
		}
	}
}

func (n *plan) readNodes(s *fsm.State, zone string) {
	n.nodes = map[string]nodeInfo{}
	h := fnv.New64a()
	all, here := 0, 0
	for name, row := range s.Nodes.All() {
		info := nodeInfo{zone: row.Zone, weight: row.Weight(), api: row.API}
		n.nodes[name] = info
		_, _ = io.WriteString(h, name+"\x00"+info.zone+"\x00"+strconv.Itoa(info.weight)+"\x00")
		all++
		if row.Zone == zone {
			here++
		}
	}
	n.nodesSum = h.Sum64()
	if all > 0 {
		n.zoneShare = float64(here) / float64(all)
	}
}

// longAgo is since when an instance is ready that the proxy found so when it
// began: it has had its slow start.
const longAgo = 24 * time.Hour

// retarget returns the target of a group: the one before, when nothing of it
// has changed.
func (p *Proxy) retarget(s *fsm.State, n *plan, g *fsm.Group, before *target) *target {
	svc := p.services[g.Name]
	if svc == nil {
		svc = &service{group: g.Name}
		p.services[g.Name] = svc
	}
	stamp := targetStamp{nodes: n.nodesSum, ejected: svc.ejected.Load()}
	if row, ok := s.ServiceIndexes.Get(g.Name); ok {
		stamp.index = row.Index
	}
	if before != nil && before.stamp == stamp {
		return before
	}
	t := &target{service: svc, spec: g.Service.WithDefaults(), stamp: stamp, all: map[string]*upstream{}, tags: map[[16]byte]*upstream{}}
	t.hash = newHashSource(&t.spec)
	for _, code := range t.spec.Retry.Statuses {
		t.retryOn[code] = true
	}
	usable, steady := p.findUpstreams(s, t, before)
	if err := t.choose(n, p.cfg.Zone, usable, steady); err != nil {
		p.log.Warn("a service is not balanced as it asks for", "group", t.group, "err", err)
	}
	return t
}

// findUpstreams fills t.all with the instances of the state, those that are
// known already as they are. It returns those that may get new requests:
// first the ones that look well, then all.
func (p *Proxy) findUpstreams(s *fsm.State, t, before *target) (usable, steady []*upstream) {
	now := p.clock.now()
	for _, i := range s.InstancesOf(t.group) {
		e, ok := i.Endpoint()
		if !ok {
			continue
		}
		var u *upstream
		if before != nil {
			u = before.all[e.Instance]
		}
		switch {
		case u == nil || u.Incarnation != e.Incarnation || u.Address != e.Address:
			u = &upstream{e, &instance{id: e.Instance, group: t.group, addr: e.Address, dialled: &p.dialled}}
		case u.Endpoint != e:
			u = &upstream{e, u.instance}
		}
		switch {
		case u.since != 0 || e.Health != fsm.Healthy:
		case before == nil: // it has been there before this proxy, as far as that knows
			u.since = now - longAgo
		default:
			u.since = now
		}
		t.all[e.Instance] = u
		t.tags[session.InstanceTag(e.Instance)] = u
		if e.Draining {
			continue
		}
		steady = append(steady, u)
		if e.Health == fsm.Healthy && !u.ejection.out.Load() {
			usable = append(usable, u)
		}
	}
	return usable, steady
}

// choose makes the balancer's set: the usable instances, or all that do not
// drain when so few are usable that those would be overrun.
func (t *target) choose(n *plan, zone string, usable, steady []*upstream) error {
	t.ups = usable
	// Those that are starting were never healthy: they would refuse, and do not
	// make a group look ill.
	if known := healthyEnough(steady); len(usable)*100 < len(known)**t.spec.Balancer.PanicThresholdPercent {
		t.ups, t.panic = reachable(known), true
	}
	ends := make([]balance.Endpoint, len(t.ups))
	for k, u := range t.ups {
		weight := 1
		if info, ok := n.nodes[u.Node]; ok {
			weight = info.weight
		}
		ends[k] = balance.Endpoint{Key: u.Instance, Zone: u.Zone, Weight: weight, Since: u.since, Load: &u.load}
	}
	b := t.spec.Balancer
	if t.spec.Stickiness.Strategy == fsm.StickyHash {
		b.Policy = fsm.BalanceHash
	}
	cfg := balance.Config{
		Policy: b.Policy, BoundedLoadPercent: b.BoundedLoadPercent, SlowStart: b.SlowStart.Std(),
		ZoneAware: b.ZoneAware && zone != "", Zone: zone, ZoneShare: n.zoneShare,
	}
	var err error
	if t.set, err = balance.New(cfg, ends); err == nil {
		return nil
	}
	// The state has checked all of this but what follows from the nodes' rows.
	// Better far instances, or any, than none.
	cfg.ZoneAware = false
	if set, again := balance.New(cfg, ends); again == nil {
		t.set = set
		return err
	}
	t.set, _ = balance.New(balance.Config{Policy: fsm.BalanceRandom}, ends)
	return err
}

// reachable leaves out the instances of nodes that are gone, unless there are no
// others: requests to them would relieve nobody.
func reachable(all []*upstream) []*upstream {
	var list []*upstream
	for _, u := range all {
		if !u.ejection.gone.Load() {
			list = append(list, u)
		}
	}
	if len(list) == 0 {
		return all
	}
	return list
}

// healthyEnough leaves out the instances that were never healthy: those are
// starting, and would refuse.
func healthyEnough(all []*upstream) []*upstream {
	var list []*upstream
	for _, u := range all {
		if u.Health != fsm.Unknown {
			list = append(list, u)
		}
	}
	return list
}

// retireMissing closes the idle connections of instances that the next target
// does not have.
func (t *target) retireMissing(next *target) {
	if t == next {
		return
	}
	for id, u := range t.all {
		if next == nil || next.all[id] == nil || next.all[id].instance != u.instance {
			u.retire()
		}
	}
}
