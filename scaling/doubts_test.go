package scaling_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
	"github.com/pacelinehq/paceline/scaling"
)

// witness answers questions as a test wants, and keeps the times of them.
type witness struct {
	mu     sync.Mutex
	by     string
	err    error
	mute   bool // questions get no answer in time
	asked  map[string][]time.Time
	given  int // questions that ended with their context
	checks []fsm.HealthCheck
}

func (w *witness) Ask(ctx context.Context, i *fsm.Instance, c fsm.HealthCheck) (string, error) {
	w.mu.Lock()
	w.asked[i.ID] = append(w.asked[i.ID], time.Now())
	w.checks = append(w.checks, c)
	mute := w.mute
	w.mu.Unlock()
	if mute {
		<-ctx.Done()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if ctx.Err() != nil {
		w.given++
	}
	return w.by, w.err
}

func (w *witness) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

func (w *witness) questions(id string) []time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]time.Time(nil), w.asked[id]...)
}

// court is a group of three healthy instances, its agents, and a reconciler
// that has a witness.
type court struct {
	*cluster
	t       *testing.T
	agents  *agents
	witness *witness
	r       *scaling.Reconciler
	reg     *prometheus.Registry
	stop    func()
}

const (
	askEvery = 30 * time.Second
	doubtFor = 10 * time.Minute
)

func inCourt(t *testing.T, check fsm.HealthCheck, w *witness, test func(*court)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w.asked = map[string][]time.Time{}
		c := &court{cluster: newCluster(), t: t, witness: w, reg: prometheus.NewRegistry()}
		c.agents = &agents{c: c.cluster, sick: map[string]bool{}}
		c.fleet(t)
		app := template("app", 0.1)
		app.Template.HealthCheck = &check
		c.must(t, app, group("web", 3, 1, 6))
		m, err := scaling.NewMetrics(c.reg)
		if err != nil {
			t.Fatal(err)
		}
		c.r = scaling.NewReconciler(scaling.ReconcilerConfig{
			NewID: newIDs(), Witness: w, AskEvery: askEvery, DoubtFor: doubtFor, Metrics: m,
		}, c, c)
		c.begin()
		defer func() { c.stop() }()
		elapse(2 * time.Second)
		if _, _, healthy := tally(c.State(), "web"); healthy != 3 {
			t.Fatalf("%d healthy, want 3", healthy)
		}
		test(c)
	})
}

// begin runs the agents and the reconciler.
func (c *court) begin() {
	c.stop = loops(c.t, c.agents.run, func(ctx context.Context) {
		if err := c.r.Run(ctx, fsmtest.Term); err != nil {
			c.t.Errorf("reconciler: %v", err)
		}
	})
}

// first is the oldest instance of the group.
func (c *court) first() *fsm.Instance {
	for _, i := range c.State().InstancesOf("web") {
		return i
	}
	c.t.Fatal("the group is empty")
	return nil
}

func (c *court) setSick(id string, sick bool) { c.with(func() { c.agents.sick[id] = sick }) }

func (c *court) count(name, label string) float64 {
	c.t.Helper()
	families, err := c.reg.Gather()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	c.t.Fatalf("there is no %s %s", name, label)
	return 0
}

var (
	httpCheck = fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/healthz"}
	errDead   = errors.New("connection refused")
)

// TestAnInstanceThatAnswersIsNotReplaced: its node is wrong. It is asked again,
// not too often, and the doubt does not last for ever.
func TestAnInstanceThatAnswersIsNotReplaced(t *testing.T) {
	w := &witness{by: "n3"}
	inCourt(t, httpCheck, w, func(c *court) {
		id := c.first().ID
		launched := c.proposed("LaunchInstances")
		c.setSick(id, true)
		elapse(9 * time.Minute)
		if n := c.proposed("LaunchInstances") - launched; n != 0 {
			t.Errorf("%d launches for an instance that answers", n)
		}
		spared := c.r.Doubted()
		if len(spared) != 1 || spared[id] != "n3" || c.count("paceline_scaling_doubted_instances", "") != 1 {
			t.Errorf("doubted: %v", spared)
		}
		e, err := scaling.Explain(c.State(), "web", time.Now(), scaling.Limits{}, spared)
		if err != nil || e.Doubted != 1 || !strings.HasSuffix(e.Sentence, "1 unhealthy; 1 of them not replaced, because another node gets good answers") {
			t.Errorf("got %+v, %v", e, err)
		}
		asked := w.questions(id)
		if n := len(asked); n < 16 || n > 19 {
			t.Errorf("asked %d times in 9 minutes, want one in 30 s", n)
		}
		for k := 1; k < len(asked); k++ {
			if gap := asked[k].Sub(asked[k-1]); gap < askEvery {
				t.Errorf("asked again after %s", gap)
			}
		}
		if c.count("paceline_scaling_confirmations_total", "good") != float64(len(asked)) {
			t.Error("the metric does not count the answers")
		}
		elapse(2 * time.Minute) // the patience is over
		if n := c.proposed("LaunchInstances") - launched; n != 1 {
			t.Errorf("%d launches after the patience, want 1", n)
		}
	})
}

func TestAnInstanceThatFailsForOthersTooIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		witness *witness
		answer  string
	}{
		"a bad answer":       {&witness{by: "n3", err: errDead}, "bad"},
		"nobody could ask":   {&witness{}, "nobody_asked"},
		"nobody, for reason": {&witness{err: errDead}, "nobody_asked"},
	} {
		t.Run(name, func(t *testing.T) {
			inCourt(t, httpCheck, c.witness, func(k *court) {
				id := k.first().ID
				k.setSick(id, true)
				elapse(2 * time.Second)
				if _, active, healthy := tally(k.State(), "web"); active != 3 || healthy != 3 {
					t.Errorf("%d active, %d healthy; want it replaced", active, healthy)
				}
				elapse(5 * time.Minute)
				if n := len(c.witness.questions(id)); n != 1 || k.count("paceline_scaling_confirmations_total", c.answer) != 1 {
					t.Errorf("asked %d times", n)
				}
				if got := c.witness.checks[0]; got.Path != "/healthz" || got.Timeout.Std() != time.Second {
					t.Errorf("asked by %+v", got)
				}
			})
		})
	}
}

// TestAnInstanceThatDiesAfterADoubtIsReplaced at the next question.
func TestAnInstanceThatDiesAfterADoubtIsReplaced(t *testing.T) {
	w := &witness{by: "n3"}
	inCourt(t, httpCheck, w, func(c *court) {
		c.setSick(c.first().ID, true)
		elapse(time.Minute)
		launched := c.proposed("LaunchInstances")
		w.set(func() { w.err = errDead })
		elapse(askEvery + 10*time.Second)
		if n := c.proposed("LaunchInstances") - launched; n != 1 {
			t.Errorf("%d launches, want 1", n)
		}
		if len(c.r.Doubted()) != 0 {
			t.Errorf("still doubted: %v", c.r.Doubted())
		}
	})
}

// TestChecksFromWithinAreBelieved: nobody else can make them.
func TestChecksFromWithinAreBelieved(t *testing.T) {
	for _, check := range []fsm.HealthCheck{
		{Type: fsm.CheckExec, Command: []string{"/check"}}, {Type: fsm.CheckTTL},
	} {
		w := &witness{by: "n3"}
		inCourt(t, check, w, func(c *court) {
			id := c.first().ID
			c.setSick(id, true)
			elapse(2 * time.Second)
			if n := len(w.questions(id)); n != 0 {
				t.Errorf("%s: asked %d times", check.Type, n)
			}
			if _, _, healthy := tally(c.State(), "web"); healthy != 3 {
				t.Errorf("%s: %d healthy, want it replaced", check.Type, healthy)
			}
		})
	}
}

// TestAFlappingInstanceIsReplaced: that it answers at times is known.
func TestAFlappingInstanceIsReplaced(t *testing.T) {
	w := &witness{by: "n3"}
	inCourt(t, httpCheck, w, func(c *court) {
		i := c.first()
		c.setSick(i.ID, true)
		c.must(t, fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{{
			ID: i.ID, State: fsm.Running, Health: fsm.Unhealthy, HealthReason: fsm.HealthFlapping,
		}}})
		elapse(2 * time.Second)
		if _, _, healthy := tally(c.State(), "web"); healthy != 3 || len(w.questions(i.ID)) != 0 {
			t.Errorf("%d healthy, asked %d times", healthy, len(w.questions(i.ID)))
		}
	})
}

// TestAQuestionHoldsNothingUp but the instance that it is about, and is
// forgotten with the leadership.
func TestAQuestionHoldsNothingUp(t *testing.T) {
	w := &witness{by: "n3", mute: true}
	inCourt(t, httpCheck, w, func(c *court) {
		id := c.first().ID
		c.setSick(id, true)
		elapse(time.Second)
		if by, yes := c.r.Doubted()[id]; !yes || by != "" {
			t.Errorf("doubted while it is asked: %v", c.r.Doubted())
		}
		c.must(t, fsm.SetDesired{Group: "web", To: 5})
		elapse(time.Second)
		if _, active, healthy := tally(c.State(), "web"); active != 5 || healthy != 4 {
			t.Errorf("%d active, %d healthy while a question is open; want 5 and 4", active, healthy)
		}
		c.stop() // leadership is lost
		if w.given != 1 || c.r.Doubted() != nil {
			t.Errorf("%d questions were given up, doubted: %v", w.given, c.r.Doubted())
		}
		w.set(func() { w.mute, w.err = false, errDead })
		c.begin()
		elapse(2 * time.Second)
		if n := len(w.questions(id)); n != 2 {
			t.Errorf("asked %d times; the new term must ask by itself", n)
		}
		if _, active, healthy := tally(c.State(), "web"); active != 5 || healthy != 5 {
			t.Errorf("%d active, %d healthy; want it replaced", active, healthy)
		}
	})
}

