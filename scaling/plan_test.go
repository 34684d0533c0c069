package scaling_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
	"github.com/pacelinehq/paceline/scaling"
)

// scene is a cluster under a planner, without loops and without agents.
type scene struct {
	*cluster
	t  *testing.T
	id func() string
}

func newScene(t *testing.T, setup ...fsm.Command) *scene {
	s := &scene{cluster: newCluster(), t: t, id: newIDs()}
	s.fleet(t)
	s.must(t, setup...)
	return s
}

// plan makes a plan some time after the last change.
func (s *scene) plan(after time.Duration) scaling.Plan {
	st := s.State()
	return scaling.Planner{Term: fsmtest.Term, NewID: s.id}.Plan(st, st.Time().Add(after))
}

// step makes a plan and carries it out.
func (s *scene) step(after time.Duration) scaling.Plan {
	s.t.Helper()
	p := s.plan(after)
	s.must(s.t, p.Commands()...)
	return p
}

// report says something of instances, through their nodes.
func (s *scene) report(state fsm.InstanceState, health fsm.Health, reason string, list ...*fsm.Instance) {
	s.t.Helper()
	for _, i := range list {
		s.must(s.t, fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{
			{ID: i.ID, State: state, Health: health, Reason: reason},
		}})
	}
}

func (s *scene) in(states ...fsm.InstanceState) []*fsm.Instance {
	var list []*fsm.Instance
	for _, i := range s.State().InstancesOf("web") {
		if slices.Contains(states, i.State) {
			list = append(list, i)
		}
	}
	return list
}

// settle makes everything that is planned run and be healthy, and everything
// that drains end.
func (s *scene) settle() {
	s.t.Helper()
	s.report(fsm.Starting, "", "", s.in(fsm.Planned)...)
	s.report(fsm.Running, fsm.Healthy, "", s.in(fsm.Starting)...)
	s.report(fsm.Stopping, "", "", s.in(fsm.Draining)...)
	s.report(fsm.Stopped, "", "", s.in(fsm.Stopping)...)
}

func (s *scene) want(what string, got, want int) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s: %d, want %d", what, got, want)
	}
}

func TestPlanLaunchesWhatIsMissingAndThenNothing(t *testing.T) {
	s := newScene(t, group("web", 3, 1, 5))
	p := s.step(0)
	s.want("launches", p.Groups[0].Launches, 3)
	s.want("replacements", p.Groups[0].Replacements, 0)
	if got := perNode([]string{s.in(fsm.Planned)[0].Node, s.in(fsm.Planned)[1].Node, s.in(fsm.Planned)[2].Node}); len(got) != 3 {
		t.Errorf("not spread: %v", got)
	}
	if p := s.plan(0); len(p.Commands()) != 0 {
		t.Errorf("a second pass wants %v", p.Commands())
	}
	s.settle()
	if p := s.plan(0); len(p.Commands()) != 0 {
		t.Errorf("a settled group wants %v", p.Commands())
	}
}

func TestPlanScaleInTakesTheUselessAndThenTheNewest(t *testing.T) {
	s := newScene(t, group("web", 4, 1, 8))
	s.step(0)
	s.settle()
	old := s.in(fsm.Running)
	s.must(t, fsm.SetDesired{Group: "web", To: 6})
	s.step(0)
	fresh := s.in(fsm.Planned)
	s.report(fsm.Starting, "", "", fresh[1])
	s.must(t, fsm.SetDesired{Group: "web", To: 3})
	s.step(0)
	if fresh := s.in(fsm.Planned, fsm.Starting); len(fresh) != 0 {
		t.Errorf("%d instances which do not run yet are kept", len(fresh))
	}
	left := s.in(fsm.Running)
	if len(left) != 3 || slices.ContainsFunc(left, func(i *fsm.Instance) bool { return i.ID == old[3].ID }) {
		t.Errorf("the newest of the old ones, %s, should go; left: %d", old[3].ID, len(left))
	}
}

