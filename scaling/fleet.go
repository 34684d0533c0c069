package scaling

import (
	"math"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Fleet is the nodes with what is free on them, and the instances of each
// group. It is taken from one state and follows the placements of one pass: a
// placement reserves at once what it needs. It is used by one goroutine.
type Fleet struct {
	state *fsm.State
	now   time.Time
	nodes []*place
	named map[string]*place
	// groups are the instances of each group, living and ended, oldest first.
	groups    map[string][]*fsm.Instance
	templates map[templateKey]*fsm.Template
}

// place is one node as the placement sees it.
type place struct {
	node *fsm.Node
	// avoid says why the node is not to be used although its row is ready.
	avoid string
	// cpu (in thousandths of a core) and memory (in MiB) are free.
	cpu, memory int64
	living      int
	ports       map[int]bool
	// counts are the active instances of each group, and those that failed
	// here a short while ago.
	counts map[string]int
}

type templateKey struct {
	name    string
	version int
}

// NewFleet reads a fleet from a state. Nodes named in avoid get no placements;
// its values say why, as in "does not answer".
func NewFleet(s *fsm.State, now time.Time, avoid map[string]string) *Fleet {
	f := &Fleet{
		state: s, now: now, named: map[string]*place{},
		groups: map[string][]*fsm.Instance{}, templates: map[templateKey]*fsm.Template{},
	}
	for name, n := range s.Nodes.All() {
		p := &place{
			node: n, avoid: avoid[name], cpu: milli(n.Resources.CPU), memory: n.Resources.MemoryMiB,
			ports: map[int]bool{}, counts: map[string]int{},
		}
		f.nodes = append(f.nodes, p)
		f.named[name] = p
	}
	for _, i := range s.Instances.All() {
		f.groups[i.Group] = append(f.groups[i.Group], i)
		f.occupy(i)
	}
	return f
}

// occupy takes an existing instance into account. One that is draining or
// stopping still needs its resources, but is no part of the group's spread.
func (f *Fleet) occupy(i *fsm.Instance) {
	p, ok := f.named[i.Node]
	if !ok {
		return
	}
	if i.State.Active() || (i.State == fsm.Failed && f.now.Sub(i.Since) < failurePenalty) {
		p.counts[i.Group]++
	}
	if !i.State.Terminal() {
		p.reserve(f.template(i.Template, i.Version))
	}
}

// reserve takes what one instance of a template needs.
func (p *place) reserve(t *fsm.Template) {
	p.living++
	if t == nil {
		return
	}
	p.cpu -= milli(t.Resources.CPU)
	p.memory -= t.Resources.MemoryMiB
	if port := fixedPort(t); port != 0 {
		p.ports[port] = true
	}
}

// freeShare is the scarcer of the node's free resources, as a share.
func (p *place) freeShare() float64 {
	share := func(free, total int64) float64 {
		if total <= 0 {
			return 0
		}
		return float64(free) / float64(total)
	}
	r := p.node.Resources
	return min(share(p.cpu, milli(r.CPU)), share(p.memory, r.MemoryMiB))
}

// template returns a template version, or nil. Templates are stored encoded,
// so each is decoded once for a pass.
func (f *Fleet) template(name string, version int) *fsm.Template {
	key := templateKey{name, version}
	t, seen := f.templates[key]
	if !seen {
		t, _ = f.state.TemplateAt(name, version)
		f.templates[key] = t
	}
	return t
}

// ready reports whether the instance's node takes part in the fleet's work.
func (f *Fleet) ready(node string) bool {
	p, ok := f.named[node]
	return ok && p.node.State == fsm.NodeStateReady
}

// milli counts cores in thousandths: sums of integers do not drift.
func milli(cores float64) int64 { return int64(math.Round(cores * 1000)) }

func fixedPort(t *fsm.Template) int {
	if t.Networking == nil {
		return 0
	}
	return t.Networking.Port
}
