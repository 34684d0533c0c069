package scaling_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// placeIn places count instances of a group in a cluster's present state.
func placeIn(t *testing.T, c *cluster, name string, count int, avoid map[string]string) scaling.Placement {
	t.Helper()
	s := c.State()
	g, err := s.Groups.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := s.TemplateAt(g.Template, g.Version)
	if err != nil {
		t.Fatal(err)
	}
	return scaling.Place(scaling.NewFleet(s, s.Time(), avoid), g, tmpl, count)
}

func perNode(nodes []string) map[string]int {
	m := map[string]int{}
	for _, n := range nodes {
		m[n]++
	}
	return m
}

func TestPlaceSpreadsOverZonesThenNodes(t *testing.T) {
	c := newCluster()
	c.must(t, node("a1", "a", 16), node("a2", "a", 16), node("a3", "a", 16), node("b1", "b", 16),
		template("app", 0.1), group("web", 8, 0, 20))
	got := perNode(placeIn(t, c, "web", 8, nil).Nodes)
	want := map[string]int{"a1": 2, "a2": 1, "a3": 1, "b1": 4}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPlaceFillsUpWhatIsThere(t *testing.T) {
	c := newCluster()
	c.fleet(t)
	c.must(t, group("web", 3, 0, 20),
		fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "x1", Node: "n1"}, {ID: "x2", Node: "n1"}, {ID: "x3", Node: "n2"}}})
	got := placeIn(t, c, "web", 3, nil).Nodes
	if want := []string{"n3", "n2", "n3"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPlacePrefersTheFreerNode(t *testing.T) {
	c := newCluster()
	c.must(t, node("n1", "a", 4), node("n2", "a", 16), template("app", 1), group("web", 0, 0, 20))
	// The share counts: after one instance n2 still has more of itself left.
	if got := placeIn(t, c, "web", 1, nil).Nodes; got[0] != "n1" {
		t.Fatalf("two empty nodes: got %v, want n1 by name", got)
	}
	c.must(t, group("other", 2, 0, 2), fsm.LaunchInstances{Group: "other", Term: 1, Launches: []fsm.Launch{{ID: "o1", Node: "n1"}, {ID: "o2", Node: "n2"}}})
	if got := placeIn(t, c, "web", 1, nil).Nodes; got[0] != "n2" {
		t.Errorf("got %v, want n2, which has 15 of 16 cores free", got)
	}
}

func TestPlaceSaysWhatStandsInTheWay(t *testing.T) {
	docker := func(p fsm.PutTemplate) fsm.PutTemplate { p.Template.Driver = "docker"; return p }
	port := func(p fsm.PutTemplate) fsm.PutTemplate {
		p.Template.Networking = &fsm.Networking{Port: 8080}
		return p
	}
	memory := func(p fsm.PutTemplate) fsm.PutTemplate { p.Template.Resources.MemoryMiB = 60 << 10; return p }
	inZone := func(p fsm.PutGroup, zones ...string) fsm.PutGroup { p.Group.Zones = zones; return p }
	for _, k := range []struct {
		name   string
		setup  []fsm.Command
		avoid  map[string]string
		count  int
		placed int
		says   string
	}{
		{
			name: "no node at all", setup: []fsm.Command{template("app", 0.5), group("web", 1, 0, 5)},
			count: 1, says: "there is no node",
		}, {
			name:  "cores in a zone",
			setup: []fsm.Command{node("n1", "a", 8), node("n2", "b", 1), template("app", 0.5), inZone(group("web", 3, 0, 5), "b")},
			count: 3, placed: 2, says: "no node in zone b has 0.5 cores free",
		}, {
			name:  "memory",
			setup: []fsm.Command{node("n1", "a", 8), memory(template("app", 0)), group("web", 2, 0, 5)},
			count: 2, placed: 1, says: "no node has 61440 MiB of memory free",
		}, {
			name:  "a fixed port is given once on a node",
			setup: []fsm.Command{node("n1", "a", 8), node("n2", "a", 8), port(template("app", 0)), group("web", 3, 0, 5)},
			count: 3, placed: 2, says: "no node has port 8080 free",
		}, {
			name:  "no driver",
			setup: []fsm.Command{node("n1", "a", 8), docker(template("app", 0)), group("web", 1, 0, 5)},
			count: 1, says: "no node has the driver docker",
		}, {
			name:  "no zone",
			setup: []fsm.Command{node("n1", "a", 8), template("app", 0), inZone(group("web", 1, 0, 5), "x", "y")},
			count: 1, says: "there is no node in zones x, y",
		}, {
			name: "several causes",
			setup: []fsm.Command{
				node("n1", "a", 8), node("n2", "a", 8), node("n3", "a", 0.2), node("n4", "a", 8), template("app", 0.5), group("web", 1, 0, 5),
				fsm.DrainNode{Node: "n1", Drain: true}, fsm.NodeDown{Node: "n2", Incarnation: 1, Term: 1},
			},
			avoid: map[string]string{"n4": "does not answer"},
			count: 1, says: "no node can take it: n1 is draining; n2 is down; n3 does not have 0.5 cores free; n4 does not answer",
		},
	} {
		t.Run(k.name, func(t *testing.T) {
			c := newCluster()
			c.must(t, k.setup...)
			got := placeIn(t, c, "web", k.count, k.avoid)
			if len(got.Nodes) != k.placed || got.Unplaced != k.count-k.placed {
				t.Errorf("placed %d, not %d; want %d placed", len(got.Nodes), got.Unplaced, k.placed)
			}
			if got.Reason != k.says {
				t.Errorf("reason %q, want %q", got.Reason, k.says)
			}
		})
	}
}

// TestPlaceAvoidsTheNodeOfAFailure: a broken node has the fewest instances,
// and would get every replacement if failures did not count.
func TestPlaceAvoidsTheNodeOfAFailure(t *testing.T) {
	c := newCluster()
	c.must(t, node("n1", "a", 8), node("n2", "a", 8), template("app", 0), group("web", 2, 0, 5),
		fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "x1", Node: "n1"}}},
		fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: "x1", State: fsm.Failed}}})
	if got := placeIn(t, c, "web", 1, nil).Nodes; got[0] != "n2" {
		t.Errorf("got %v, want n2: the instance on n1 has just failed", got)
	}
}

