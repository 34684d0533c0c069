package scaling_test

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
	"github.com/pacelinehq/paceline/scaling"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cluster is a cluster of one that may refuse, lag, and tell of dead nodes.
type cluster struct {
	*fsmtest.Cluster

	mu      sync.Mutex
	dead    map[string]bool
	unknown map[string]bool
	count   map[string]int

	// refuse, when set, may fail a proposal before it is applied.
	refuse func(fsm.Command) error
	// frozen, when set, is what State gives: a node whose state lags.
	frozen *fsm.State
	// lag, when true, makes every Watch end with an error.
	lag bool
}

func newCluster() *cluster {
	return &cluster{
		Cluster: fsmtest.New(),
		dead:    map[string]bool{}, unknown: map[string]bool{}, count: map[string]int{},
	}
}

func (c *cluster) State() *fsm.State {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frozen != nil {
		return c.frozen
	}
	return c.Cluster.State()
}

func (c *cluster) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		if err := c.refuse(cmd); err != nil {
			return fsm.Result{}, err
		}
	}
	c.count[cmd.Name()]++
	return c.Cluster.Propose(ctx, cmd)
}

func (c *cluster) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		for set, err := range c.Cluster.Watch(ctx, from) {
			c.mu.Lock()
			lag := c.lag
			c.mu.Unlock()
			if lag && err == nil {
				yield(fsm.ChangeSet{}, fsm.Errorf(fsm.Unavailable, "watch", "", "lagged"))
				return
			}
			if !yield(set, err) {
				return
			}
		}
	}
}

func (c *cluster) Alive(node string) (alive, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.dead[node], !c.unknown[node]
}

// with runs f while nothing else uses the cluster.
func (c *cluster) with(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func (c *cluster) proposed(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count[name]
}

// must applies commands that the test relies on.
func (c *cluster) must(t testing.TB, list ...fsm.Command) {
	t.Helper()
	for _, cmd := range list {
		if _, err := c.Propose(t.Context(), cmd); err != nil {
			t.Fatalf("%s: %v", cmd.Name(), err)
		}
	}
}

// ids makes a source of ids which sort by age, as ULIDs do.
func newIDs() func() string {
	var mu sync.Mutex
	n := 0
	return func() string {
		mu.Lock()
		defer mu.Unlock()
		n++
		return fmt.Sprintf("i%06d", n)
	}
}

func node(name, zone string, cpu float64) fsm.RegisterNode {
	return fsm.RegisterNode{Node: fsm.Node{
		Name: name, Zone: zone, Incarnation: 1, Drivers: []string{"process"},
		Resources: fsm.Resources{CPU: cpu, MemoryMiB: 64 << 10},
	}}
}

func template(name string, cpu float64) fsm.PutTemplate {
	return fsm.PutTemplate{Template: fsm.Template{
		Name: name, Driver: "process", Command: fsm.SampleCommand, Resources: fsm.Resources{CPU: cpu},
	}}
}

func group(name string, size, lowest, highest int) fsm.PutGroup {
	return fsm.PutGroup{Group: fsm.Group{Name: name, Template: "app", MinSize: lowest, MaxSize: highest, Desired: size}}
}

// fleet sets up three nodes in three zones, and the template app.
func (c *cluster) fleet(t testing.TB) {
	t.Helper()
	c.must(t, node("n1", "a", 16), node("n2", "b", 16), node("n3", "c", 16), template("app", 0.1))
}

// agents play the agents of all nodes: instances start, run, and end.
type agents struct {
	c *cluster
	// crash says whether, how soon after its start, and why an instance fails.
	crash func(i *fsm.Instance) (after time.Duration, reason string, crashes bool)
	// sick instances are reported unhealthy.
	sick map[string]bool
	// slow is how long a start takes.
	slow time.Duration
}

const agentTick = 100 * time.Millisecond

func (a *agents) run(ctx context.Context) {
	tick := time.NewTicker(agentTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		reports := map[string][]fsm.InstanceReport{}
		s := a.c.State()
		for _, i := range s.Instances.All() {
			if alive, _ := a.c.Alive(i.Node); alive {
				if r, ok := a.report(i); ok {
					reports[i.Node] = append(reports[i.Node], r)
				}
			}
		}
		for name, n := range s.Nodes.All() {
			if len(reports[name]) > 0 {
				_, _ = a.c.Propose(ctx, fsm.ReportInstances{Node: name, NodeIncarnation: n.Incarnation, Reports: reports[name]})
			}
		}
	}
}

func (a *agents) report(i *fsm.Instance) (fsm.InstanceReport, bool) {
	r := fsm.InstanceReport{ID: i.ID}
	switch i.State {
	case fsm.Planned:
		r.State = fsm.Starting
	case fsm.Starting:
		if time.Since(i.Since) < a.slow {
			return r, false
		}
		r.State, r.Health = fsm.Running, fsm.Healthy
	case fsm.Running:
		if a.crash != nil {
			if after, reason, is := a.crash(i); is && time.Since(i.Since) >= after {
				r.State, r.Reason = fsm.Failed, reason
				return r, true
			}
		}
		want := fsm.Healthy
		a.c.with(func() {
			if a.sick[i.ID] {
				want = fsm.Unhealthy
			}
		})
		r.Health = want
		return r, want != i.Health
	case fsm.Draining:
		r.State = fsm.Stopping
	case fsm.Stopping:
		r.State = fsm.Stopped
	default:
		return r, false
	}
	return r, true
}

// tally counts a group's instances by state, and those that serve.
func tally(s *fsm.State, name string) (states map[fsm.InstanceState]int, active, healthy int) {
	states = map[fsm.InstanceState]int{}
	for _, i := range s.InstancesOf(name) {
		states[i.State]++
		if i.State.Active() {
			active++
		}
		if i.State == fsm.Running && i.Health == fsm.Healthy {
			healthy++
		}
	}
	return states, active, healthy
}

// loops starts functions that end with the returned stop.
func loops(t *testing.T, list ...func(ctx context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for _, f := range list {
		wg.Go(func() { f(ctx) })
	}
	return func() { cancel(); wg.Wait() }
}

func (c *cluster) reconciler(t *testing.T, cfg scaling.ReconcilerConfig, term uint64) func(ctx context.Context) {
	if cfg.NewID == nil {
		cfg.NewID = newIDs()
	}
	r := scaling.NewReconciler(cfg, c, c)
	return func(ctx context.Context) {
		if err := r.Run(ctx, term); err != nil && fsm.KindOf(err) != fsm.Conflict {
			t.Errorf("reconciler: %v", err)
		}
	}
}