func TestPlanScaleInPrefersTheUnhealthy(t *testing.T) {
	s := newScene(t, group("web", 3, 1, 8))
	s.step(0)
	s.settle()
	first := s.in(fsm.Running)[0]
	s.report("", fsm.Unhealthy, "", first)
	s.must(t, fsm.SetDesired{Group: "web", To: 2})
	p := s.step(0)
	s.want("drains", p.Groups[0].Drains, 1)
	s.want("launches", p.Groups[0].Launches, 0)
	if got := s.in(fsm.Draining); len(got) != 1 || got[0].ID != first.ID {
		t.Errorf("the unhealthy instance %s should drain", first.ID)
	}
}

func TestPlanScaleInTakesTheOldOneThatDoesNotRunYet(t *testing.T) {
	s := newScene(t, group("web", 2, 1, 8))
	s.step(0)
	old, young := s.in(fsm.Planned)[0], s.in(fsm.Planned)[1]
	s.report(fsm.Starting, "", "", young)
	s.report(fsm.Running, fsm.Healthy, "", young)
	s.must(t, fsm.SetDesired{Group: "web", To: 1})
	s.step(0)
	if got := s.in(fsm.Stopped); len(got) != 1 || got[0].ID != old.ID {
		t.Errorf("%s, which does not run yet, should go", old.ID)
	}
}

func TestPlanReplacesTheUnhealthyBeforeItDrains(t *testing.T) {
	s := newScene(t, group("web", 3, 1, 4))
	s.step(0)
	s.settle()
	sick := s.in(fsm.Running)[0]
	s.report("", fsm.Unhealthy, "", sick)
	p := s.step(0)
	s.want("launches", p.Groups[0].Launches, 1)
	s.want("replacements", p.Groups[0].Replacements, 1)
	s.want("drains before the replacement is healthy", p.Groups[0].Drains, 0)
	s.want("commands while it starts", len(s.plan(0).Commands()), 0)
	s.settle()
	s.step(0)
	if got := s.in(fsm.Draining); len(got) != 1 || got[0].ID != sick.ID {
		t.Errorf("the unhealthy instance should drain now")
	}
}

// TestPlanSparesTheDoubted: an instance that another node has found good, or is
// asking still, keeps its place, but not on a node that is emptied, and not
// when somebody has to go anyhow.
func TestPlanSparesTheDoubted(t *testing.T) {
	for _, by := range []string{"n3", ""} {
		s := newScene(t, group("web", 3, 1, 4))
		s.step(0)
		s.settle()
		sick := s.in(fsm.Running)[0]
		s.report("", fsm.Unhealthy, "", sick)
		plan := func() scaling.Plan {
			st := s.State()
			return scaling.Planner{Term: 1, NewID: s.id, Spared: map[string]string{sick.ID: by}}.Plan(st, st.Time())
		}
		s.want("commands", len(plan().Commands()), 0)
		s.must(t, fsm.SetDesired{Group: "web", To: 2})
		stop, ok := plan().Commands()[0].(fsm.StopInstances)
		if !ok || !slices.Equal(stop.Instances, []string{sick.ID}) {
			t.Errorf("the scale-in gave %+v", stop)
		}
		s.must(t, fsm.SetDesired{Group: "web", To: 3}, fsm.DrainNode{Node: sick.Node, Drain: true})
		s.want("launches when its node is drained", plan().Groups[0].Launches, 1)
	}
}

func TestPlanDrainsFirstAtTheMaximum(t *testing.T) {
	s := newScene(t, group("web", 8, 1, 8))
	s.step(0)
	s.settle()
	s.report("", fsm.Unhealthy, "", s.in(fsm.Running)[:6]...)
	p := s.step(0)
	s.want("drains", p.Groups[0].Drains, 2) // a quarter of 8
	s.want("launches", p.Groups[0].Launches, 2)
	_, active, _ := tally(s.State(), "web")
	s.want("active", active, 8)
	s.want("commands while those are in flux", len(s.plan(0).Commands()), 0)
	s.settle()
	p = s.step(0)
	s.want("drains in the next round", p.Groups[0].Drains, 2)
}

