package scaling_test

import (
	"context"
	"maps"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// elapse lets virtual time pass inside a synctest bubble.
func elapse(d time.Duration) {
	//archtest:ok virtual time of testing/synctest: nothing waits
	time.Sleep(d)
	synctest.Wait()
}

func TestReconcilerBringsAGroupUpAndFollowsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 3, 1, 10))
		a := &agents{c: c, slow: time.Second}
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{Every: time.Hour}, 1))
		defer stop()
		elapse(3 * time.Second)
		if _, active, healthy := tally(c.State(), "web"); active != 3 || healthy != 3 {
			t.Fatalf("%d active, %d healthy; want 3", active, healthy)
		}
		// The tick is an hour away: only the event can wake the loop.
		c.must(t, fsm.SetDesired{Group: "web", To: 7})
		elapse(3 * time.Second)
		if _, _, healthy := tally(c.State(), "web"); healthy != 7 {
			t.Fatalf("%d healthy after the scale-out, want 7", healthy)
		}
		before := c.State().Index()
		elapse(10 * time.Minute)
		if now := c.State().Index(); now != before {
			t.Errorf("an idle cluster wrote %d entries", now-before)
		}
	})
}

func TestReconcilerTakesALaggingWatchForAnEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.with(func() { c.lag = true })
		c.must(t, group("web", 2, 1, 10))
		a := &agents{c: c}
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{Every: time.Hour}, 1))
		defer stop()
		elapse(2 * time.Second)
		c.must(t, fsm.SetDesired{Group: "web", To: 4})
		elapse(2 * time.Second)
		if _, _, healthy := tally(c.State(), "web"); healthy != 4 {
			t.Fatalf("%d healthy although every watch lags, want 4", healthy)
		}
	})
}

// TestReconcilerWaitsForItsOwnWrites: a state that does not show the last
// launches yet must not be planned on again.
func TestReconcilerWaitsForItsOwnWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 1, 10))
		c.with(func() { c.frozen = c.Cluster.State() })
		stop := loops(t, c.reconciler(t, scaling.ReconcilerConfig{Every: 20 * time.Millisecond}, 1))
		defer stop()
		elapse(5 * time.Second)
		if n := c.proposed("LaunchInstances"); n != 1 {
			t.Errorf("%d launches on one state, want 1", n)
		}
		c.with(func() { c.frozen = nil })
		c.must(t, fsm.SetDesired{Group: "web", To: 3})
		elapse(5 * time.Second)
		if _, active, _ := tally(c.State(), "web"); active != 3 {
			t.Errorf("%d active after the state has caught up, want 3", active)
		}
	})
}

func TestReconcilerRetriesWhatFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 1, 10))
		var tries atomic.Int64
		c.with(func() {
			c.refuse = func(fsm.Command) error {
				if tries.Add(1) <= 3 {
					return fsm.Errorf(fsm.NoLeader, "", "", "no leader")
				}
				return nil
			}
		})
		stop := loops(t, c.reconciler(t, scaling.ReconcilerConfig{Every: time.Hour}, 1))
		defer stop()
		elapse(1400 * time.Millisecond)
		if _, active, _ := tally(c.State(), "web"); active != 0 || tries.Load() != 3 {
			t.Fatalf("%d active after %d tries, want 0 after 3: one each 500 ms", active, tries.Load())
		}
		elapse(200 * time.Millisecond)
		if _, active, _ := tally(c.State(), "web"); active != 2 {
			t.Errorf("%d active, want 2", active)
		}
	})
}

func TestLoopsEndWithTheirTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 1, 1, 10))
		ended := make(chan error, 3)
		stop := loops(t,
			func(ctx context.Context) {
				ended <- scaling.NewReconciler(scaling.ReconcilerConfig{NewID: newIDs()}, c, c).Run(ctx, 1)
			},
			func(ctx context.Context) {
				ended <- scaling.NewAutoscaler(scaling.AutoscalerConfig{}, c, noMetrics{}).Run(ctx, 1)
			},
			func(ctx context.Context) {
				ended <- scaling.NewNodeWatcher(scaling.NodeWatcherConfig{}, c, c).Run(ctx, 1)
			})
		defer stop()
		elapse(time.Second)
		c.SetTerm(2)
		c.must(t, fsm.SetDesired{Group: "web", To: 2})
		elapse(10 * time.Second)
		for range 3 {
			select {
			case err := <-ended:
				if fsm.KindOf(err) != fsm.Conflict {
					t.Errorf("ended with %v, want a conflict", err)
				}
			default:
				t.Error("a loop of an old term goes on")
			}
		}
	})
}

