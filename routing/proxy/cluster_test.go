package proxy_test

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// cluster is a cluster of one machine: what is applied is the state at once.
type cluster struct {
	t       testing.TB
	mu      sync.Mutex
	m       *fsm.Machine
	index   uint64
	routed  uint64 // the last entry that concerns routing
	log     []fsm.ChangeSet
	changed chan struct{}
	lost    atomic.Bool // there is no quorum: Propose fails
	// before, when given, is asked before a command is proposed: it may refuse
	// it, or let it wait. It is set before the proxy runs.
	before func(ctx context.Context, c fsm.Command) error
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{t: t, m: fsm.NewMachine(), changed: make(chan struct{})}
	c.apply(
		fsm.RegisterNode{Node: fsm.Node{Name: "n1", Incarnation: 1, Zone: "a", Drivers: []string{"process"}, API: "127.0.0.1:1"}},
		fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: "@sample"}},
	)
	return c
}

// State implements routing.Cluster.
func (c *cluster) State() *fsm.State { return c.m.State() }

// Watch implements routing.Cluster.
func (c *cluster) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		for {
			c.mu.Lock()
			log, changed := c.log, c.changed
			c.mu.Unlock()
			for _, set := range log {
				if set.Index <= from {
					continue
				}
				from = set.Index
				if !yield(set, nil) {
					return
				}
			}
			select {
			case <-changed:
			case <-ctx.Done():
				yield(fsm.ChangeSet{}, ctx.Err())
				return
			}
		}
	}
}

// apply applies commands as one entry, none of which may fail.
func (c *cluster) apply(list ...fsm.Command) {
	c.t.Helper()
	out, err := c.enter(list...)
	if err != nil {
		c.t.Fatal(err)
	}
	for _, err := range out.Errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// lose takes the quorum away, or gives it back.
func (c *cluster) lose(lost bool) { c.lost.Store(lost) }

// Propose implements proxy.Proposer and session.Cluster.
func (c *cluster) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if c.lost.Load() {
		return fsm.Result{}, fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader")
	}
	if c.before != nil {
		if err := c.before(ctx, cmd); err != nil {
			return fsm.Result{}, err
		}
	}
	out, err := c.enter(cmd)
	if err != nil {
		return fsm.Result{}, err
	}
	return out.Results[0], out.Errs[0]
}

// enter makes commands the next entry.
func (c *cluster) enter(list ...fsm.Command) (fsm.Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var sealed []fsm.Envelope
	for _, cmd := range list {
		env, err := fsm.Seal(cmd, "test", "")
		if err != nil {
			return fsm.Outcome{}, err
		}
		sealed = append(sealed, env)
	}
	c.index++
	e := fsm.Entry{Time: time.Unix(int64(c.index), 0).UTC(), Commands: sealed}
	out, err := c.m.Apply([]fsm.LogEntry{{Index: c.index, Term: 1, Data: e.Encode()}})
	if err != nil {
		return fsm.Outcome{}, err
	}
	c.log = append(c.log, fsm.ChangeSet{Index: c.index, Time: e.Time, Changes: out[0].Changes})
	for _, ch := range out[0].Changes {
		if ch.Table == "serviceIndexes" || ch.Table == "nodes" || ch.Table == "sessionKeys" {
			c.routed = c.index
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
	return out[0], nil
}

// desired is the size of a group.
func (c *cluster) desired(group string) int {
	c.t.Helper()
	g, err := c.State().Groups.Lookup(group)
	if err != nil {
		c.t.Fatal(err)
	}
	return g.Desired
}

// serve gives a group a service; nil takes it away.
func (c *cluster) serve(group string, s *fsm.Service) {
	c.t.Helper()
	c.apply(fsm.PutGroup{Group: fsm.Group{Name: group, Template: "web", MaxSize: 1000, Service: s}})
}

// start makes an instance that runs at an address.
func (c *cluster) start(group, id, addr string, h fsm.Health) {
	c.t.Helper()
	report := func(r fsm.InstanceReport) fsm.Command {
		r.ID = id
		return fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{r}}
	}
	c.apply(
		fsm.LaunchInstances{Group: group, Term: 1, Launches: []fsm.Launch{{ID: id, Node: "n1"}}},
		report(fsm.InstanceReport{State: fsm.Starting}),
		report(fsm.InstanceReport{State: fsm.Running, Health: h, Address: addr, Incarnation: 1}),
	)
}

// report changes an instance.
func (c *cluster) report(id string, state fsm.InstanceState, h fsm.Health) {
	c.t.Helper()
	c.apply(fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: id, State: state, Health: h}}})
}

// drain lets an instance finish what it has.
func (c *cluster) drain(id string) {
	c.t.Helper()
	c.apply(fsm.StopInstances{Instances: []string{id}})
}