func TestPlanGivesUpAnUnhealthyInstanceWhosePlaceIsNeeded(t *testing.T) {
	c := newCluster()
	s := &scene{cluster: c, t: t, id: newIDs()}
	s.must(t, node("n1", "a", 1), template("app", 1), group("web", 1, 0, 3))
	s.step(0)
	s.settle()
	s.report("", fsm.Unhealthy, "", s.in(fsm.Running)...)
	p := s.step(0)
	s.want("drains", p.Groups[0].Drains, 1)
	s.want("launches", p.Groups[0].Launches, 0)
	s.settle()
	p = s.step(0)
	s.want("launches when there is room", p.Groups[0].Launches, 1)
}

func TestPlanMovesInstancesOffADrainingNode(t *testing.T) {
	for _, k := range []struct{ max, early int }{{max: 8, early: 0}, {max: 6, early: 1}} {
		t.Run(fmt.Sprintf("max %d", k.max), func(t *testing.T) {
			s := newScene(t, group("web", 6, 1, k.max))
			s.step(0)
			s.settle()
			s.must(t, fsm.DrainNode{Node: "n1", Drain: true})
			p := s.step(0)
			s.want("drains at once", p.Groups[0].Drains, k.early)
			for round := 0; ; round++ {
				if round == 10 {
					t.Fatal("the node is not empty after 10 rounds")
				}
				_, active, healthy := tally(s.State(), "web")
				if active > k.max || healthy < 5 {
					t.Fatalf("%d active, %d healthy", active, healthy)
				}
				s.settle()
				if len(s.step(0).Commands()) == 0 {
					break
				}
			}
			for _, i := range s.in(fsm.Running) {
				if i.Node == "n1" {
					t.Errorf("%s still runs on the draining node", i.ID)
				}
			}
			s.want("running", len(s.in(fsm.Running)), 6)
		})
	}
}

func TestPlanKeepsWhatADrainingNodeRunsUntilThereIsRoom(t *testing.T) {
	c := newCluster()
	s := &scene{cluster: c, t: t, id: newIDs()}
	s.must(t, node("n1", "a", 2), template("app", 1), group("web", 2, 0, 2))
	s.step(0)
	s.settle()
	s.must(t, fsm.DrainNode{Node: "n1", Drain: true})
	p := s.step(0)
	s.want("commands", len(p.Commands()), 0)
	if want := "no node can take it: n1 is draining"; p.Groups[0].Placement.Reason != want {
		t.Errorf("reason %q, want %q", p.Groups[0].Placement.Reason, want)
	}
}

func TestPlanReplacesWhatALostNodeRanAtOnce(t *testing.T) {
	s := newScene(t, group("web", 6, 1, 8))
	s.step(0)
	s.settle()
	s.must(t, fsm.NodeDown{Node: "n1", Incarnation: 1, Term: 1})
	p := s.step(0)
	s.want("replacements", p.Groups[0].Replacements, 2)
	for _, i := range s.in(fsm.Planned) {
		if i.Node == "n1" {
			t.Errorf("%s is placed on the node that is down", i.ID)
		}
	}
}

