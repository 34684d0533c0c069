package session_test

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster of one: a real state machine without Raft around it, whose
// answers a test can hold up, lose or refuse.
type fake struct {
	t       testing.TB
	machine *fsm.Machine

	mu       sync.Mutex
	proposed []fsm.Command
	refuse   error           // what Propose fails with
	gate     chan struct{}   // when set, each Propose takes one from it
	arrived  chan struct{}   // told of each Propose, when set
	forgets  bool            // answers are those of a replay: without a value
	sets     []fsm.ChangeSet // for Watch
	news     chan struct{}
}

func newFake(t testing.TB) *fake {
	f := &fake{t: t, machine: fsm.NewMachine(), news: make(chan struct{})}
	f.must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	f.must(fsm.RegisterNode{Node: fsm.Node{Name: "n1", Incarnation: 1, Drivers: []string{"process"}, Resources: fsm.Resources{CPU: 64, MemoryMiB: 1 << 20}}})
	f.must(fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: fsm.SampleCommand}})
	return f
}

// group declares a group with a strategy and n healthy instances.
func (f *fake) group(name, strategy string, ttl time.Duration, n int) {
	f.t.Helper()
	f.must(fsm.PutGroup{Group: fsm.Group{
		Name: name, Template: "web", MinSize: 0, MaxSize: 100, Desired: n,
		Service: &fsm.Service{
			Hosts:      []string{name + ".test"},
			Stickiness: fsm.Stickiness{Strategy: strategy, TTL: fsm.Duration(ttl)},
		},
	}})
	for k := range n {
		f.launch(name, instance(name, k))
	}
}

func instance(group string, n int) string { return fmt.Sprintf("01%s%04d", group, n) }

func (f *fake) launch(group, id string) {
	f.t.Helper()
	f.must(fsm.LaunchInstances{Group: group, Term: 1, Launches: []fsm.Launch{{ID: id, Node: "n1"}}})
	f.report(id, fsm.Starting, "")
	f.report(id, fsm.Running, fsm.Healthy)
}

func (f *fake) report(id string, state fsm.InstanceState, health fsm.Health) {
	f.t.Helper()
	f.must(fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{
		{ID: id, State: state, Health: health, Address: "127.0.0.1:20001", PID: 7, Incarnation: 1},
	}})
}

func (f *fake) must(c fsm.Command) fsm.Result {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	res, err := f.apply(c)
	if err != nil {
		f.t.Fatalf("%s: %v", c.Name(), err)
	}
	return res
}

// apply needs mu.
func (f *fake) apply(c fsm.Command) (fsm.Result, error) {
	env, err := fsm.Seal(c, "test", "")
	if err != nil {
		return fsm.Result{}, err
	}
	e := fsm.Entry{Time: time.Now(), Commands: []fsm.Envelope{env}}
	out, err := f.machine.Apply([]fsm.LogEntry{{Index: f.machine.State().Index() + 1, Term: 1, Data: e.Encode()}})
	if err != nil {
		return fsm.Result{}, err
	}
	f.sets = append(f.sets, fsm.ChangeSet{Index: out[0].Index, Time: e.Time, Changes: out[0].Changes})
	close(f.news)
	f.news = make(chan struct{})
	return out[0].Results[0], out[0].Errs[0]
}

// Propose implements session.Cluster.
func (f *fake) Propose(ctx context.Context, c fsm.Command) (fsm.Result, error) {
	f.mu.Lock()
	f.proposed = append(f.proposed, c)
	gate, arrived := f.gate, f.arrived
	f.mu.Unlock()
	if arrived != nil {
		arrived <- struct{}{}
	}
	if gate != nil {
		select {
		case <-gate:
		case <-ctx.Done():
			return fsm.Result{}, fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader")
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return fsm.Result{}, f.refuse
	}
	res, err := f.apply(c)
	if f.forgets {
		res.Value = nil
	}
	return res, err
}

// State implements session.Cluster.
func (f *fake) State() *fsm.State { return f.machine.State() }

// Watch implements session.Watched.
func (f *fake) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		for ctx.Err() == nil {
			f.mu.Lock()
			sets, news := f.sets, f.news
			f.mu.Unlock()
			for _, set := range sets {
				if set.Index <= from {
					continue
				}
				from = set.Index
				if !yield(set, nil) {
					return
				}
			}
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
	}
}

func (f *fake) set(change func(*fake)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f)
}

// commands lists what was proposed since the last call.
func (f *fake) commands() []fsm.Command {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := f.proposed
	f.proposed = nil
	return list
}

func (f *fake) names() (list []string) {
	for _, c := range f.commands() {
		list = append(list, c.Name())
	}
	return list
}

// sessions makes n sessions, and leaves no trace of it in commands.
func (f *fake) sessions(group string, from, n int) {
	f.t.Helper()
	for chunk := range slices.Chunk(keysOf(from, n), fsm.MaxSessionKeys) {
		f.must(fsm.AssignSessions{Group: group, Keys: flat(chunk)})
	}
}

func keysOf(from, n int) (keys [][16]byte) {
	for k := range n {
		keys = append(keys, key(from+k))
	}
	return keys
}

func key(n int) [16]byte { return fsm.SessionKey(fmt.Sprint("session ", n)) }

func flat(keys [][16]byte) (b []byte) {
	for _, k := range keys {
		b = append(b, k[:]...)
	}
	return b
}
