package scaling_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// TestDrainingInstancesKeepTheirResources: they run until they have ended.
func TestDrainingInstancesKeepTheirResources(t *testing.T) {
	c := newCluster()
	s := &scene{cluster: c, t: t, id: newIDs()}
	s.must(t, node("n1", "a", 1), template("app", 1), group("web", 1, 0, 3))
	s.step(0)
	s.settle()
	s.must(t, fsm.StopInstances{Instances: []string{s.in(fsm.Running)[0].ID}})
	if p := s.plan(0); p.Groups[0].Launches != 0 || p.Groups[0].Placement.Unplaced != 1 {
		t.Errorf("%d launches beside an instance that drains", p.Groups[0].Launches)
	}
	s.settle()
	s.want("launches when it has ended", s.plan(0).Groups[0].Launches, 1)
}

// TestTheGraceIsNoHealthyPeriod: an instance that never got healthy lives as
// long as its health check lets it, which proves nothing.
func TestTheGraceIsNoHealthyPeriod(t *testing.T) {
	s := newScene(t)
	slow := template("app", 0.1)
	slow.Template.HealthCheck = &fsm.HealthCheck{Type: fsm.CheckHTTP, Grace: fsm.Duration(10 * time.Minute)}
	s.must(t, slow, group("web", 1, 1, 3))
	for want := range 4 {
		st := s.State()
		at := st.Time().Add(5 * time.Minute)
		p := scaling.Planner{Term: 1, NewID: s.id}.Plan(st, at)
		s.want("failures", p.Groups[0].Backoff.Failures, want)
		s.at(at, p.Commands()...)
		i := s.in(fsm.Planned)[0]
		s.at(at.Add(10*time.Minute), fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{
			{ID: i.ID, State: fsm.Failed, Reason: "never healthy within 10m0s"},
		}})
	}
}

// TestBackoffBeginsAgainAfterAQuietTime, in which nothing had to be launched.
func TestBackoffBeginsAgainAfterAQuietTime(t *testing.T) {
	s := newScene(t, group("web", 1, 0, 3))
	fail := func() {
		i := s.in(fsm.Planned)[0]
		s.at(s.State().Time().Add(time.Second), fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: i.ID, State: fsm.Failed}}})
	}
	launch := func(after time.Duration) {
		st := s.State()
		at := st.Time().Add(after)
		s.at(at, scaling.Planner{Term: 1, NewID: s.id}.Plan(st, at).Commands()...)
	}
	launch(0)
	fail()
	launch(2 * time.Second)
	fail()
	s.want("failures in a row", s.plan(0).Groups[0].Backoff.Failures, 2)
	launch(10 * time.Minute)
	fail()
	s.want("failures after 10 quiet minutes", s.plan(0).Groups[0].Backoff.Failures, 1)
}

// TestAMovedInstanceIsNotUnblocked: only an unhealthy instance is given up to
// make room; one that serves stays until its replacement has a place.
func TestAMovedInstanceIsNotUnblocked(t *testing.T) {
	c := newCluster()
	s := &scene{cluster: c, t: t, id: newIDs()}
	s.must(t, node("n1", "a", 1), node("n2", "a", 0.5), template("app", 1), group("web", 1, 0, 3))
	s.step(0)
	s.settle()
	s.must(t, fsm.DrainNode{Node: "n1", Drain: true})
	s.want("commands", len(s.plan(0).Commands()), 0)
	// An unhealthy one whose own node would not take the replacement either is
	// not given up: nothing would be won.
	s.report("", fsm.Unhealthy, "", s.in(fsm.Running)...)
	s.want("commands for an unhealthy one", len(s.plan(0).Commands()), 0)
}

// TestOneUnhealthyInstanceIsGivenUpAtATime when there is no room beside it.
func TestOneUnhealthyInstanceIsGivenUpAtATime(t *testing.T) {
	c := newCluster()
	s := &scene{cluster: c, t: t, id: newIDs()}
	s.must(t, node("n1", "a", 3), template("app", 1), group("web", 3, 0, 9))
	s.step(0)
	s.settle()
	s.report("", fsm.Unhealthy, "", s.in(fsm.Running)...)
	for range 5 {
		s.step(0)
	}
	s.want("draining", len(s.in(fsm.Draining)), 1)
}