func TestPlanBacksOff(t *testing.T) {
	s := newScene(t, group("web", 2, 1, 8))
	s.step(0)
	for n, want := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300} {
		want *= time.Second
		// Both crash side by side: that is one failure more, not two.
		failed := s.State().Time().Add(time.Second)
		for _, i := range s.in(fsm.Planned) {
			s.at(failed, fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: i.ID, State: fsm.Failed}}})
		}
		p := s.plan(want - time.Millisecond)
		for _, cmd := range p.Commands() {
			if cmd.Name() == "LaunchInstances" {
				t.Fatalf("failure %d: launched before %s were over", n+1, want)
			}
		}
		if wake := p.Wake.Sub(s.State().Time()); wake != want {
			t.Fatalf("failure %d: wakes after %s, want %s", n+1, wake, want)
		}
		// Plan later than that, as of a log time that has moved on.
		st := s.State()
		at := st.Time().Add(want)
		later := scaling.Planner{Term: 1, NewID: s.id}.Plan(st, at)
		if later.Groups[0].Launches != 2 {
			t.Fatalf("failure %d: %d launches after %s, want 2", n+1, later.Groups[0].Launches, want)
		}
		s.at(at, later.Commands()...)
	}
	// The newest 10 rows are of 5 generations; one row each of 5 older ones
	// stays, so that the count is not forgotten with them.
	s.want("rows", len(s.in(fsm.Failed)), 15)
}

// at applies commands at a log time.
func (s *scene) at(now time.Time, list ...fsm.Command) {
	s.t.Helper()
	s.Clock = func() time.Time { return now }
	s.must(s.t, list...)
	s.Clock = nil
}

func TestBackoffBeginsAgain(t *testing.T) {
	crash := func(s *scene, live time.Duration) {
		i := s.in(fsm.Planned)[0]
		s.at(s.State().Time().Add(live), fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: i.ID, State: fsm.Failed, Reason: "exit status 1"}}})
	}
	relaunch := func(s *scene) {
		st := s.State()
		at := st.Time().Add(6 * time.Minute)
		s.at(at, scaling.Planner{Term: 1, NewID: s.id}.Plan(st, at).Commands()...)
	}
	loop := func(s *scene, times int) {
		s.step(0)
		for range times {
			crash(s, 0)
			relaunch(s)
		}
	}
	for _, k := range []struct {
		name string
		then func(s *scene)
		want int
	}{
		{"it goes on for a crash at start", func(s *scene) { crash(s, time.Second) }, 5},
		{"it begins again after a healthy period", func(s *scene) { crash(s, 61*time.Second) }, 1},
		{"it begins again with another version", func(s *scene) {
			tmpl := template("app", 0.2)
			s.must(t, tmpl, group("web", 1, 1, 8))
		}, 0},
	} {
		t.Run(k.name, func(t *testing.T) {
			s := newScene(t, group("web", 1, 1, 8))
			loop(s, 4)
			k.then(s)
			s.want("failures", s.plan(0).Groups[0].Backoff.Failures, k.want)
		})
	}
}

// TestBackoffHoldsOnlyTheFailedOnes: one instance that crashes again and again
// must not keep its group from growing.
func TestBackoffHoldsOnlyTheFailedOnes(t *testing.T) {
	s := newScene(t, group("web", 3, 1, 8))
	s.step(0)
	s.report(fsm.Failed, "", "exit status 1", s.in(fsm.Planned)[0])
	s.settle()
	s.want("launches for the failed one", s.plan(0).Groups[0].Launches, 0)
	s.must(t, fsm.SetDesired{Group: "web", To: 5})
	s.want("launches for the new ones", s.plan(0).Groups[0].Launches, 2)
}

func TestPlanLimitsTheLaunchRate(t *testing.T) {
	s := newScene(t, group("web", 120, 1, 200))
	p := s.step(0)
	s.want("first burst", p.Groups[0].Launches, 50)
	if p.Wake.IsZero() {
		t.Error("the pass does not say when to go on")
	}
	// The burst is counted in the state: another planner does not begin anew.
	s.want("in the same second", s.plan(999 * time.Millisecond).Groups[0].Launches, 0)
	s.want("in the next second", s.plan(time.Second).Groups[0].Launches, 50)
}

func TestPlanForgetsOldRows(t *testing.T) {
	s := newScene(t, group("web", 30, 0, 50))
	s.step(0)
	s.settle()
	s.must(t, fsm.SetDesired{Group: "web", To: 0})
	s.step(0)
	s.settle()
	s.step(2 * time.Second)
	s.want("rows kept", len(s.in(fsm.Stopped)), 10)
	s.want("commands when nothing is new", len(s.plan(2*time.Second).Commands()), 0)
	s.step(time.Hour + time.Second)
	s.want("rows after an hour", len(s.in(fsm.Stopped)), 0)
}

