package scaling_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// load is a fleet whose instances share an offered load, in percent of one
// instance: 250 on five healthy instances is 50 each.
type load struct {
	c  *cluster
	mu sync.Mutex
	at func(now time.Time) float64
}

func (l *load) Collect(context.Context, time.Duration) ([]scaling.MetricSample, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.c.State()
	_, _, healthy := tally(s, "web")
	var out []scaling.MetricSample
	for _, i := range s.InstancesOf("web") {
		if i.State == fsm.Running {
			each := math.Min(100, l.at(time.Now())/float64(max(1, healthy)))
			out = append(out, scaling.MetricSample{Node: i.Node, Group: "web", Instance: i.ID, Metric: "cpu", Value: each, At: time.Now()})
		}
	}
	return out, nil
}

func (c *cluster) autoscaler(t *testing.T, cfg scaling.AutoscalerConfig, from scaling.Collector, term uint64) func(ctx context.Context) {
	a := scaling.NewAutoscaler(cfg, c, from)
	return func(ctx context.Context) {
		if err := a.Run(ctx, term); err != nil && fsm.KindOf(err) != fsm.Conflict {
			t.Errorf("autoscaler: %v", err)
		}
	}
}

// policies of the usual kind: out fast, in slowly.
func (c *cluster) policies(t *testing.T) {
	t.Helper()
	out, in := up(3, 50), down(6, 1)
	out.AdjustmentType, out.Cooldown, in.Cooldown = fsm.Percentage, fsm.Duration(30*time.Second), fsm.Duration(time.Minute)
	c.must(t, fsm.PutPolicy{Policy: *out}, fsm.PutPolicy{Policy: *in})
}

// scalings are the changes of size by policies, oldest first.
func scalings(s *fsm.State) []*fsm.Activity {
	var list []*fsm.Activity
	for _, a := range s.Activities.Prefix("web/") {
		if a.Type == fsm.ActivityScaled && a.Policy != "" {
			list = append(list, a)
		}
	}
	return list
}

func TestAnHourOfLoadUpAndDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 2, 12))
		c.policies(t)
		began := time.Now()
		l := &load{c: c, at: func(now time.Time) float64 {
			if m := now.Sub(began).Minutes(); m > 10 && m < 30 {
				return 500
			}
			return 60
		}}
		a := &agents{c: c, slow: 2 * time.Second}
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{}, 1), c.autoscaler(t, scaling.AutoscalerConfig{}, l, 1))
		defer stop()
		highest := 0
		for range 60 * 6 {
			elapse(10 * time.Second)
			g, _ := c.State().Groups.Get("web")
			highest = max(highest, g.Desired)
			if _, active, _ := tally(c.State(), "web"); active > 12 || g.Desired < 2 {
				t.Fatalf("%d active, desired %d: outside of [2, 12]", active, g.Desired)
			}
		}
		g, _ := c.State().Groups.Get("web")
		if highest < 8 || highest > 12 || g.Desired != 2 {
			t.Errorf("the highest size was %d, the last is %d; want 8 to 12, and 2", highest, g.Desired)
		}
		checkCooldowns(t, c.State())
		s := c.State()
		if w, ok := s.Windows.Get("web/cpu"); !ok || len(w.Samples) != fsm.WindowSamples {
			t.Error("the window of cpu is not full after an hour")
		}
		n := 0
		for _, d := range s.Decisions.Prefix("web/") {
			if n++; d.Reason == "" || len(d.Proposals) != 2 {
				t.Fatalf("decision %d: reason %q, %d proposals", d.ID, d.Reason, len(d.Proposals))
			}
		}
		if n != fsm.DecisionsKept {
			t.Errorf("%d decisions are kept, want %d", n, fsm.DecisionsKept)
		}
	})
}

func checkCooldowns(t *testing.T, s *fsm.State) {
	t.Helper()
	list := scalings(s)
	if len(list) < 4 {
		t.Errorf("only %d changes of size", len(list))
	}
	for k := range len(list) - 1 {
		p, ok := s.Policies.Get("web/" + list[k+1].Policy)
		if gap := list[k+1].At.Sub(list[k].At); !ok || gap < p.Cooldown.Std() {
			t.Errorf("%s acts %s after the change before it", list[k+1].Policy, gap)
		}
	}
}