func TestEndedRowsCountForTheLaunchRate(t *testing.T) {
	s := newScene(t, group("web", 50, 0, 200))
	s.step(0)
	at := s.State().Time()
	var ids []string
	for _, i := range s.in(fsm.Planned) {
		ids = append(ids, i.ID)
	}
	s.at(at, fsm.StopInstances{Instances: ids})
	p := scaling.Planner{Term: 1, NewID: s.id}.Plan(s.State(), at)
	s.want("launches after 50 were launched and stopped within the second", p.Groups[0].Launches, 0)
	s.want("commands", len(p.Commands()), 0)
}

func TestCommandsAreFenced(t *testing.T) {
	s := newScene(t, group("web", 2, 1, 4))
	s.step(0)
	s.settle()
	s.must(t, fsm.SetDesired{Group: "web", To: 1})
	late := s.plan(0).Commands()
	s.SetTerm(2)
	for _, cmd := range late {
		if _, err := s.Propose(t.Context(), cmd); fsm.KindOf(err) != fsm.Conflict {
			t.Errorf("%s of an old term gives %v", cmd.Name(), err)
		}
	}
	s.want("draining", len(s.in(fsm.Draining)), 0)
}

// TestAClockThatIsBehind: the new leader's clock is a minute behind the log.
// The cooldown of 30 s must not last a minute and a half.
func TestAClockThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		p := up(1, 1)
		p.Cooldown = fsm.Duration(30 * time.Second)
		c.must(t, group("web", 2, 1, 12), fsm.PutPolicy{Policy: *p})
		s := &scene{cluster: c, t: t}
		s.at(time.Now().Add(time.Minute), fsm.SetDesired{Group: "web", To: 3})
		s.at(time.Now().Add(2*time.Minute), template("other", 0))
		push := fixed(func() ([]scaling.MetricSample, error) {
			return []scaling.MetricSample{{Group: "web", Metric: "cpu", Value: 90, At: time.Now()}}, nil
		})
		defer loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, push, 1))()
		elapse(time.Second)
		if g, _ := c.State().Groups.Get("web"); g.Desired != 4 {
			t.Errorf("desired is %d, want 4: by the log's time the cooldown is over", g.Desired)
		}
	})
}

// asked remembers how far back each collection looked.
type asked struct{ within []time.Duration }

func (a *asked) Collect(_ context.Context, within time.Duration) ([]scaling.MetricSample, error) {
	a.within = append(a.within, within)
	return nil, nil
}

// TestTheFirstCollectionLooksBackOneInterval: what is older was counted by the
// leader before. Later ones look back further; the cursor sorts out the rest.
func TestTheFirstCollectionLooksBackOneInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.must(t, group("web", 2, 1, 12), fsm.PutPolicy{Policy: *up(1, 1)})
		a := &asked{}
		stop := loops(t, c.autoscaler(t, scaling.AutoscalerConfig{}, a, 1))
		elapse(11 * time.Second)
		stop()
		if len(a.within) != 3 || a.within[0] != 5*time.Second || a.within[1] != 10*time.Second {
			t.Errorf("looked back %v, want 5s, 10s, 10s", a.within)
		}
	})
}

// TestAnUnknownNodeThatTurnsSilent: an hour of knowing nothing is not an hour
// of silence.
func TestAnUnknownNodeThatTurnsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.fleet(t)
		c.with(func() { c.unknown["n2"] = true })
		w := scaling.NewNodeWatcher(scaling.NodeWatcherConfig{ConfirmSlow: time.Hour}, c, c)
		defer loops(t, func(ctx context.Context) { _ = w.Run(ctx, 1) })()
		elapse(10 * time.Minute)
		c.with(func() { c.unknown["n2"], c.dead["n2"] = false, true })
		elapse(2 * time.Second)
		if n := c.proposed("NodeDown"); n != 0 {
			t.Error("declared down 2 s after the first hint")
		}
		elapse(2 * time.Second)
		if n := c.proposed("NodeDown"); n != 1 {
			t.Errorf("NodeDown proposed %d times, want 1", n)
		}
	})
}
