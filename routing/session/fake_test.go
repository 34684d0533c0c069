package session_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a cluster of one whose answers a test can hold up, lose or refuse.
type fake struct {
	*fsmtest.Cluster

	mu       sync.Mutex
	proposed []fsm.Command
	refuse   error         // what Propose fails with
	gate     chan struct{} // when set, each Propose takes one from it
	arrived  chan struct{} // told of each Propose, when set
	forgets  bool          // answers are those of a replay: without a value
}

func newFake() *fake {
	f := &fake{Cluster: fsmtest.New()}
	f.Must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	f.Node(fsm.Node{Name: "n1"})
	return f
}

// group declares a group with a strategy and n healthy instances.
func (f *fake) group(name, strategy string, ttl time.Duration, n int) {
	f.Group(name, &fsm.Service{
		Hosts:      []string{name + ".test"},
		Stickiness: fsm.Stickiness{Strategy: strategy, TTL: fsm.Duration(ttl)},
	})
	for k := range n {
		f.launch(name, instance(name, k))
	}
}

func (f *fake) launch(group, id string) { f.Run(group, id, "n1", fsmtest.Address, fsm.Healthy) }

func instance(group string, n int) string { return fmt.Sprintf("01%s%04d", group, n) }

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
	res, err := f.Cluster.Propose(ctx, c)
	if f.forgets {
		res.Value = nil
	}
	return res, err
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
	for chunk := range slices.Chunk(keysOf(from, n), fsm.MaxSessionKeys) {
		f.Must(fsm.AssignSessions{Group: group, Keys: flat(chunk)})
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