func TestPlanEmptiesAndRemovesADeletedGroup(t *testing.T) {
	s := newScene(t, group("web", 3, 1, 5))
	s.step(0)
	s.settle()
	s.must(t, fsm.DeleteGroup{Group: "web"})
	p := s.step(0)
	s.want("drains", p.Groups[0].Drains, 3)
	s.want("commands while they drain", len(s.plan(0).Commands()), 0)
	s.settle()
	s.step(0)
	if _, ok := s.State().Groups.Get("web"); ok {
		t.Error("the group is still there")
	}
}

func TestPlanNeverExceedsTheMaximum(t *testing.T) {
	s := newScene(t, group("web", 4, 4, 4))
	s.step(0)
	s.settle()
	s.report("", fsm.Unhealthy, "", s.in(fsm.Running)...)
	for range 12 {
		s.step(0)
		if _, active, _ := tally(s.State(), "web"); active > 4 {
			t.Fatalf("%d active", active)
		}
		s.settle()
	}
	_, _, healthy := tally(s.State(), "web")
	s.want("healthy in the end", healthy, 4)
}

func TestPlanIsCutAtItsLimit(t *testing.T) {
	s := newScene(t)
	for k := range 5 {
		s.must(t, group(fmt.Sprintf("g%d", k), 1, 0, 2))
	}
	pl := scaling.Planner{Term: 1, NewID: s.id, Limits: scaling.Limits{MaxCommands: 2}}
	p := pl.Plan(s.State(), s.State().Time())
	if len(p.Commands()) != 2 || !p.More {
		t.Errorf("%d commands, more=%v; want 2 and more", len(p.Commands()), p.More)
	}
}

func TestExplain(t *testing.T) {
	s := newScene(t, group("web", 3, 1, 4))
	explain := func(after time.Duration) scaling.GroupExplanation {
		t.Helper()
		st := s.State()
		e, err := scaling.Explain(st, "web", st.Time().Add(after), scaling.Limits{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	says := func(want string) {
		t.Helper()
		if got := explain(0).Sentence; got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
	says("0 of 3 running")
	s.step(0)
	says("0 of 3 running; 3 starting")
	s.settle()
	says("3 of 3 running")
	s.report("", fsm.Unhealthy, "", s.in(fsm.Running)[0])
	says("3 of 3 running; 1 unhealthy")
	spared := map[string]string{s.in(fsm.Running)[0].ID: "n3"}
	e, err := scaling.Explain(s.State(), "web", s.State().Time(), scaling.Limits{}, spared)
	if want := "3 of 3 running; 1 unhealthy; 1 of them not replaced, because another node gets good answers"; err != nil || e.Sentence != want {
		t.Errorf("got  %q, %v\nwant %q", e.Sentence, err, want)
	}
	s.report("", fsm.Healthy, "", s.in(fsm.Running)[0])
	s.report(fsm.Failed, "", "exit status 1", s.in(fsm.Running)[0])
	says("2 of 3 running; next launch in 1s after 1 failure: exit status 1")
	for _, n := range []string{"n1", "n2", "n3"} {
		s.must(t, fsm.DrainNode{Node: n, Drain: true})
	}
	if got := explain(time.Minute).Sentence; !strings.Contains(got, "2 to be moved off their node; 3 can not be placed: no node can take it: n1, n2, n3 are draining") {
		t.Errorf("got %q", got)
	}
	s.must(t, fsm.DeleteGroup{Group: "web"})
	says("being deleted; 2 instances left")
	if _, err := scaling.Explain(s.State(), "nope", noon, scaling.Limits{}, nil); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("an unknown group gives %v", err)
	}
}
