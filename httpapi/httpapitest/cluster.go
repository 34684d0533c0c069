// Package httpapitest has a cluster of one for tests of the API and of what
// talks to it: a real state machine without Raft around it, whose failures a
// test can choose.
package httpapitest

import (
	"context"
	"io"
	"iter"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// maxSets bounds the change sets that a Cluster remembers.
const maxSets = 100_000

// Cluster applies commands at once. Its methods are those of httpapi.Cluster.
type Cluster struct {
	// Name is the name of the one node.
	Name string
	// Clock stamps commands; time.Now when nil.
	Clock func() time.Time
	// Refuse, when it returns an error, makes Propose fail with it. It is set
	// before the cluster is used, or between requests.
	Refuse func(fsm.Command) error
	// ReadError fails strong and leader reads.
	ReadError error
	// HaltedBy is what Halted returns.
	HaltedBy error
	// Age is what Stale returns.
	Age time.Duration
	// Broken is the status's problem.
	Broken string

	mu       sync.Mutex
	machine  *fsm.Machine
	sets     []fsm.ChangeSet
	lost     uint64 // change sets up to this index are not remembered
	news     chan struct{}
	refusal  error
	calls    []string
	proposed []fsm.Envelope
}

// New returns a cluster with an identity and one registered node.
func New(name string) *Cluster {
	c := &Cluster{Name: name, machine: fsm.NewMachine(), news: make(chan struct{})}
	c.Must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	c.Must(fsm.RegisterNode{Node: fsm.Node{
		Name: name, Incarnation: 1, Zone: "a", Drivers: []string{"process"},
		Resources: fsm.Resources{CPU: 4, MemoryMiB: 8192}, API: "127.0.0.1:7700", Version: "test",
	}})
	return c
}

// Term is the term of every entry.
const Term = 1

// Must applies a command and panics if it is refused: for setting up a test.
func (c *Cluster) Must(cmd fsm.Command) fsm.Result {
	res, err := c.apply(cmd, "test", "")
	if err != nil {
		panic(err)
	}
	return res
}

// FailWrites makes Propose fail with an error, or work again with nil. Unlike
// Refuse it may be changed while the cluster is used.
func (c *Cluster) FailWrites(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refusal = err
}

func (c *Cluster) failing() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.refusal
}

// Propose implements httpapi.Cluster.
func (c *Cluster) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if c.Refuse != nil {
		if err := c.Refuse(cmd); err != nil {
			return fsm.Result{}, err
		}
	}
	if err := c.failing(); err != nil {
		return fsm.Result{}, err
	}
	if err := ctx.Err(); err != nil {
		return fsm.Result{}, err
	}
	return c.apply(cmd, fsm.ActorFrom(ctx), fsm.RequestIDFrom(ctx))
}

func (c *Cluster) apply(cmd fsm.Command, actor, request string) (fsm.Result, error) {
	env, err := fsm.Seal(cmd, actor, request)
	if err != nil {
		return fsm.Result{}, err
	}
	now := time.Now()
	if c.Clock != nil {
		now = c.Clock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proposed = append(c.proposed[max(0, len(c.proposed)-maxSets):], env)
	entry := fsm.Entry{Time: now, Commands: []fsm.Envelope{env}}
	out, err := c.machine.Apply([]fsm.LogEntry{{Index: c.machine.State().Index() + 1, Term: Term, Data: entry.Encode()}})
	if err != nil {
		return fsm.Result{}, err
	}
	c.publish(fsm.ChangeSet{Index: out[0].Index, Time: c.machine.State().Time(), Changes: out[0].Changes})
	return out[0].Results[0], out[0].Errs[0]
}

// publish needs mu.
func (c *Cluster) publish(set fsm.ChangeSet) {
	c.sets = append(c.sets[max(0, len(c.sets)-maxSets):], set)
	close(c.news)
	c.news = make(chan struct{})
}

// Proposed returns the commands proposed so far.
func (c *Cluster) Proposed() []fsm.Envelope {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]fsm.Envelope(nil), c.proposed...)
}

