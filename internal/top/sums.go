package top

import (
	"cmp"
	"maps"
	"math"
	"slices"

	"github.com/pacelinehq/paceline/fsm"
)

// sums adds the nodes up.
type sums struct {
	spans     int // nodes that answered twice
	services  map[string]*serviceSum
	instances map[string]map[string]*instanceSum // by group, then id
}

type flow struct {
	requests, errors, failures, inFlight float64
	buckets                              map[float64]float64
}

// observe adds answers by the time they took.
func (f *flow) observe(buckets map[float64]float64) {
	if f.buckets == nil {
		f.buckets = map[float64]float64{}
	}
	for bound, n := range buckets {
		f.buckets[bound] += n
	}
}

type serviceSum struct {
	flow
	sessions *float64
}

type instanceSum struct {
	flow
	ejected, seen int
}

func newSums() *sums {
	return &sums{services: map[string]*serviceSum{}, instances: map[string]map[string]*instanceSum{}}
}

// add takes one node in, and returns its requests a second: nil without an
// earlier sample of it.
func (s *sums) add(before, after *Sample) *float64 {
	span := 0.0
	if before != nil {
		span = after.At.Sub(before.At).Seconds()
	}
	known := span > 0
	if known {
		s.spans++
	} else {
		before = &Sample{}
	}
	total := 0.0
	for name, now := range after.Services {
		sum := s.serviceSum(name)
		sum.inFlight += now.InFlight
		if now.Sessions != nil && (sum.sessions == nil || *now.Sessions > *sum.sessions) {
			sum.sessions = now.Sessions
		}
		if !known {
			continue
		}
		was := before.Services[name]
		if was == nil {
			was = &ServiceCounters{}
		}
		total += sum.count(increase(was.Codes, now.Codes), span)
		sum.observe(increase(was.Buckets, now.Buckets))
	}
	for key, now := range after.Instances {
		sum := s.instanceSum(key)
		sum.inFlight += now.InFlight
		sum.seen++
		if now.Ejected {
			sum.ejected++
		}
		if !known {
			continue
		}
		was := before.Instances[key]
		if was == nil {
			was = &InstanceCounters{}
		}
		sum.count(increase(was.Codes, now.Codes), span)
		sum.observe(increase(was.Buckets, now.Buckets))
		failures := growth(was.Failures, now.Failures) / span
		sum.failures += failures
		s.serviceSum(key.Group).failures += failures
	}
	if !known {
		return nil
	}
	total /= span
	return &total
}

// count adds answers by class, over a span of seconds, and returns how many
// there were.
func (f *flow) count(codes map[string]float64, span float64) float64 {
	total := 0.0
	for _, class := range slices.Sorted(maps.Keys(codes)) {
		total += codes[class]
		if failed(class) {
			f.errors += codes[class] / span
		}
	}
	f.requests += total / span
	return total
}

func (s *sums) serviceSum(group string) *serviceSum {
	sum := s.services[group]
	if sum == nil {
		sum = &serviceSum{}
		s.services[group] = sum
	}
	return sum
}

func (s *sums) instanceSum(key InstanceKey) *instanceSum {
	of := s.instances[key.Group]
	if of == nil {
		of = map[string]*instanceSum{}
		s.instances[key.Group] = of
	}
	sum := of[key.ID]
	if sum == nil {
		sum = &instanceSum{}
		of[key.ID] = sum
	}
	return sum
}

// traffic is a flow as a row shows it.
func (s *sums) traffic(f flow) Traffic {
	t := Traffic{InFlight: int(math.Round(f.inFlight)), P50: millis(0.5, f.buckets), P99: millis(0.99, f.buckets)}
	if s.spans > 0 {
		t.Requests, t.Errors, t.Failures = &f.requests, &f.errors, &f.failures
	}
	return t
}

// service makes the row of a service.
func (s *sums) service(name string, r *Reading) Service {
	sum := s.serviceSum(name)
	row := Service{Group: name, Traffic: s.traffic(sum.flow), Gone: true, Instances: []Instance{}}
	if sum.sessions != nil {
		n := int(*sum.sessions)
		row.Sessions = &n
	}
	for _, g := range r.Groups {
		if g.Name == name {
			row.Desired, row.Gone = g.Desired, false
		}
	}
	rest := maps.Clone(s.instances[name])
	for _, i := range r.Instances {
		if i.Group != name {
			continue
		}
		seen := rest[i.ID]
		delete(rest, i.ID)
		if i.State.Terminal() && (seen == nil || seen.inFlight == 0 && seen.requests == 0) {
			continue
		}
		if i.State == fsm.Running && i.Health == fsm.Healthy {
			row.Healthy++
		}
		if seen == nil {
			seen = &instanceSum{}
		}
		row.Instances = append(row.Instances, Instance{
			ID: i.ID, Node: i.Node, State: i.State, Health: i.Health,
			Ejected: seen.ejected, Seen: seen.seen, Traffic: s.traffic(seen.flow),
		})
	}
	for id, seen := range rest {
		row.Instances = append(row.Instances, Instance{ID: id, Ejected: seen.ejected, Seen: seen.seen, Traffic: s.traffic(seen.flow)})
	}
	slices.SortFunc(row.Instances, func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) })
	return row
}

func millis(q float64, buckets map[float64]float64) *float64 {
	v, ok := quantile(q, buckets)
	if !ok {
		return nil
	}
	v *= 1000
	return &v
}
