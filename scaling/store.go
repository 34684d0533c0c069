package scaling

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// MetricSample is one measurement on its way to the autoscaler.
type MetricSample struct {
	// Node is where the sample was measured or accepted.
	Node  string `json:"node"`
	Group string `json:"group"`
	// Instance is empty for a value of the group as a whole.
	Instance string    `json:"instance,omitempty"`
	Metric   string    `json:"metric"`
	Value    float64   `json:"value"`
	At       time.Time `json:"at"`
}

// StoreLimits bounds a [Store]. Zero fields mean the defaults.
type StoreLimits struct {
	// Groups is the most groups, Metrics the most metrics of one group, and
	// Series the most pairs of metric and instance over all groups.
	Groups, Metrics, Series int
	// Samples is the most samples of a series; the oldest make room.
	Samples int
	// KeepFor is how long a sample is kept at most.
	KeepFor time.Duration
}

// Store keeps the newest samples of a node in memory: those measured on its
// instances and those that clients pushed to it. The leader's autoscaler pulls
// them with [Store.Since]. It is safe for concurrent use, and bounded: a client
// that pushes without end costs a fixed amount of memory.
type Store struct {
	node   string
	limits StoreLimits

	mu     sync.Mutex
	groups map[string]map[string]int // group → metric → number of series
	series map[seriesKey]*ring
	swept  time.Time
}

type seriesKey struct{ group, metric, instance string }

// ring holds the newest samples of a series; next is where the next one goes.
type ring struct {
	samples []point
	next    int
	newest  time.Time
}

type point struct {
	at    time.Time
	value float64
}

// NewStore returns the store of a node.
func NewStore(node string, limits StoreLimits) *Store {
	limits.Groups = orDefault(limits.Groups, 10_000)
	limits.Metrics = orDefault(limits.Metrics, maxMetrics)
	limits.Series = orDefault(limits.Series, 20_000)
	limits.Samples = orDefault(limits.Samples, 64)
	limits.KeepFor = orDefault(limits.KeepFor, 2*time.Minute)
	return &Store{node: node, limits: limits, groups: map[string]map[string]int{}, series: map[seriesKey]*ring{}}
}

// Push adds a sample. instance is empty for a value of the group as a whole.
// A time in the future becomes the present: clocks of clients differ.
func (s *Store) Push(group, metric, instance string, value float64, at time.Time) error {
	if err := validSample(group, metric, value); err != nil {
		return err
	}
	now := time.Now()
	if at.After(now) {
		at = now
	}
	if now.Sub(at) > s.limits.KeepFor {
		return fsm.Errorf(fsm.Invalid, "metric", metric, "has a sample that is %s old, at most %s is of use",
			now.Sub(at).Round(time.Second), s.limits.KeepFor)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := seriesKey{group, metric, instance}
	r, ok := s.series[key]
	if !ok {
		var err error
		if r, err = s.open(key, now); err != nil {
			return err
		}
	}
	r.add(point{at, value}, s.limits.Samples)
	return nil
}

func validSample(group, metric string, value float64) error {
	switch {
	case !fsm.ValidName(group):
		return fsm.Errorf(fsm.Invalid, "group", group, "is not a name; it must match %s", fsm.NamePattern)
	case !fsm.ValidMetric(metric):
		return fsm.Errorf(fsm.Invalid, "metric", metric, "is not the name of a metric").
			WithHint("use a name such as cpu or queue_depth")
	case !isFinite(value):
		return fsm.Errorf(fsm.Invalid, "metric", metric, "has a value that is not a finite number")
	}
	return nil
}

// open makes room for a series, or says which limit forbids it.
func (s *Store) open(key seriesKey, now time.Time) (*ring, error) {
	if len(s.series) >= s.limits.Series || now.Sub(s.swept) > s.limits.KeepFor {
		s.sweep(now)
	}
	metrics := s.groups[key.group]
	switch {
	case len(s.series) >= s.limits.Series:
		return nil, fsm.Errorf(fsm.Exhausted, "metric", key.metric, "finds no room: this node keeps %d series", s.limits.Series)
	case metrics == nil && len(s.groups) >= s.limits.Groups:
		return nil, fsm.Errorf(fsm.Exhausted, "group", key.group, "finds no room: this node keeps the metrics of %d groups", s.limits.Groups)
	case metrics[key.metric] == 0 && len(metrics) >= s.limits.Metrics:
		return nil, fsm.Errorf(fsm.Exhausted, "group", key.group, "has %d metrics, the most that are allowed", s.limits.Metrics)
	}
	if metrics == nil {
		metrics = map[string]int{}
		s.groups[key.group] = metrics
	}
	metrics[key.metric]++
	r := &ring{}
	s.series[key] = r
	return r, nil
}

// sweep drops the series without a recent sample.
func (s *Store) sweep(now time.Time) {
	s.swept = now
	for key, r := range s.series {
		if now.Sub(r.newest) <= s.limits.KeepFor {
			continue
		}
		delete(s.series, key)
		metrics := s.groups[key.group]
		if metrics[key.metric]--; metrics[key.metric] == 0 {
			delete(metrics, key.metric)
		}
		if len(metrics) == 0 {
			delete(s.groups, key.group)
		}
	}
}

// Since returns the samples that are newer than a time, in the order of group,
// metric, instance and time.
func (s *Store) Since(after time.Time) []MetricSample {
	s.mu.Lock()
	var out []MetricSample
	for key, r := range s.series {
		if !r.newest.After(after) {
			continue
		}
		for _, p := range r.samples {
			if p.at.After(after) {
				out = append(out, MetricSample{
					Node: s.node, Group: key.group, Instance: key.instance, Metric: key.metric, Value: p.value, At: p.at,
				})
			}
		}
	}
	s.mu.Unlock()
	slices.SortFunc(out, func(a, b MetricSample) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Metric, b.Metric),
			cmp.Compare(a.Instance, b.Instance), a.At.Compare(b.At))
	})
	return out
}

// Len is the number of series at present.
func (s *Store) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.series)
}

func (r *ring) add(p point, limit int) {
	if len(r.samples) < limit {
		r.samples = append(r.samples, p)
	} else {
		r.samples[r.next] = p
		r.next = (r.next + 1) % limit
	}
	r.newest = later(r.newest, p.at)
}