func TestAFailureIsForgivenAfterAWhile(t *testing.T) {
	c := newCluster()
	c.must(t, node("n1", "a", 8), node("n2", "a", 8), template("app", 0), group("web", 2, 0, 5),
		fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "x1", Node: "n1"}}},
		fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: "x1", State: fsm.Failed}}})
	s := c.State()
	g, _ := s.Groups.Get("web")
	tmpl, _ := s.TemplateAt("app", 1)
	got := scaling.Place(scaling.NewFleet(s, s.Time().Add(5*time.Minute), nil), g, tmpl, 1).Nodes
	if got[0] != "n1" {
		t.Errorf("got %v, want n1 by name: its failure is 5 minutes old", got)
	}
}

func TestPlacePrefersTheNodeWithFewerInstancesOfAnyGroup(t *testing.T) {
	c := newCluster()
	c.must(t, node("n1", "a", 8), node("n2", "a", 8), template("app", 0), group("web", 2, 0, 5), group("other", 1, 0, 5),
		fsm.LaunchInstances{Group: "other", Term: 1, Launches: []fsm.Launch{{ID: "x1", Node: "n1"}}})
	if got := placeIn(t, c, "web", 1, nil).Nodes; got[0] != "n2" {
		t.Errorf("got %v, want n2, which runs nothing", got)
	}
}

// TestADrainingNodeHasNoWeightInItsZone: what it runs is about to leave.
func TestADrainingNodeHasNoWeightInItsZone(t *testing.T) {
	c := newCluster()
	c.must(t, node("a1", "a", 8), node("a2", "a", 8), node("b1", "b", 8), template("app", 0), group("web", 5, 0, 9),
		fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "x1", Node: "a1"}, {ID: "x2", Node: "a1"}, {ID: "x3", Node: "b1"}}},
		fsm.DrainNode{Node: "a1", Drain: true})
	if got := placeIn(t, c, "web", 1, nil).Nodes; got[0] != "a2" {
		t.Errorf("got %v, want a2: zone a will be empty", got)
	}
}