// TestCrashLoop measures the launches of a group that can not start, in
// virtual time: by their number and by the gaps between them.
func TestCrashLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 1, 1, 10))
		var launched []time.Time
		a := &agents{c: c, crash: func(*fsm.Instance) (time.Duration, string, bool) { return 0, "exit status 1", true }}
		c.with(func() {
			c.refuse = func(cmd fsm.Command) error {
				if cmd.Name() == "LaunchInstances" {
					launched = append(launched, time.Now())
				}
				return nil
			}
		})
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{}, 1))
		elapse(10 * time.Minute)
		stop()
		// A new leader, with nothing in its memory, goes on at the same pace.
		c.SetTerm(2)
		stop = loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{NewID: prefixed("j")}, 2))
		elapse(50 * time.Minute)
		stop()
		var gaps []time.Duration
		for k := range len(launched) - 1 {
			gaps = append(gaps, launched[k+1].Sub(launched[k]).Truncate(time.Second))
		}
		for k, gap := range gaps {
			want := min(time.Second<<min(k, 20), 5*time.Minute)
			if gap < want || gap > want+time.Second {
				t.Errorf("gap %d is %s, want %s; all: %v", k+1, gap, want, gaps)
			}
		}
		if len(gaps) < 16 {
			t.Errorf("%d gaps in an hour, want at least 16: the loop stopped trying", len(gaps))
		}
		if rows := c.State().Instances.Len(); rows > 21 {
			t.Errorf("%d rows are kept", rows)
		}
		e, err := scaling.Explain(c.State(), "web", time.Now(), scaling.Limits{}, nil)
		if err != nil || !strings.Contains(e.Sentence, "0 of 1 running; next launch in ") || !strings.Contains(e.Sentence, "exit status 1") {
			t.Errorf("explained as %q, %v", e.Sentence, err)
		}
	})
}

func prefixed(p string) func() string {
	next := newIDs()
	return func() string { return p + next() }
}

func TestCrashLoopEndsWhenTheProgramIsRepaired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 3, 1, 10))
		broken := true
		a := &agents{c: c, crash: func(*fsm.Instance) (time.Duration, string, bool) {
			var is bool
			c.with(func() { is = broken })
			return 0, "exit status 1", is
		}}
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{}, 1))
		defer stop()
		elapse(20 * time.Minute)
		c.with(func() { broken = false })
		elapse(6 * time.Minute)
		if _, active, healthy := tally(c.State(), "web"); active != 3 || healthy != 3 {
			t.Errorf("%d active, %d healthy; want 3", active, healthy)
		}
	})
}

func TestNodeLossIsConfirmedThenHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 6, 1, 10))
		a := &agents{c: c}
		w := scaling.NewNodeWatcher(scaling.NodeWatcherConfig{}, c, c)
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{}, 1), func(ctx context.Context) {
			if err := w.Run(ctx, 1); err != nil {
				t.Error(err)
			}
		})
		defer stop()
		elapse(3 * time.Second)
		// Two short silences with a break between them prove nothing.
		for range 2 {
			c.with(func() { c.dead["n2"] = true })
			elapse(2 * time.Second)
			c.with(func() { c.dead["n2"] = false })
			elapse(time.Second)
		}
		if n := c.proposed("NodeDown"); n != 0 {
			t.Fatalf("declared down after two short silences")
		}
		c.with(func() { c.dead["n2"] = true })
		elapse(2900 * time.Millisecond)
		if n := c.proposed("NodeDown"); n != 0 {
			t.Fatalf("declared down before the time to confirm was over")
		}
		elapse(3 * time.Second)
		states, _, healthy := tally(c.State(), "web")
		if n := c.proposed("NodeDown"); n != 1 || states[fsm.Lost] != 2 || healthy != 6 {
			t.Errorf("%d × NodeDown, %d lost, %d healthy; want 1, 2, 6", n, states[fsm.Lost], healthy)
		}
		elapse(time.Minute)
		if n := c.proposed("NodeDown"); n != 1 {
			t.Errorf("NodeDown was proposed %d times", n)
		}
	})
}