// State implements httpapi.Cluster.
func (c *Cluster) State() *fsm.State { return c.machine.State() }

// Forget drops the remembered changes, as a bounded ring does.
func (c *Cluster) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets, c.lost = nil, c.machine.State().Index()
}

// Watch implements httpapi.Cluster.
func (c *Cluster) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		for ctx.Err() == nil {
			c.mu.Lock()
			sets, lost, news := c.sets, c.lost, c.news
			c.mu.Unlock()
			if from < lost {
				yield(fsm.ChangeSet{}, fsm.Errorf(fsm.Conflict, "watch", "", "lagged"))
				return
			}
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

// WaitIndex implements httpapi.Cluster.
func (c *Cluster) WaitIndex(ctx context.Context, index uint64) (*fsm.State, error) {
	for {
		c.mu.Lock()
		s, news := c.machine.State(), c.news
		c.mu.Unlock()
		if s.Index() >= index {
			return s, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// StrongState implements httpapi.Cluster.
func (c *Cluster) StrongState(context.Context) (*fsm.State, error) { return c.fresh("strong") }

// LeaderState implements httpapi.Cluster.
func (c *Cluster) LeaderState(context.Context) (*fsm.State, error) { return c.fresh("leader") }

func (c *Cluster) fresh(how string) (*fsm.State, error) {
	c.note(how)
	if c.ReadError != nil {
		return nil, c.ReadError
	}
	return c.State(), nil
}

// Halted implements httpapi.Cluster.
func (c *Cluster) Halted() error { return c.HaltedBy }

// Stale implements httpapi.Cluster.
func (c *Cluster) Stale() time.Duration { return c.Age }

// Status is the status of a cluster of one.
func (c *Cluster) Status() client.ClusterStatus {
	return client.ClusterStatus{
		Leader: c.Name, Term: Term, Index: c.State().Index(), Problem: c.Broken,
		Members: []client.Member{{Name: c.Name, Role: "voter", Status: "alive", Zone: "a", API: "127.0.0.1:7700"}},
		Quorum:  client.Quorum{Voters: 1, Healthy: 1},
	}
}

// Leave implements httpapi.Cluster.
func (c *Cluster) Leave(context.Context) error { c.note("leave"); return nil }

// RemoveMember implements httpapi.Cluster.
func (c *Cluster) RemoveMember(_ context.Context, name string) error {
	c.note("remove " + name)
	if _, err := c.State().Nodes.Lookup(name); err != nil {
		return err
	}
	if name == c.Name {
		return fsm.Errorf(fsm.Conflict, "node", name, "is the last voter")
	}
	return nil
}

// TransferLeadership implements httpapi.Cluster.
func (c *Cluster) TransferLeadership(_ context.Context, to string) error {
	c.note("transfer " + to)
	if to != "" && to != c.Name {
		return fsm.Errorf(fsm.NotFound, "node", to, "is not a voter")
	}
	return nil
}

// SaveSnapshot implements httpapi.Cluster.
func (c *Cluster) SaveSnapshot(_ context.Context, w io.Writer) error {
	if c.ReadError != nil {
		return c.ReadError
	}
	return c.State().WriteSnapshot(w)
}

// RestoreSnapshot implements httpapi.Cluster.
func (c *Cluster) RestoreSnapshot(_ context.Context, r io.Reader) error {
	s, err := fsm.ReadSnapshot(r)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.machine.Replace(s)
	c.publish(fsm.ChangeSet{Index: s.Index(), Time: s.Time(), Reset: true})
	return nil
}

// Calls returns what was asked beside commands, such as "transfer n1".
func (c *Cluster) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.calls...)
}

func (c *Cluster) note(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls = append(c.calls[max(0, len(c.calls)-maxSets):], what)
}
