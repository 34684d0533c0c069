//go:build linux

package e2e_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// TestPartitions cuts the network in every way that takes a leader away, or
// seems to, while clients of the connected majority go on.
func TestPartitions(t *testing.T) {
	quick(t)
	f, w := cutFleet(t, 3)
	l := begin(t, f)
	kinds := []struct {
		name string
		cut  func(leader *node, others []*node)
		gone bool // the leader can not lead through it
	}{
		{"leader cut off", func(a *node, o []*node) { w.cut(a, o[0]); w.cut(a, o[1]) }, true},
		{"leader is not heard", func(a *node, o []*node) { w.drop(a, o[0]); w.drop(a, o[1]) }, true},
		{"leader hears nobody", func(a *node, o []*node) { w.drop(o[0], a); w.drop(o[1], a) }, true},
		{"leader and one follower cut from each other", func(a *node, o []*node) { w.cut(a, o[0]) }, false},
		{"followers cut from each other", func(_ *node, o []*node) { w.cut(o[0], o[1]) }, false},
	}
	for i, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			l.goesOn(20)
			leader := f.leader()
			others := f.others(leader)
			key := fmt.Sprintf("cut-%d", i)
			_, err := put(t.Context(), f.any(), key, "before")
			must(t, err)
			if k.gone {
				l.hit(leader)
			} else {
				// Either side may lead in the end; its clients must be served.
				l.hit(others[0])
			}
			k.cut(leader, others)
			l.goesOn(40)
			if k.gone {
				now := f.leaderAmong(others...)
				_, err := put(t.Context(), f.client(now), key, "after")
				must(t, err)
				l.coldReads(t, leader, key)
			}
			w.join(f.nodes...)
			f.whole()
			for _, n := range f.nodes {
				l.heal(n)
			}
		})
	}
	l.finish(true)
	f.equalStates()
}

// coldReads asks a node that is cut off: a strong read must not be answered
// from what it knows, a stale one must be, and says its age.
func (l *load) coldReads(t *testing.T, n *node, key string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), attemptDeadline)
	defer cancel()
	tmpl, err := n.cli().GetTemplate(ctx, key, client.Once(), client.WithConsistency(client.Strong))
	if err == nil {
		t.Errorf("%s is cut off and answered a strong read with %q", n.name, tmpl.Labels["v"])
	} else if p := problem(t, err); p.Status != 503 || p.Hint == "" {
		t.Errorf("%s is cut off: a strong read gives %d %q, hint %q; want 503 with a hint", n.name, p.Status, p.Detail, p.Hint)
	}
	var meta client.Meta
	tmpl, err = n.cli().GetTemplate(ctx, key, client.Once(), client.Capture(&meta))
	if err != nil {
		t.Errorf("%s is cut off: a stale read gives %v", n.name, err)
	} else if tmpl.Labels["v"] != "before" || meta.Stale == 0 {
		t.Errorf("%s is cut off: a stale read gives %q, age %s", n.name, tmpl.Labels["v"], meta.Stale)
	}
}

// TestGossipCut loses gossip only: that is a hint and no more, so nothing may
// be taken for dead.
func TestGossipCut(t *testing.T) {
	quick(t)
	f, w := cutFleet(t, 3)
	group(t, f, "web", 3, 3, sample())
	before := f.ids("web")
	leader := f.leader()
	lonely := f.others(leader)[0]
	for _, n := range f.others(lonely) {
		for _, proto := range []string{"udp", "tcp"} {
			w.drop(n, lonely, "-p", proto, "--dport", "7702")
			w.drop(lonely, n, "-p", proto, "--dport", "7702")
		}
	}
	l := begin(t, f)
	f.anySays("Marking " + lonely.name + " as failed")
	l.goesOn(200)
	row, err := f.any().GetNode(t.Context(), lonely.name, client.WithConsistency(client.Strong))
	must(t, err)
	if row.State == fsm.NodeStateDown {
		t.Errorf("%s lost gossip only, and was taken for down", lonely.name)
	}
	if after := f.ids("web"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("instances were replaced: %v, before %v", after, before)
	}
	w.join(f.nodes...)
	f.whole()
	l.finish(true)
}