func TestPlaceProperties(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		c := newCluster()
		zones := []string{"a", "b", "c"}
		for k := range rapid.IntRange(1, 8).Draw(r, "nodes") {
			name := fmt.Sprintf("n%d", k)
			c.must(t, node(name, rapid.SampledFrom(zones).Draw(r, "zone"), float64(rapid.IntRange(0, 8).Draw(r, "cores"))))
			if rapid.IntRange(0, 4).Draw(r, "drains") == 0 {
				c.must(t, fsm.DrainNode{Node: name, Drain: true})
			}
		}
		need := rapid.SampledFrom([]float64{0, 0.5, 1, 3}).Draw(r, "need")
		g := group("web", 0, 0, 1000)
		g.Group.Zones = rapid.SliceOfNDistinct(rapid.SampledFrom(zones), 0, 2, rapid.ID[string]).Draw(r, "zones")
		c.must(t, template("app", need), g)
		count := rapid.IntRange(0, 40).Draw(r, "count")
		got := placeIn(t, c, "web", count, nil)
		if again := placeIn(t, c, "web", count, nil); !slices.Equal(got.Nodes, again.Nodes) {
			r.Fatalf("not deterministic: %v, then %v", got.Nodes, again.Nodes)
		}
		checkPlacement(r, c.State(), got, count, need)
	})
}

func checkPlacement(r *rapid.T, s *fsm.State, got scaling.Placement, count int, need float64) {
	g, _ := s.Groups.Get("web")
	if len(got.Nodes)+got.Unplaced != count || (got.Unplaced > 0) != (got.Reason != "") {
		r.Fatalf("%d placed and %d not, of %d, reason %q", len(got.Nodes), got.Unplaced, count, got.Reason)
	}
	used := perNode(got.Nodes)
	room := false
	for name, n := range s.Nodes.All() {
		allowed := n.State == fsm.NodeStateReady && g.InZone(n.Zone)
		if used[name] > 0 && !allowed {
			r.Fatalf("placed on %s, which is %s in zone %s", name, n.State, n.Zone)
		}
		if float64(used[name])*need > n.Resources.CPU {
			r.Fatalf("%s has %v cores and got %d × %v", name, n.Resources.CPU, used[name], need)
		}
		room = room || (allowed && float64(used[name]+1)*need <= n.Resources.CPU)
	}
	if got.Unplaced > 0 && room {
		r.Fatalf("%d unplaced although a node has room", got.Unplaced)
	}
	if need > 0 {
		return // full nodes spoil the spread
	}
	lowest, highest := count+1, 0
	byZone := map[string]int{}
	for name, n := range s.Nodes.All() {
		if n.State == fsm.NodeStateReady && g.InZone(n.Zone) {
			byZone[n.Zone] += used[name]
		}
	}
	for _, n := range byZone {
		lowest, highest = min(lowest, n), max(highest, n)
	}
	if len(byZone) > 0 && highest-lowest > 1 {
		r.Fatalf("zones are uneven: %v", byZone)
	}
}

func TestPlacementReasonIsBounded(t *testing.T) {
	c := newCluster()
	for k := range 50 {
		name := fmt.Sprintf("a-node-with-quite-a-long-name-%02d", k)
		c.must(t, node(name, "a", 1))
		if k%2 == 0 {
			c.must(t, fsm.DrainNode{Node: name, Drain: true})
		}
	}
	c.must(t, template("app", 2), group("web", 1, 0, 5))
	got := placeIn(t, c, "web", 1, nil).Reason
	if len(got) > 256 || !strings.Contains(got, "and 22 more are draining") {
		t.Errorf("%d bytes: %s", len(got), got)
	}
}
