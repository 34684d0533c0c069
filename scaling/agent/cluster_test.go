package agent_test

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
	"github.com/pacelinehq/paceline/scaling/agent"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

const (
	node  = "n1"
	epoch = 10 // the incarnation of the first process of the node

	nobodys = "nobodys" // an instance that no row tells of
)

// cluster is a cluster of one with the faults that the agent must bear.
type cluster struct {
	*fsmtest.Cluster

	mu sync.Mutex
	// cut makes Propose fail before it does anything; lost makes it fail after
	// it has, once for each count.
	cut  error
	lost int
	// unknown is the request whose answer was lost; strangers counts requests
	// that came instead of its repetition.
	unknown   string
	strangers int
	// replay makes Watch begin with everything that ever happened; lag makes
	// it end with an error after that many changes.
	replay bool
	lag    int
	passed int
}

func newCluster() *cluster { return &cluster{Cluster: fsmtest.New()} }

// Propose implements agent.Cluster.
func (c *cluster) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cut != nil {
		return fsm.Result{}, c.cut
	}
	id := fsm.RequestIDFrom(ctx)
	if c.unknown != "" && id != c.unknown {
		c.strangers++
	}
	c.unknown = ""
	res, err := c.Cluster.Propose(ctx, cmd)
	if c.lost > 0 {
		c.lost--
		c.unknown = cmp.Or(id, "a request without an id")
		return fsm.Result{}, fsm.Errorf(fsm.UnknownOutcome, "command", cmd.Name(), "may have been applied")
	}
	return res, err
}

// Watch implements agent.Cluster.
func (c *cluster) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		c.set(func(c *cluster) {
			if c.replay {
				from = 0
			}
		})
		for set, err := range c.Cluster.Watch(ctx, from) {
			if c.lags() {
				yield(fsm.ChangeSet{}, errors.New("lagged"))
				return
			}
			if !yield(set, err) {
				return
			}
		}
	}
}

// lags counts a change, and reports whether the watch ends instead of it.
func (c *cluster) lags() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.passed++; c.lag == 0 || c.passed < c.lag {
		return false
	}
	c.passed = 0
	return true
}

func (c *cluster) set(change func(*cluster)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change(c)
}

func (c *cluster) row(t testing.TB, id string) *fsm.Instance {
	t.Helper()
	row, ok := c.State().Instances.Get(id)
	if !ok {
		t.Fatalf("instance %s has no row", id)
	}
	return row
}

// want compares the state of an instance.
func (c *cluster) want(t testing.TB, id string, state fsm.InstanceState, health fsm.Health) *fsm.Instance {
	t.Helper()
	row := c.row(t, id)
	if row.State != state || row.Health != health {
		t.Errorf("%s is %s and %s (%s), want %s and %s", id, row.State, row.Health, row.Reason, state, health)
	}
	return row
}

// world is a node with its agent, in a bubble of virtual time.
type world struct {
	*cluster
	t       *testing.T
	driver  *fake.Driver
	drivers []driver.Driver
	agent   *agent.Agent
	stop    func()
	epoch   uint64

	mu      sync.Mutex
	sick    map[string]error
	delay   time.Duration
	refuse  error
	metrics map[string]float64
	atOnce  int
	most    int
}

// inBubble runs a test in virtual time, on a cluster with a group "web" of a
// template that may be changed first.
func inBubble(t *testing.T, change func(*fsm.Template), test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{cluster: newCluster(), t: t, sick: map[string]error{}, metrics: map[string]float64{}, epoch: epoch}
		w.driver = fake.New("fake", fake.Hooks{Start: w.onStart, Check: w.onCheck})
		w.drivers = []driver.Driver{w.driver}
		tpl := fsm.Template{
			Name: "app", Driver: "fake",
			HealthCheck: &fsm.HealthCheck{Type: fsm.CheckExec, Command: []string{"/check"}},
			Stop:        &fsm.Stop{Grace: fsm.Duration(3 * time.Second)},
		}
		if change != nil {
			change(&tpl)
		}
		w.Must(fsm.InitCluster{ID: "c1"})
		w.Must(fsm.PutTemplate{Template: tpl})
		w.Must(fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "app", MaxSize: 500}})
		w.register()
		w.start()
		test(w)
		w.stop()
	})
}

func (w *world) onStart(_ context.Context, s driver.Spec) error {
	w.mu.Lock()
	delay, refuse := w.delay, w.refuse
	w.atOnce++
	w.most = max(w.most, w.atOnce)
	w.mu.Unlock()
	if delay > 0 {
		<-time.After(delay)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.atOnce--
	if row, ok := w.State().Instances.Get(s.ID); s.ID != nobodys && (!ok || row.State == fsm.Planned) {
		w.t.Errorf("%s is launched before its claim shows", s.ID)
	}
	return refuse
}

func (w *world) onCheck(_ context.Context, id string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sick[id]
}

func (w *world) setSick(id string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.sick[id] = err
}

// setDelay makes launches slow.
func (w *world) setDelay(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = d
}

func (w *world) register() {
	w.Must(fsm.RegisterNode{Node: fsm.Node{Name: node, Incarnation: w.epoch, Drivers: []string{"fake"}}})
	w.Must(fsm.RegisterNode{Node: fsm.Node{Name: "n2", Incarnation: 1}})
}

// start runs an agent as the node's process does.
func (w *world) start() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	a := agent.New(agent.Config{
		Node: node, Incarnation: w.epoch, Cluster: w.cluster, Drivers: w.drivers,
		Metrics: func(_, id, metric string, v float64) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.metrics[id+"/"+metric] = v
		},
	})
	w.agent = a
	go func() { done <- a.Run(ctx) }()
	w.stop = func() {
		cancel()
		<-done
	}
}

// launch places an instance on the node.
func (w *world) launch(ids ...string) {
	w.t.Helper()
	c := fsm.LaunchInstances{Group: "web", Term: 1}
	for _, id := range ids {
		c.Launches = append(c.Launches, fsm.Launch{ID: id, Node: node})
	}
	w.Must(c)
}

// pass lets virtual time go by, until everything rests.
func (w *world) pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// runs says whether the driver has a live process of an instance.
func (w *world) runs(id string) bool {
	st, ok, err := driver.Find(context.Background(), w.driver, id)
	if err != nil {
		w.t.Error(err)
	}
	return ok && st.Phase == driver.Running
}

// onceEach fails the test when an instance was launched twice.
func (w *world) onceEach() {
	w.t.Helper()
	for id, n := range w.driver.Launches() {
		if n != 1 {
			w.t.Errorf("%s was launched %d times", id, n)
		}
	}
}

func TestMain(m *testing.M) {
	if beInstance() {
		return
	}
	goleak.VerifyTestMain(m)
}
