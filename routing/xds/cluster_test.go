package xds_test

import (
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

// cluster is a cluster of one with the steps of these tests.
type cluster struct {
	*fsmtest.Cluster
	t testing.TB
}

// emptyCluster has not been founded.
func emptyCluster(t testing.TB) *cluster { return &cluster{fsmtest.New(), t} }

// newCluster has nodes n1 and n2 in zones a and b, and no groups.
func newCluster(t testing.TB) *cluster {
	c := emptyCluster(t)
	c.found()
	return c
}

func (c *cluster) found() {
	c.Must(fsm.InitCluster{ID: "01TESTCLUSTER"})
	c.node("n1", "a", "1")
	c.node("n2", "b", "1")
}

func (c *cluster) node(name, zone, weight string) {
	c.Node(fsm.Node{Name: name, Zone: zone, Labels: map[string]string{fsm.WeightLabel: weight}})
}

// remove deletes a group with its instances.
func (c *cluster) remove(group string) {
	c.Must(fsm.DeleteGroup{Group: group})
	for id, i := range c.State().Instances.All() {
		if i.Group == group && !i.State.Terminal() {
			c.Drain(id, fsm.Healthy)
			c.Report(id, fsm.Stopped, "")
		}
	}
	c.Must(fsm.RemoveGroup{Group: group})
}
