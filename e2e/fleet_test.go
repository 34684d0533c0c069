//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// Deadlines of the harness. Reaching one is a failure; nothing waits for one.
const (
	settleDeadline = 30 * time.Second
	exitDeadline   = 30 * time.Second
	pollPause      = 15 * time.Millisecond
	addressTries   = 50
)

// fleet is a cluster of real agents. Each node has an address of 127.0.0.0/8
// of its own, so that all use the usual ports and none can be taken by chance.
type fleet struct {
	t     testing.TB
	dir   string
	nodes []*node
	// flags are given to every node.
	flags []string
	// expect is --bootstrap-expect.
	expect int
}

// newFleet lays out n nodes and ends all that they ran when the test ends.
func newFleet(t testing.TB, n int, flags ...string) *fleet {
	t.Helper()
	dir, err := os.MkdirTemp("", "paceline-e2e-")
	must(t, err)
	f := &fleet{t: t, dir: dir, flags: flags, expect: n}
	t.Cleanup(f.close)
	for i := range n {
		f.add(fmt.Sprintf("n%d", i+1), string(rune('a'+i%26)))
	}
	return f
}

// running is a fleet that has been founded and answers writes.
func running(t testing.TB, n int, flags ...string) *fleet {
	t.Helper()
	f := newFleet(t, n, flags...)
	f.startAll()
	f.whole()
	return f
}

// add lays out one more node; it does not start it.
func (f *fleet) add(name, zone string) *node {
	n := &node{f: f, name: name, zone: zone, ip: freeIP(f.t), dir: filepath.Join(f.dir, name)}
	f.nodes = append(f.nodes, n)
	return n
}

// freeIP finds a loopback address on which nobody listens.
func freeIP(t testing.TB) string {
	t.Helper()
	for range addressTries {
		ip := fmt.Sprintf("127.%d.%d.%d", 64+rand.N(128), rand.N(256), 1+rand.N(254))
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "7700"))
		if err == nil {
			_ = l.Close()
			return ip
		}
	}
	t.Fatal("no free address in 127.0.0.0/8")
	return ""
}

func (f *fleet) joins() string {
	list := make([]string, len(f.nodes))
	for i, n := range f.nodes {
		list[i] = n.gossip()
	}
	return strings.Join(list, ",")
}

func (f *fleet) startAll() {
	f.t.Helper()
	for _, n := range f.nodes {
		n.start()
	}
}

// close ends every process of the fleet and what the nodes ran. The logs stay
// when the test failed.
func (f *fleet) close() {
	for _, n := range f.nodes {
		n.end()
	}
	for _, n := range f.nodes {
		n.endInstances()
	}
	if f.t.Failed() {
		f.t.Logf("the logs and data of the nodes are kept in %s", f.dir)
		for _, n := range f.nodes {
			f.t.Logf("%s: last lines of its log:\n%s", n.name, n.tail(6))
		}
		return
	}
	_ = os.RemoveAll(f.dir)
}

// others are the nodes without one.
func (f *fleet) others(not *node) []*node {
	var list []*node
	for _, n := range f.nodes {
		if n != not {
			list = append(list, n)
		}
	}
	return list
}

func alive(nodes []*node) []*node {
	var list []*node
	for _, n := range nodes {
		if n.runs() {
			list = append(list, n)
		}
	}
	return list
}

// client talks to any of the given nodes.
func (f *fleet) client(nodes ...*node) *client.Client {
	f.t.Helper()
	var endpoints []string
	for _, n := range nodes {
		endpoints = append(endpoints, n.api())
	}
	c, err := client.New(client.Config{Endpoints: endpoints, UserAgent: "paceline-e2e"})
	must(f.t, err)
	f.t.Cleanup(c.Close)
	return c
}

// any talks to whichever node of the fleet answers.
func (f *fleet) any() *client.Client { return f.client(f.nodes...) }

// leader waits until the running nodes agree on a leader that is one of them.
func (f *fleet) leader() *node { return f.leaderAmong(alive(f.nodes)...) }

func (f *fleet) leaderAmong(nodes ...*node) *node {
	f.t.Helper()
	var found *node
	eventually(f.t, settleDeadline, "one leader", func() error {
		name := ""
		for _, n := range nodes {
			st, err := n.status()
			if err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			if st.Leader == "" || (name != "" && st.Leader != name) {
				return fmt.Errorf("%s says %q leads, before it was %q", n.name, st.Leader, name)
			}
			name = st.Leader
		}
		for _, n := range nodes {
			if n.name == name {
				found = n
				return nil
			}
		}
		return fmt.Errorf("%s leads, which is not one of the nodes asked", name)
	})
	return found
}

// whole waits until every node is ready, has caught up with the others, and
// all see each other healthy.
func (f *fleet) whole() {
	f.t.Helper()
	eventually(f.t, settleDeadline, "a whole cluster", func() error {
		for _, n := range f.nodes {
			if err := n.ready(); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			if err := n.fresh(); err != nil {
				return fmt.Errorf("%s can not catch up: %w", n.name, err)
			}
			st, err := n.status()
			if err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			healthy := 0
			for _, m := range st.Members {
				if m.Status == "alive" {
					healthy++
				}
			}
			if healthy < len(f.nodes) || st.Quorum.Healthy < min(len(f.nodes), 3) || st.Problem != "" {
				return fmt.Errorf("%s sees %d of %d nodes and %d of %d voters healthy %s",
					n.name, healthy, len(f.nodes), st.Quorum.Healthy, st.Quorum.Voters, st.Problem)
			}
		}
		return nil
	})
	f.leader()
}

// equalStates waits until every node has the same state, byte for byte, at the
// same index. It is for fleets without instances, which are quiet.
func (f *fleet) equalStates() {
	f.t.Helper()
	eventually(f.t, settleDeadline, "equal states on all nodes", func() error {
		var first []byte
		for _, n := range f.nodes {
			b, err := n.snapshot()
			if err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			if first == nil {
				first = b
			}
			if !bytes.Equal(first, b) {
				return fmt.Errorf("%s and %s differ (%d and %d bytes)", f.nodes[0].name, n.name, len(first), len(b))
			}
		}
		return nil
	})
}

// put writes a template with one label, the smallest object there is.
func put(ctx context.Context, c *client.Client, name, value string, opts ...client.Option) (*fsm.Template, error) {
	return c.PutTemplate(ctx, fsm.Template{
		Name: name, Driver: "process", Command: fsm.SampleCommand, Labels: map[string]string{"v": value},
	}, opts...)
}

// eventually polls a condition until it holds.
func eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s: %v", within, what, err)
		}
		time.Sleep(pollPause) //archtest:ok the pause between two looks at the condition
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// problem is the problem document in an error, which must be one.
func problem(t testing.TB, err error) *client.Problem {
	t.Helper()
	var p *client.Problem
	if !errors.As(err, &p) {
		t.Fatalf("got %v, want a problem document", err)
	}
	return p
}

func readAll(r io.ReadCloser, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	return b, errors.Join(err, r.Close())
}
