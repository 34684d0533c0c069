package proxy_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

// cluster is a cluster of one that may lose its quorum.
type cluster struct {
	*fsmtest.Cluster
	t    testing.TB
	lost atomic.Bool // there is no quorum: Propose fails
	// before, when given, is asked before a command is proposed: it may refuse
	// it, or let it wait. It is set before the proxy runs.
	before func(ctx context.Context, c fsm.Command) error
}

func newCluster(t testing.TB) *cluster {
	c := &cluster{Cluster: fsmtest.New(), t: t}
	c.Node(fsm.Node{Name: "n1", Zone: "a", API: "127.0.0.1:1"})
	return c
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
	return c.Cluster.Propose(ctx, cmd)
}

// routed is the last entry that concerns routing.
func (c *cluster) routed() (index uint64) {
	for _, set := range c.Changes() {
		for _, ch := range set.Changes {
			if ch.Table == "serviceIndexes" || ch.Table == "nodes" || ch.Table == "sessionKeys" {
				index = set.Index
			}
		}
	}
	return index
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