// TestFailoverChangesNothing compares a run whose leader changes every 17 s
// with one whose leader stays: same changes of size, in the same order, and
// never one twice.
func TestFailoverChangesNothing(t *testing.T) {
	story := func(t *testing.T, reign time.Duration) (moves []string) {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster()
			c.fleet(t)
			c.must(t, group("web", 2, 2, 12))
			c.policies(t)
			began := time.Now()
			l := &load{c: c, at: func(now time.Time) float64 {
				if m := now.Sub(began).Minutes(); m > 2 && m < 6 {
					return 500
				}
				return 60
			}}
			a := &agents{c: c}
			everyone := loops(t, a.run)
			id := newIDs()
			var leaders []func()
			for term := uint64(1); time.Since(began) < 15*time.Minute; term++ {
				// The old leader's loop goes on beside the new one's: it does
				// not know yet. The fence in the log has to hold it off.
				c.SetTerm(term)
				leaders = append(leaders, loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, l, term),
					c.reconciler(t, scaling.ReconcilerConfig{NewID: id}, term)))
				elapse(reign)
				if len(leaders) > 1 {
					leaders[0]()
					leaders = leaders[1:]
				}
			}
			for _, s := range scalings(c.State()) {
				moves = append(moves, fmt.Sprintf("%s %d→%d", s.Policy, s.From, s.To))
			}
			checkCooldowns(t, c.State())
			for _, stop := range append(leaders, everyone) {
				stop()
			}
		})
		return moves
	}
	calm := story(t, time.Hour)
	shaky := story(t, 17*time.Second)
	if len(calm) < 6 || !slices.Equal(calm, shaky) {
		t.Errorf("one leader:   %v\nmany leaders: %v", calm, shaky)
	}
}

func TestNewLeaderKeepsTheRhythm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 2, 12))
		c.policies(t)
		l := &load{c: c, at: func(time.Time) float64 { return 60 }}
		a := &agents{c: c}
		defer loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{}, 1))()
		stop := loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, l, 1))
		elapse(32 * time.Second)
		stop()
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, l, 1))()
		elapse(32 * time.Second)
		w, ok := c.State().Windows.Get("web/cpu")
		if !ok || len(w.Samples) < 10 {
			t.Fatal("hardly any samples")
		}
		for k := range len(w.Samples) - 1 {
			if gap := w.Samples[k+1].At.Sub(w.Samples[k].At); gap != 5*time.Second {
				t.Errorf("samples %d and %d are %s apart, want 5s", k, k+1, gap)
			}
		}
	})
}

// fixed gives the same samples each time.
type fixed func() ([]scaling.MetricSample, error)

func (f fixed) Collect(context.Context, time.Duration) ([]scaling.MetricSample, error) { return f() }

// stuck never answers before its context ends.
type stuck struct{ after time.Duration }

func (s stuck) Collect(ctx context.Context, _ time.Duration) ([]scaling.MetricSample, error) {
	<-ctx.Done()
	//archtest:ok virtual time of testing/synctest: nothing waits
	time.Sleep(s.after)
	return nil, ctx.Err()
}

func TestAStuckNodeDoesNotHoldTheEvaluation(t *testing.T) {
	for _, after := range []time.Duration{0, 30 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster()
			c.fleet(t)
			c.must(t, group("web", 2, 2, 12))
			c.policies(t)
			cfg := scaling.AutoscalerConfig{QuietEvery: time.Nanosecond}
			defer loops(t, c.autoscaler(t, cfg, stuck{after}, 1))()
			elapse(59 * time.Second)
			if n := c.proposed("RecordDecision"); n != 12 {
				t.Errorf("%d evaluations in a minute with a collector that is %s late, want 12", n, after)
			}
		})
	}
}

func TestPartialCollectionCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 2, 12), fsm.PutPolicy{Policy: *up(1, 1)})
		part := fixed(func() ([]scaling.MetricSample, error) {
			return []scaling.MetricSample{{Node: "n1", Group: "web", Metric: "cpu", Value: 90, At: time.Now()}}, errors.New("n2 did not answer")
		})
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, part, 1))()
		elapse(time.Second)
		if g, _ := c.State().Groups.Get("web"); g.Desired != 3 {
			t.Errorf("desired is %d, want 3", g.Desired)
		}
	})
}

func TestIdleGroupsWriteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 2, 12))
		l := &load{c: c, at: func(time.Time) float64 { return 60 }}
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, l, 1))()
		before := c.State().Index()
		elapse(10 * time.Minute)
		if now := c.State().Index(); now != before {
			t.Errorf("a group without a policy cost %d entries", now-before)
		}
		// With a policy and no sample: said once, and once a minute. Another
		// group, without a policy, still costs nothing.
		c.must(t, group("api", 1, 1, 2))
		c.must(t, fsm.PutPolicy{Policy: *up(1, 1)})
		elapse(10*time.Minute + 4*time.Second)
		if n := c.proposed("RecordDecision"); n < 9 || n > 12 {
			t.Errorf("%d entries in 10 minutes without a sample", n)
		}
		for _, d := range c.State().Decisions.Prefix("web/") {
			if !strings.Contains(d.Reason, "no sample of cpu") {
				t.Errorf("decision says %q", d.Reason)
			}
		}
		for _, d := range c.State().Decisions.Prefix("api/") {
			t.Fatalf("a group without a policy has the decision %q", d.Reason)
		}
	})
}

// TestADecisionOnAGroupThatMovedOn: the size changes between the decision and
// its entry. It must be decided on again, on what is true now.
func TestADecisionOnAGroupThatMovedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 1, 12), fsm.PutPolicy{Policy: *up(1, 1)})
		moved := false
		c.with(func() {
			c.refuse = func(cmd fsm.Command) error {
				if cmd.Name() != "RecordDecision" || moved {
					return nil
				}
				moved = true
				c.Must(group("web", 6, 1, 12))
				return nil
			}
		})
		push := fixed(func() ([]scaling.MetricSample, error) {
			return []scaling.MetricSample{{Group: "web", Metric: "cpu", Value: 90, At: time.Now()}}, nil
		})
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, push, 1))()
		elapse(time.Second)
		if g, _ := c.State().Groups.Get("web"); g.Desired != 7 {
			t.Errorf("desired is %d, want 7: one more than the 6 that somebody set", g.Desired)
		}
	})
}

func TestWhichSamplesCount(t *testing.T) {
	type sample = scaling.MetricSample
	ago := func(d time.Duration) time.Time { return time.Now().Add(-d) }
	for _, k := range []struct {
		name    string
		samples func() []sample
		want    float64
		none    bool
		metric  string // cpu, if none is named
	}{
		{name: "what the proxies of all nodes send to an instance", metric: "requests", want: 25, samples: func() []sample {
			return []sample{
				{Node: "n1", Group: "web", Instance: "i1", Metric: "requests", Value: 10, At: ago(1)},
				{Node: "n1", Group: "web", Instance: "i1", Metric: "requests", Value: 99, At: ago(2)},
				{Node: "n2", Group: "web", Instance: "i1", Metric: "requests", Value: 30, At: ago(3)},
				{Node: "n2", Group: "web", Instance: "i2", Metric: "requests", Value: 10, At: ago(3)},
			}
		}},
		{name: "the mean of what the proxies wait for an instance", metric: "responseTime", want: 30, samples: func() []sample {
			return []sample{
				{Node: "n1", Group: "web", Instance: "i1", Metric: "responseTime", Value: 10, At: ago(1)},
				{Node: "n2", Group: "web", Instance: "i1", Metric: "responseTime", Value: 30, At: ago(3)},
				{Node: "n2", Group: "web", Instance: "i2", Metric: "responseTime", Value: 40, At: ago(3)},
			}
		}},
		{name: "the mean over healthy instances", want: 30, samples: func() []sample {
			return []sample{{Group: "web", Instance: "i1", Metric: "cpu", Value: 20, At: ago(0)}, {Group: "web", Instance: "i2", Metric: "cpu", Value: 40, At: ago(0)}}
		}},
		{name: "only the newest reading of an instance", want: 50, samples: func() []sample {
			return []sample{
				{Group: "web", Instance: "i1", Metric: "cpu", Value: 50, At: ago(1)},
				{Group: "web", Instance: "i1", Metric: "cpu", Value: 90, At: ago(2)},
			}
		}},
		{name: "not the unhealthy instance", want: 20, samples: func() []sample {
			return []sample{{Group: "web", Instance: "i1", Metric: "cpu", Value: 20, At: ago(0)}, {Group: "web", Instance: "i3", Metric: "cpu", Value: 99, At: ago(0)}}
		}},
		{name: "not an instance of another group", none: true, samples: func() []sample {
			return []sample{{Group: "web", Instance: "o1", Metric: "cpu", Value: 99, At: ago(0)}}
		}},
		{name: "not an instance that nobody knows", none: true, samples: func() []sample {
			return []sample{{Group: "web", Instance: "zz", Metric: "cpu", Value: 99, At: ago(0)}}
		}},
		{name: "the mean of what was pushed for the group", want: 15, samples: func() []sample {
			return []sample{{Group: "web", Metric: "cpu", Value: 10, At: ago(1)}, {Group: "web", Metric: "cpu", Value: 20, At: ago(2)}}
		}},
		{name: "what was pushed goes before what was measured", want: 85, samples: func() []sample {
			return []sample{{Group: "web", Metric: "cpu", Value: 85, At: ago(1)}, {Group: "web", Instance: "i1", Metric: "cpu", Value: 1, At: ago(0)}}
		}},
		{name: "never NaN", want: 30, samples: func() []sample {
			return []sample{{Group: "web", Instance: "i1", Metric: "cpu", Value: 30, At: ago(0)}, {Group: "web", Instance: "i2", Metric: "cpu", Value: math.NaN(), At: ago(0)}}
		}},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := withInstances(t)
				from := fixed(func() ([]sample, error) { return k.samples(), nil })
				defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, from, 1))()
				elapse(time.Second)
				w, ok := c.State().Windows.Get("web/" + cmp.Or(k.metric, "cpu"))
				if ok == k.none {
					t.Fatalf("recorded: %v, want %v", ok, !k.none)
				}
				if ok && w.Samples[0].Value != k.want {
					t.Errorf("recorded %v, want %v", w.Samples[0].Value, k.want)
				}
			})
		})
	}
}