func TestNodeWatcherIsSlowWhenItsOwnViewIsInDoubt(t *testing.T) {
	for _, k := range []struct {
		name  string
		fault func(c *cluster)
	}{
		{"most nodes are silent", func(c *cluster) { c.dead["n1"], c.dead["n2"] = true, true }},
		{"nothing is known of the node", func(c *cluster) { c.unknown["n2"] = true }},
	} {
		t.Run(k.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				c.fleet(t)
				c.with(func() { k.fault(c) })
				w := scaling.NewNodeWatcher(scaling.NodeWatcherConfig{}, c, c)
				stop := loops(t, func(ctx context.Context) { _ = w.Run(ctx, 1) })
				defer stop()
				elapse(59 * time.Second)
				if n := c.proposed("NodeDown"); n != 0 {
					t.Fatalf("declared %d nodes down within a minute", n)
				}
				elapse(2 * time.Second)
				if n := c.proposed("NodeDown"); n == 0 {
					t.Error("never declared down")
				}
			})
		})
	}
}

func TestNodeWatcherSparesANodeThatCameBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.with(func() { c.dead["n2"] = true })
		w := scaling.NewNodeWatcher(scaling.NodeWatcherConfig{}, c, c)
		stop := loops(t, func(ctx context.Context) { _ = w.Run(ctx, 1) })
		defer stop()
		elapse(2 * time.Second)
		back := node("n2", "b", 16)
		back.Node.Incarnation = 2
		c.must(t, back)
		elapse(2 * time.Second)
		if n := c.proposed("NodeDown"); n != 0 {
			t.Error("the new incarnation was blamed for the silence of the old one")
		}
	})
}

// TestReconcilerAvoidsANodeThatDoesNotAnswer, even before it is declared down.
func TestReconcilerAvoidsANodeThatDoesNotAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.with(func() { c.dead["n2"] = true })
		c.must(t, group("web", 6, 1, 10))
		stop := loops(t, c.reconciler(t, scaling.ReconcilerConfig{}, 1))
		defer stop()
		elapse(time.Second)
		for _, i := range c.State().InstancesOf("web") {
			if i.Node == "n2" {
				t.Errorf("%s was placed on the silent node", i.ID)
			}
		}
	})
}

func TestDrainAndDeleteEndToEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 9, 1, 9))
		a := &agents{c: c, slow: 500 * time.Millisecond}
		stop := loops(t, a.run, c.reconciler(t, scaling.ReconcilerConfig{}, 1))
		defer stop()
		elapse(3 * time.Second)
		c.must(t, fsm.DrainNode{Node: "n1", Drain: true})
		for range 100 {
			elapse(100 * time.Millisecond)
			if _, active, healthy := tally(c.State(), "web"); active > 9 || healthy < 7 {
				t.Fatalf("while the node is emptied: %d active, %d healthy", active, healthy)
			}
		}
		for _, i := range c.State().InstancesOf("web") {
			if i.Node == "n1" && !i.State.Terminal() {
				t.Errorf("%s is still %s on n1", i.ID, i.State)
			}
		}
		c.must(t, fsm.DeleteGroup{Group: "web"})
		elapse(5 * time.Second)
		if n := c.State().Groups.Len() + c.State().Instances.Len(); n != 0 {
			t.Errorf("%d rows are left of the deleted group", n)
		}
	})
}

func TestMetricsAreAllThereAtZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	if _, err := scaling.NewMetrics(reg); err != nil {
		t.Fatal(err)
	}
	if _, err := scaling.NewMetrics(reg); err == nil {
		t.Error("registering twice is not refused")
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	series := map[string]int{}
	for _, f := range families {
		series[f.GetName()] = len(f.GetMetric())
	}
	want := map[string]int{
		"paceline_scaling_evaluations_total": 1, "paceline_scaling_decisions_total": 3, "paceline_scaling_proposals_total": 7,
		"paceline_scaling_late_collections_total": 1, "paceline_scaling_launches_total": 1, "paceline_scaling_replacements_total": 1,
		"paceline_scaling_drains_total": 1, "paceline_scaling_nodes_down_total": 1, "paceline_scaling_loop_failures_total": 3,
		"paceline_scaling_reconcile_seconds": 1, "paceline_scaling_backoff_groups": 1,
		"paceline_scaling_confirmations_total": 3, "paceline_scaling_doubted_instances": 1,
	}
	if !maps.Equal(series, want) {
		t.Errorf("got %v\nwant %v", series, want)
	}
}

// noMetrics is a fleet of which nothing is measured.
type noMetrics struct{}

func (noMetrics) Collect(context.Context, time.Duration) ([]scaling.MetricSample, error) {
	return nil, nil
}
