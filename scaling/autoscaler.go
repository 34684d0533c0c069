package scaling

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Collector gets the newest samples from all nodes.
type Collector interface {
	// Collect returns the samples that each node has taken within the last
	// so much time, by the node's own clock. It returns what it has when ctx
	// ends: with an error, when a node did not answer.
	Collect(ctx context.Context, within time.Duration) ([]MetricSample, error)
}

// AutoscalerConfig configures an [Autoscaler]. Zero fields mean the defaults.
type AutoscalerConfig struct {
	// Interval is the time between two evaluations of a group.
	Interval time.Duration
	// CollectTimeout is how long an evaluation waits for the samples.
	CollectTimeout time.Duration
	// MaxGap is [Inputs.MaxGap].
	MaxGap time.Duration
	// QuietEvery is how often a decision that has nothing to say (no metric,
	// no change, the same reason as before) is recorded again.
	QuietEvery time.Duration
	Log        *slog.Logger
	Metrics    *Metrics
}

// Autoscaler evaluates the policies of all groups at a fixed interval. It runs
// on the leader. All that its decisions depend on is in the replicated state,
// but for the samples of the present evaluation: a new leader keeps the rhythm
// of the last one and comes to the decisions that it would have come to.
type Autoscaler struct {
	cfg     AutoscalerConfig
	cluster Cluster
	collect Collector
	// inFlight is of the last collection, by instance.
	inFlight atomic.Pointer[map[string]float64]
}

// NewAutoscaler returns an autoscaler.
func NewAutoscaler(cfg AutoscalerConfig, cluster Cluster, collect Collector) *Autoscaler {
	cfg.Interval = orDefault(cfg.Interval, DefaultInterval)
	cfg.CollectTimeout = min(orDefault(cfg.CollectTimeout, time.Second), cfg.Interval/2)
	cfg.QuietEvery = orDefault(cfg.QuietEvery, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = unregistered()
	}
	return &Autoscaler{cfg: cfg, cluster: cluster, collect: collect}
}

// run is one term of the autoscaler.
type run struct {
	*Autoscaler
	term uint64
	seen cursor
	// first is true until samples were collected once in this term.
	first bool
	// collectors are waited for before the run ends.
	collectors sync.WaitGroup
	busy       chan struct{}
}

// Run evaluates until ctx ends, which gives nil, or until the log has moved on
// to a later term, which gives an error.
func (a *Autoscaler) Run(ctx context.Context, term uint64) error {
	ctx, cancel := context.WithCancel(fsm.WithActor(ctx, loopAutoscaler))
	r := &run{Autoscaler: a, term: term, first: true, busy: make(chan struct{}, 1)}
	defer r.collectors.Wait()
	defer cancel()
	next := a.firstTick(time.Now())
	for {
		if !pause(ctx, max(0, time.Until(next))) {
			return nil
		}
		if err := r.tick(ctx); err != nil {
			return err
		}
		// Evaluations that were missed are not made up for.
		for next = next.Add(a.cfg.Interval); !next.After(time.Now()); {
			next = next.Add(a.cfg.Interval)
		}
	}
}

// InFlight is how many requests an instance had when samples were collected
// last; 0 when that is not known. It is safe for concurrent use.
func (a *Autoscaler) InFlight(instance string) float64 {
	if m := a.inFlight.Load(); m != nil {
		return (*m)[instance]
	}
	return 0
}

// firstTick is one interval after the last evaluation of the leader before, so
// that "3 evaluations" stay as long as the user thinks; at once when that has
// passed.
func (a *Autoscaler) firstTick(now time.Time) time.Time {
	var last time.Time
	for _, w := range a.cluster.State().Windows.All() {
		if n := len(w.Samples); n > 0 {
			last = later(last, w.Samples[n-1].At)
		}
	}
	next := last.Add(a.cfg.Interval)
	if next.Before(now) || next.After(now.Add(a.cfg.Interval)) {
		return now
	}
	return next
}