// withInstances has the healthy i1 and i2 and the unhealthy i3 in web, and o1
// in another group.
func withInstances(t *testing.T) *cluster {
	c := newCluster()
	c.must(t, node("n1", "a", 16), template("app", 0), group("web", 3, 1, 5), group("other", 1, 1, 5),
		fsm.PutPolicy{Policy: *up(60, 1)},
		fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: "n1"}, {ID: "i2", Node: "n1"}, {ID: "i3", Node: "n1"}}},
		fsm.LaunchInstances{Group: "other", Term: 1, Launches: []fsm.Launch{{ID: "o1", Node: "n1"}}})
	for _, state := range []fsm.InstanceState{fsm.Starting, fsm.Running} {
		r := fsm.ReportInstances{Node: "n1", NodeIncarnation: 1}
		for _, id := range []string{"i1", "i2", "i3", "o1"} {
			h := fsm.Healthy
			if id == "i3" {
				h = fsm.Unhealthy
			}
			r.Reports = append(r.Reports, fsm.InstanceReport{ID: id, State: state, Health: h})
		}
		c.must(t, r)
	}
	return c
}

// TestAPushedSampleCountsOnce: one push must not look like a streak.
func TestAPushedSampleCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 1, 12), fsm.PutPolicy{Policy: *up(2, 1)})
		at := time.Now()
		still := fixed(func() ([]scaling.MetricSample, error) {
			return []scaling.MetricSample{{Node: "n1", Group: "web", Metric: "cpu", Value: 90, At: at}}, nil
		})
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, still, 1))()
		elapse(30 * time.Second)
		w, ok := c.State().Windows.Get("web/cpu")
		if g, _ := c.State().Groups.Get("web"); !ok || len(w.Samples) != 1 || g.Desired != 2 {
			t.Errorf("one pushed sample counted as %d, desired is %d", len(w.Samples), g.Desired)
		}
	})
}

func TestOnlyMetricsOfUseAreRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 1, 12), fsm.PutPolicy{Policy: *up(2, 1)})
		n := 0
		from := fixed(func() ([]scaling.MetricSample, error) {
			n++
			return []scaling.MetricSample{
				{Group: "web", Metric: "cpu", Value: 1, At: time.Now()},
				{Group: "web", Metric: "memory", Value: 1, At: time.Now()},
				{Group: "web", Metric: fmt.Sprintf("made-up-%d", n), Value: 1, At: time.Now()},
			}, nil
		})
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, from, 1))()
		elapse(time.Minute)
		if rows := c.State().Windows.Len(); rows != 2 {
			t.Errorf("%d windows, want 2: cpu and memory", rows)
		}
	})
}
