package xds_test

import (
	"context"
	"iter"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// cluster is a cluster of one machine: what is applied is the state at once.
type cluster struct {
	t       testing.TB
	mu      sync.Mutex
	m       *fsm.Machine
	log     []fsm.ChangeSet
	changed chan struct{}
}

// newCluster has nodes n1 and n2 in zones a and b, and no groups.
func newCluster(t testing.TB) *cluster {
	c := emptyCluster(t)
	c.apply(fsm.InitCluster{ID: "01TESTCLUSTER"})
	c.node("n1", "a", "1")
	c.node("n2", "b", "1")
	return c
}

// emptyCluster has not been founded.
func emptyCluster(t testing.TB) *cluster {
	return &cluster{t: t, m: fsm.NewMachine(), changed: make(chan struct{})}
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

// apply applies commands as one entry.
func (c *cluster) apply(list ...fsm.Command) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	var sealed []fsm.Envelope
	for _, cmd := range list {
		env, err := fsm.Seal(cmd, "test", "")
		if err != nil {
			c.t.Fatal(err)
		}
		sealed = append(sealed, env)
	}
	index := c.m.State().Index() + 1
	e := fsm.Entry{Time: time.Unix(int64(index), 0).UTC(), Commands: sealed}
	out, err := c.m.Apply([]fsm.LogEntry{{Index: index, Term: 1, Data: e.Encode()}})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, err := range out[0].Errs {
		if err != nil {
			c.t.Fatal(err)
		}
	}
	c.log = append(c.log, fsm.ChangeSet{Index: index, Time: e.Time, Changes: out[0].Changes})
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *cluster) node(name, zone, weight string) {
	c.t.Helper()
	c.apply(fsm.RegisterNode{Node: fsm.Node{
		Name: name, Incarnation: 1, Zone: zone, Labels: map[string]string{fsm.WeightLabel: weight}, Drivers: []string{"process"},
		Resources: fsm.Resources{CPU: 64, MemoryMiB: 1 << 20}, API: "127.0.0.1:1",
	}})
}

// group makes a group, or changes its service; nil is a group without.
func (c *cluster) group(name string, s *fsm.Service) {
	c.t.Helper()
	c.apply(
		fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: fsm.SampleCommand}},
		fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MaxSize: 1000, Desired: 900, Service: s}},
	)
}

// run makes an instance of a group that runs at an address and is healthy.
func (c *cluster) run(group, id, node, addr string) {
	c.t.Helper()
	report := func(r fsm.InstanceReport) fsm.Command {
		r.ID = id
		return fsm.ReportInstances{Node: node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{r}}
	}
	c.apply(
		fsm.LaunchInstances{Group: group, Term: 1, Launches: []fsm.Launch{{ID: id, Node: node}}},
		report(fsm.InstanceReport{State: fsm.Starting}),
		report(fsm.InstanceReport{State: fsm.Running, Health: fsm.Healthy, Address: addr, Incarnation: 1}),
	)
}

// health changes what the checks of an instance say.
func (c *cluster) health(id, node string, h fsm.Health) {
	c.t.Helper()
	c.apply(fsm.ReportInstances{Node: node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: id, Health: h}}})
}

// drain lets an instance finish what it has. It still passes its checks.
func (c *cluster) drain(id string) {
	c.t.Helper()
	c.apply(fsm.StopInstances{Instances: []string{id}, Cause: "test"})
	i, _ := c.State().Instances.Get(id)
	c.health(id, i.Node, fsm.Healthy)
}

// end is the end of an instance that has been told to stop.
func (c *cluster) end(id, node string) {
	c.t.Helper()
	c.apply(fsm.ReportInstances{Node: node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: id, State: fsm.Stopped}}})
}

// remove deletes a group with its instances.
func (c *cluster) remove(group string) {
	c.t.Helper()
	c.apply(fsm.DeleteGroup{Group: group})
	for id, i := range c.State().Instances.All() {
		if i.Group == group && !i.State.Terminal() {
			c.drain(id)
			c.end(id, i.Node)
		}
	}
	c.apply(fsm.RemoveGroup{Group: group})
}
