// Package httpapitest has a cluster of one for tests of the API and of what
// talks to it, whose failures a test can choose.
package httpapitest

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

// maxCalls bounds the calls that a Cluster remembers.
const maxCalls = 100_000

// Cluster applies commands at once. Its methods are those of httpapi.Cluster.
type Cluster struct {
	*fsmtest.Cluster
	// Name is the name of the one node.
	Name string
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

	mu      sync.Mutex
	refusal error
	calls   []string
}

// New returns a cluster with an identity and one registered node.
func New(name string) *Cluster {
	c := &Cluster{Cluster: fsmtest.New(), Name: name}
	c.Must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	c.Node(fsm.Node{Name: name, Zone: "a", Resources: fsm.Resources{CPU: 4, MemoryMiB: 8192}, Version: "test"})
	return c
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
	return c.Cluster.Propose(ctx, cmd)
}

// WaitIndex implements httpapi.Cluster.
func (c *Cluster) WaitIndex(ctx context.Context, index uint64) (*fsm.State, error) {
	if c.State().Index() < index {
		c.Watch(ctx, index-1)(func(fsm.ChangeSet, error) bool { return false })
	}
	if s := c.State(); s.Index() >= index {
		return s, nil
	}
	return nil, ctx.Err()
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
		Leader: c.Name, Term: fsmtest.Term, Index: c.State().Index(), Problem: c.Broken,
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
	c.Replace(s)
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
	c.calls = append(c.calls[max(0, len(c.calls)-maxCalls):], what)
}
