package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// system is a kind of cluster that can be measured.
type system interface {
	// name is what the reports call it.
	name() string
	// binary is the file that its nodes run.
	binary() string
	// procs lays out three nodes with their data below dir.
	procs(dir string) ([]*proc, []string, error)
	// ready reports whether the node at an endpoint knows a leader.
	ready(endpoint string) bool
	// leader returns the number of the node that leads.
	leader(ctx context.Context, endpoints []string) (int, error)
	// dial opens connections to one node for a number of clients.
	dial(endpoint string, clients int) (conn, error)
}

// conn is how clients talk to one node. It is used by many at once; client
// numbers spread them over what lies beneath.
type conn interface {
	put(client int, key, value, requestID string, timeout time.Duration) error
	get(client int, key string, strong bool, timeout time.Duration) error
	close()
}

// cluster is three running nodes of a system.
type cluster struct {
	system
	dir       string
	nodes     []*proc
	endpoints []string
	// toLeader is the time from the start of the processes to a leader.
	toLeader time.Duration
}

// launch starts three nodes at once in a fresh directory and waits until all
// know a leader.
func launch(ctx context.Context, s system, base string) (*cluster, error) {
	dir, err := os.MkdirTemp(base, s.name()+"-")
	if err != nil {
		return nil, err
	}
	c := &cluster{system: s, dir: dir}
	if c.nodes, c.endpoints, err = s.procs(dir); err != nil {
		return nil, err
	}
	begin := time.Now()
	for _, p := range c.nodes {
		if err := p.start(); err != nil {
			c.stop()
			return nil, fmt.Errorf("start %s: %w", s.name(), err)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	if err := poll(ctx, 5*time.Millisecond, func() bool { return s.ready(c.endpoints[0]) }); err != nil {
		defer c.stop()
		return nil, fmt.Errorf("%s has no leader after %s: %w\nlog of %s:\n%s",
			s.name(), startDeadline, err, filepath.Base(c.nodes[0].log), c.nodes[0].lastLog())
	}
	c.toLeader = time.Since(begin)
	return c, c.waitWhole(ctx)
}

// waitWhole waits until every node knows a leader.
func (c *cluster) waitWhole(ctx context.Context) error {
	for i, e := range c.endpoints {
		if err := poll(ctx, 10*time.Millisecond, func() bool { return c.ready(e) }); err != nil {
			return fmt.Errorf("%s node %d does not know a leader: %w\n%s", c.name(), i+1, err, c.nodes[i].lastLog())
		}
	}
	return nil
}

// connect dials all nodes for a number of clients, which are spread evenly.
func (c *cluster) connect(clients int) ([]conn, error) {
	conns := make([]conn, 0, nodes)
	for i, e := range c.endpoints {
		n := (clients + nodes - 1 - i) / nodes
		cn, err := c.dial(e, max(n, 1))
		if err != nil {
			closeAll(conns)
			return nil, err
		}
		conns = append(conns, cn)
	}
	return conns, nil
}

func closeAll(conns []conn) {
	for _, c := range conns {
		c.close()
	}
}

// rss is the mean resident memory of the nodes, in MiB.
func (c *cluster) rss() (float64, error) {
	sum := 0.0
	for _, p := range c.nodes {
		m, err := p.rssMiB()
		if err != nil {
			return 0, err
		}
		sum += m
	}
	return sum / float64(len(c.nodes)), nil
}

// stop ends all nodes and removes their data.
func (c *cluster) stop() {
	for _, p := range c.nodes {
		p.stop()
	}
	_ = os.RemoveAll(c.dir)
}