// tick is one evaluation of every group that has a policy.
func (r *run) tick(ctx context.Context) error {
	if err := superseded(r.cluster.State(), r.term); err != nil {
		return err
	}
	if r.cluster.State().Policies.Len() == 0 {
		return nil // nothing is collected or written for nobody
	}
	samples := r.samples(ctx)
	s := r.cluster.State()
	values, seen := aggregate(s, samples, r.seen)
	r.seen = seen
	inFlight := inFlightOf(s, samples)
	r.inFlight.Store(&inFlight)
	var groups []string
	for name, g := range s.Groups.All() {
		if !g.Deleting {
			groups = append(groups, name)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Interval)
	defer cancel()
	inParallel(len(groups), func(k int) { r.evaluate(ctx, groups[k], values[groups[k]]) })
	return nil
}

// samples collects, for a bounded time, whatever the collector does. One that
// is late is left to end by itself, and its samples come with the next
// collection; meanwhile no other is begun.
func (r *run) samples(ctx context.Context) []MetricSample {
	select {
	case r.busy <- struct{}{}:
	default:
		r.cfg.Metrics.late.Inc()
		return nil
	}
	within := 2 * r.cfg.Interval
	if r.first {
		// What is older was the last leader's to count.
		within = r.cfg.Interval
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CollectTimeout)
	result := make(chan []MetricSample, 1)
	r.collectors.Go(func() {
		defer func() { <-r.busy }()
		defer cancel()
		got, err := r.collect.Collect(ctx, within)
		if err != nil {
			r.cfg.Log.Debug("not all nodes gave their metrics", "error", err)
		}
		result <- got
	})
	timer := time.NewTimer(r.cfg.CollectTimeout + r.cfg.CollectTimeout/4)
	defer timer.Stop()
	select {
	case got := <-result:
		r.first = false
		return got
	case <-timer.C:
		r.cfg.Metrics.late.Inc()
		return nil
	}
}

// evaluate decides for one group and records the decision. A group that has
// moved on between the two is decided for once more, on what it is now.
func (r *run) evaluate(ctx context.Context, group string, values map[string]float64) {
	for range 2 {
		d, ok := r.decide(r.cluster.State(), group, values)
		if !ok {
			return
		}
		_, err := r.cluster.Propose(ctx, fsm.RecordDecision{Decision: d, Term: r.term})
		if err == nil {
			r.cfg.Metrics.decided(&d)
			return
		}
		if ctx.Err() != nil {
			return
		}
		r.cfg.Metrics.failures.WithLabelValues(loopAutoscaler).Inc()
		r.cfg.Log.Warn("a decision could not be recorded", "group", group, "error", err)
		if fsm.KindOf(err) != fsm.Conflict {
			return
		}
	}
}

// decide makes the decision, and says whether it is worth a row.
func (r *run) decide(s *fsm.State, group string, values map[string]float64) (fsm.Decision, bool) {
	g, ok := s.Groups.Get(group)
	if !ok || g.Deleting {
		return fsm.Decision{}, false
	}
	in := Inputs{Group: g, Windows: map[string]*fsm.Window{}, Now: logTime(s), Interval: r.cfg.Interval, MaxGap: r.cfg.MaxGap}
	for _, p := range s.Policies.Prefix(group + "/") {
		in.Policies = append(in.Policies, p)
		if w, ok := s.Windows.Get(group + "/" + p.Metric); ok {
			in.Windows[p.Metric] = w
		}
	}
	if len(in.Policies) == 0 {
		return fsm.Decision{}, false
	}
	in.Metrics = recorded(in.Policies, values)
	r.cfg.Metrics.evaluations.Inc()
	d := Decide(in)
	return d, len(d.Metrics) > 0 || d.To != d.From || r.news(s, &d)
}

// news reports whether a decision without any metric says something that the
// group's last one did not, or that has not been said for a while.
func (r *run) news(s *fsm.State, d *fsm.Decision) bool {
	for _, last := range s.Decisions.Backward(d.Group + "/") {
		return last.Reason != d.Reason || d.At.Sub(last.At) >= r.cfg.QuietEvery
	}
	return true
}