// TestAQuestionEnds: a witness that never answers does not keep an instance.
func TestAQuestionEnds(t *testing.T) {
	w := &witness{mute: true}
	inCourt(t, httpCheck, w, func(c *court) {
		c.setSick(c.first().ID, true)
		elapse(2900 * time.Millisecond)
		if _, _, healthy := tally(c.State(), "web"); healthy != 2 {
			t.Errorf("%d healthy before the question ended, want 2", healthy)
		}
		elapse(2 * time.Second)
		if _, _, healthy := tally(c.State(), "web"); healthy != 3 {
			t.Errorf("%d healthy, want it replaced", healthy)
		}
	})
}

// TestEdgesDoNotMakeQuestions: however often its health changes, an instance is
// asked no more than once in an interval.
func TestEdgesDoNotMakeQuestions(t *testing.T) {
	w := &witness{by: "n3"}
	inCourt(t, httpCheck, w, func(c *court) {
		id, launched := c.first().ID, c.proposed("LaunchInstances")
		for range 400 { // longer than a doubt may last, but each time it is another one
			c.setSick(id, true)
			elapse(time.Second)
			c.setSick(id, false)
			elapse(time.Second)
		}
		asked := w.questions(id)
		if len(asked) < 20 || len(asked) > 27 {
			t.Errorf("asked %d times in 800 s, want one in 30 s", len(asked))
		}
		if n := c.proposed("LaunchInstances") - launched; n != 0 {
			t.Errorf("%d launches for an instance that answers", n)
		}
		for k := 1; k < len(asked); k++ {
			if gap := asked[k].Sub(asked[k-1]); gap < askEvery {
				t.Errorf("asked again after %s", gap)
			}
		}
	})
}

// TestManyDoubtsAreAskedInTurn: a node that calls all its instances unhealthy
// does not make a flood of questions, and all are asked in the end.
func TestManyDoubtsAreAskedInTurn(t *testing.T) {
	const many, atOnce = 150, 64
	w := &witness{by: "n3", mute: true}
	inCourt(t, httpCheck, w, func(c *court) {
		c.must(t, group("web", many, 1, 2*many), fsm.SetDesired{Group: "web", To: many})
		elapse(30 * time.Second)
		if _, _, healthy := tally(c.State(), "web"); healthy != many {
			t.Fatalf("%d healthy, want %d", healthy, many)
		}
		for id := range c.State().InstancesOf("web") {
			c.setSick(id, true)
		}
		elapse(time.Second)
		open := 0
		w.set(func() { open = len(w.asked) })
		if open != atOnce {
			t.Errorf("%d questions at once, want %d", open, atOnce)
		}
		w.set(func() { w.mute = false })
		elapse(20 * time.Second)
		if n := len(c.r.Doubted()); n != many || c.r.Remembered() != many {
			t.Errorf("%d doubted, %d remembered", n, c.r.Remembered())
		}
		for id, by := range c.r.Doubted() {
			if by != "n3" {
				t.Errorf("%s was not asked", id)
			}
			c.setSick(id, false)
		}
		elapse(askEvery + 20*time.Second)
		if n := c.r.Remembered(); n != 0 {
			t.Errorf("%d healthy instances are remembered", n)
		}
	})
}

// TestALongQuestionIsTheOnlyOne about its instance, whose health may change
// meanwhile; its answer is about the row that was asked about.
func TestALongQuestionIsTheOnlyOne(t *testing.T) {
	w := &witness{by: "n3", err: errDead, mute: true}
	check := httpCheck
	check.Timeout = fsm.Duration(time.Minute)
	inCourt(t, check, w, func(c *court) {
		id := c.first().ID
		c.setSick(id, true)
		elapse(5 * time.Second)
		c.setSick(id, false)
		elapse(askEvery)
		c.setSick(id, true)
		elapse(20 * time.Second)
		if n := len(w.questions(id)); n != 1 {
			t.Errorf("%d questions at once", n)
		}
		elapse(10 * time.Second)
		if n := len(w.questions(id)); n != 2 {
			t.Errorf("asked %d times after the first question has ended, want 2", n)
		}
	})
}
