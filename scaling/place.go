package scaling

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pacelinehq/paceline/fsm"
)

// Placement is the outcome of [Place].
type Placement struct {
	// Nodes has one node name for each instance that was placed, in order.
	Nodes []string
	// Unplaced instances found no node; Causes say why, and Reason says it in
	// a sentence.
	Unplaced int
	Causes   []Cause
	Reason   string
}

// Cause is one obstacle to a placement and the nodes that it rules out.
type Cause struct {
	// Obstacle is said of each of the nodes: "does not have 0.5 cores free".
	Obstacle string
	Nodes    []string
}

// Place chooses nodes for new instances of a group, and reserves them in the
// fleet. It spreads over zones first and then over nodes: fewest active
// instances of the group, then most free resources, then fewest instances of
// any group, then name. The same fleet always gives the same placement.
func Place(f *Fleet, g *fsm.Group, t *fsm.Template, count int) Placement {
	var out Placement
	candidates := f.candidates(g, t)
	zones := map[string]int{}
	for _, p := range f.nodes {
		// Only nodes that can be chosen weigh in their zone: what a draining
		// node still runs is about to leave it.
		if g.InZone(p.node.Zone) && p.node.State == fsm.NodeStateReady {
			zones[p.node.Zone] += p.counts[g.Name]
		}
	}
	for range count {
		best := pick(candidates, g.Name, t, zones)
		if best == nil {
			break
		}
		best.reserve(t)
		best.counts[g.Name]++
		zones[best.node.Zone]++
		out.Nodes = append(out.Nodes, best.node.Name)
	}
	if out.Unplaced = count - len(out.Nodes); out.Unplaced > 0 {
		out.Causes, out.Reason = f.why(g, t)
	}
	return out
}

// candidates are the nodes that may run the template at all, full or not.
func (f *Fleet) candidates(g *fsm.Group, t *fsm.Template) []*place {
	var list []*place
	for _, p := range f.nodes {
		if g.InZone(p.node.Zone) && p.barred(t) == "" {
			list = append(list, p)
		}
	}
	return list
}

// barred says what keeps a node from running the template at all, or "".
func (p *place) barred(t *fsm.Template) string {
	switch {
	case p.node.State != fsm.NodeStateReady:
		return "is " + string(p.node.State)
	case p.avoid != "":
		return p.avoid
	case !slices.Contains(p.node.Drivers, t.Driver):
		return fmt.Sprintf("does not have the driver %s", t.Driver)
	}
	return ""
}

// full says what the node lacks at present for one instance, or "".
func (p *place) full(t *fsm.Template) string {
	need := t.Resources
	switch {
	case milli(need.CPU) > 0 && p.cpu < milli(need.CPU):
		return fmt.Sprintf("does not have %s free", coresText(need.CPU))
	case need.MemoryMiB > 0 && p.memory < need.MemoryMiB:
		return fmt.Sprintf("does not have %d MiB of memory free", need.MemoryMiB)
	case fixedPort(t) != 0 && p.ports[fixedPort(t)]:
		return fmt.Sprintf("does not have port %d free", fixedPort(t))
	}
	return ""
}

func pick(candidates []*place, group string, t *fsm.Template, zones map[string]int) *place {
	var best *place
	for _, p := range candidates {
		if p.full(t) == "" && (best == nil || p.before(best, group, zones) < 0) {
			best = p
		}
	}
	return best
}

// before orders two nodes: the better choice for the group's next instance
// comes first.
func (p *place) before(o *place, group string, zones map[string]int) int {
	if c := cmp.Compare(zones[p.node.Zone], zones[o.node.Zone]); c != 0 {
		return c
	}
	if c := cmp.Compare(p.counts[group], o.counts[group]); c != 0 {
		return c
	}
	if c := cmp.Compare(o.freeShare(), p.freeShare()); c != 0 {
		return c
	}
	if c := cmp.Compare(p.living, o.living); c != 0 {
		return c
	}
	return cmp.Compare(p.node.Name, o.node.Name)
}

// why collects, over all nodes of the group's zones, what stands in the way of
// one more instance.
func (f *Fleet) why(g *fsm.Group, t *fsm.Template) ([]Cause, string) {
	var causes []Cause
	nodes := 0
	for _, p := range f.nodes {
		if !g.InZone(p.node.Zone) {
			continue
		}
		nodes++
		obstacle := cmp.Or(p.barred(t), p.full(t))
		k := slices.IndexFunc(causes, func(c Cause) bool { return c.Obstacle == obstacle })
		if k < 0 {
			causes = append(causes, Cause{Obstacle: obstacle})
			k = len(causes) - 1
		}
		causes[k].Nodes = append(causes[k].Nodes, p.node.Name)
	}
	return causes, placementReason(causes, g, nodes)
}

// placementReason is one sentence: short when every node lacks the same.
func placementReason(causes []Cause, g *fsm.Group, nodes int) string {
	where := zonesText(g.Zones)
	if nodes == 0 {
		return "there is no node" + where
	}
	if lacks, ok := strings.CutPrefix(causes[0].Obstacle, "does not have "); ok && len(causes) == 1 {
		return fmt.Sprintf("no node%s has %s", where, lacks)
	}
	parts := make([]string, len(causes))
	for k, c := range causes {
		parts[k] = listed(c.Nodes) + " " + c.Obstacle
		if len(c.Nodes) > 1 {
			parts[k] = listed(c.Nodes) + " " + pluralVerb(c.Obstacle)
		}
	}
	return shorten(fmt.Sprintf("no node%s can take it: %s", where, strings.Join(parts, "; ")))
}

// pluralVerb turns "is draining" into "are draining".
func pluralVerb(obstacle string) string {
	if rest, ok := strings.CutPrefix(obstacle, "is "); ok {
		return "are " + rest
	}
	if rest, ok := strings.CutPrefix(obstacle, "does "); ok {
		return "do " + rest
	}
	return obstacle
}

func zonesText(zones []string) string {
	switch len(zones) {
	case 0:
		return ""
	case 1:
		return " in zone " + zones[0]
	}
	return " in zones " + listed(zones)
}

func coresText(cpu float64) string {
	if cpu == 1 {
		return "1 core"
	}
	return number(cpu) + " cores"
}
