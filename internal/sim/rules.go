package sim

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// settleTime is how long what a control loop had seen may be old when its
// proposal is applied.
const settleTime = 5 * time.Second

// rules are what every state, and every step from one to the next, must hold
// to. They are checked for each entry of the committed log.
type rules struct {
	w *World
	// applied is where the write of each actor took effect.
	applied map[string][]uint64
	// requests is where each request id took effect.
	requests map[string][]uint64
	// claims is where each instance became starting; known are all there were.
	claims map[string]claim
	known  map[string]bool
	// unrest is the log time of the last change that makes a plan old: of a
	// size, of a health, of a node.
	unrest map[string]time.Time
	// returned is the log time at which an instance got well again, or a node
	// became ready again.
	returned map[string]time.Time
	// sizes are the sizes that each group had before its present one.
	sizes map[string][]pastSize
	// declared are the limits that the users gave.
	declared map[string]fsm.Group

	decisions, scalings, launches, quarantined int
}

// pastSize is a desired size and the log time at which it was replaced.
type pastSize struct {
	size  int
	until time.Time
}

type claim struct {
	index uint64
	node  string
}

func newRules(w *World) *rules {
	r := &rules{
		w: w, applied: map[string][]uint64{}, requests: map[string][]uint64{}, claims: map[string]claim{},
		known: map[string]bool{}, unrest: map[string]time.Time{}, declared: map[string]fsm.Group{},
		returned: map[string]time.Time{}, sizes: map[string][]pastSize{},
	}
	for _, g := range autoGroups() {
		r.declared[g.Name] = g
	}
	return r
}

// inspect checks one entry, between the states before and after it.
func (r *rules) inspect(prev, next *fsm.State, term uint64, e *fsm.Entry, o *fsm.Outcome) {
	if o.Duplicate || o.Skipped {
		return
	}
	if next.Time().Before(prev.Time()) {
		r.w.violate("log time", "it goes back at index %d", next.Index())
	}
	// The changes come first: what else the entry did, as bringing a node back,
	// a plan in it can not have known.
	for _, c := range o.Changes {
		r.change(next, c)
	}
	for k, c := range e.Commands {
		if o.Errs[k] != nil || o.Results[k].Replayed {
			continue
		}
		r.applied[c.Actor] = append(r.applied[c.Actor], o.Index)
		if c.RequestID != "" {
			r.requests[c.RequestID] = append(r.requests[c.RequestID], o.Index)
			if len(r.requests[c.RequestID]) > 1 {
				r.w.violate("request applied once", "%s has taken effect at %v", c.RequestID, r.requests[c.RequestID])
			}
		}
		r.command(prev, next, term, c)
	}
	r.standing(prev, next)
	if n := next.Quarantine.Len(); n > r.quarantined {
		r.quarantined = n
		r.w.violate("no panic", "a command was quarantined at index %d", next.Index())
	}
}

// command checks what the leader's loops have proposed.
func (r *rules) command(prev, next *fsm.State, term uint64, c fsm.Envelope) {
	switch c.Name {
	case "LaunchInstances":
		var l fsm.LaunchInstances
		if r.decode(c, &l) {
			r.launches += len(l.Launches)
			r.fenced(c.Name, l.Term, term, next)
			r.overshoot(next, l.Group)
		}
	case "StopInstances":
		var d fsm.StopInstances
		if r.decode(c, &d) && d.Term != 0 {
			r.fenced(c.Name, d.Term, term, next)
			r.thinned(prev, next)
		}
	case "RecordDecision":
		var d fsm.RecordDecision
		if r.decode(c, &d) {
			r.fenced(c.Name, d.Term, term, next)
			r.decided(prev, next, &d.Decision)
		}
	case "NodeDown":
		var d fsm.NodeDown
		if r.decode(c, &d) {
			r.fenced(c.Name, d.Term, term, next)
		}
	}
}

func (r *rules) decode(c fsm.Envelope, into any) bool {
	if err := json.Unmarshal(c.Body, into); err != nil {
		r.w.violate("log", "a %s does not decode: %v", c.Name, err)
		return false
	}
	return true
}

// fenced sees that no loop of an earlier leader has acted.
func (r *rules) fenced(name string, planned, term uint64, s *fsm.State) {
	if planned != term {
		r.w.violate("I4 fenced", "a %s planned in term %d took effect in term %d, at index %d", name, planned, term, s.Index())
	}
}

// overshoot sees that launches do not exceed what was missing: a loop that
// proposes the same twice does. The plan may be a little old: it counts what
// was desired a moment ago, and not what has come back since.
func (r *rules) overshoot(s *fsm.State, group string) {
	g, ok := s.Groups.Get(group)
	if !ok {
		return
	}
	wanted := g.Desired
	for _, d := range r.sizes[group] {
		if s.Time().Sub(d.until) < settleTime {
			wanted = max(wanted, d.size)
		}
	}
	usable := 0
	var all []string // for whoever has to find out why
	for id, i := range s.InstancesOf(group) {
		n, ok := s.Nodes.Get(i.Node)
		sick := i.State == fsm.Running && i.Health == fsm.Unhealthy
		back := s.Time().Sub(r.returned[id]) < settleTime || s.Time().Sub(r.returned[i.Node]) < settleTime
		if i.State.Active() && !sick && !back && ok && n.State == fsm.NodeStateReady {
			usable++
			all = append(all, fmt.Sprintf("%s on %s is %s, %s, since %v", id, i.Node, i.State, i.Health, s.Time().Sub(i.LaunchedAt)))
		}
	}
	if usable > wanted {
		r.w.violate("launches are wanted", "group %s has %d usable instances after a launch at index %d, at most %d were desired: %s",
			group, usable, s.Index(), wanted, strings.Join(all, "; "))
	}
}

// thinned sees that what a loop takes away never leaves a group below its
// minimum by more than the share that may be given up at once when it is full.
func (r *rules) thinned(prev, next *fsm.State) {
	for name, d := range r.declared {
		g, ok := next.Groups.Get(name)
		if !ok || drained(prev, next, name) == 0 || r.restless(next, name) {
			continue
		}
		if n := active(next, name); n < d.MinSize-max(1, g.Desired/4) {
			r.w.violate("I7 limits", "group %s was drained to %d at index %d, its minimum is %d", name, n, next.Index(), d.MinSize)
		}
	}
}

// restless reports whether something has changed so lately that a proposal may
// rest on what was before.
func (r *rules) restless(s *fsm.State, group string) bool {
	return s.Time().Sub(r.unrest[group]) < settleTime || s.Time().Sub(r.unrest[""]) < settleTime
}

// decided sees that a decision which changes a size respects the cooldown of
// its policy, whoever led at the last change (I9).
func (r *rules) decided(prev, next *fsm.State, d *fsm.Decision) {
	r.decisions++
	if d.From == d.To {
		return
	}
	r.scalings++
	p, okP := declaredPolicy(d.Group, d.Winner)
	g, okG := prev.Groups.Get(d.Group)
	if !okP || !okG {
		return
	}
	last := g.LastScaledAt
	if row, ok := prev.Policies.Get(d.Group + "/" + d.Winner); ok && row.LastTriggeredAt.After(last) {
		last = row.LastTriggeredAt
	}
	if gap := next.Time().Sub(last); !last.IsZero() && gap < p.Cooldown.Std() {
		r.w.violate("I9 cooldown", "policy %s of group %s acted %s after the last change, its cooldown is %s (index %d)", d.Winner, d.Group, gap, p.Cooldown.Std(), next.Index())
	}
}

// change checks one row that was written.
func (r *rules) change(s *fsm.State, c fsm.Change) {
	switch c.Table {
	case "instances":
		old, _ := c.Old().(*fsm.Instance)
		now, _ := c.New().(*fsm.Instance)
		r.instance(s, c.Key, old, now)
	case "nodes":
		old, _ := c.Old().(*fsm.Node)
		now, _ := c.New().(*fsm.Node)
		if old == nil || now == nil || old.State != now.State || old.Incarnation != now.Incarnation {
			r.unrest[""] = s.Time()
		}
		if old != nil && now != nil && old.State != fsm.NodeStateReady && now.State == fsm.NodeStateReady {
			r.returned[c.Key] = s.Time()
		}
	case "groups":
		old, _ := c.Old().(*fsm.Group)
		now, _ := c.New().(*fsm.Group)
		if old == nil || now == nil || old.Desired != now.Desired {
			r.unrest[c.Key] = s.Time()
		}
		if _, auto := r.declared[c.Key]; auto && old != nil && now != nil && old.Desired != now.Desired {
			r.sizes[c.Key] = append(r.sizes[c.Key], pastSize{old.Desired, s.Time()})
		}
	}
}

// instance checks one step of an instance's life.
func (r *rules) instance(s *fsm.State, id string, old, now *fsm.Instance) {
	switch {
	case now == nil:
		if !old.State.Terminal() {
			r.w.violate("instance steps", "%s was forgotten while it was %s", id, old.State)
		}
	case old == nil:
		if now.State != fsm.Planned || r.known[id] {
			r.w.violate("instance steps", "%s begins as %s (known before: %v)", id, now.State, r.known[id])
		}
		r.known[id] = true
	default:
		if old.State != now.State && !fsm.CanStep(old.State, now.State) {
			r.w.violate("instance steps", "%s went from %s to %s at index %d", id, old.State, now.State, s.Index())
		}
		if old.Node != now.Node || old.Group != now.Group {
			r.w.violate("instance steps", "%s moved from %s/%s to %s/%s", id, old.Group, old.Node, now.Group, now.Node)
		}
		if old.Health != now.Health || old.State != now.State && (now.State == fsm.Lost || now.State == fsm.Failed) {
			r.unrest[now.Group] = s.Time()
		}
		if old.Health == fsm.Unhealthy && now.Health == fsm.Healthy {
			r.returned[id] = s.Time()
		}
		if now.State == fsm.Starting && old.State == fsm.Planned {
			r.claims[id] = claim{s.Index(), now.Node}
		}
	}
}

// standing checks what must hold in every state (I7).
func (r *rules) standing(prev, next *fsm.State) {
	for name, g := range next.Groups.All() {
		if g.Desired < g.MinSize || g.Desired > g.MaxSize {
			r.w.violate("I7 limits", "group %s desires %d, outside [%d, %d], at index %d", name, g.Desired, g.MinSize, g.MaxSize, next.Index())
		}
		d, ok := r.declared[name]
		if !ok {
			continue
		}
		if g.MinSize != d.MinSize || g.MaxSize != d.MaxSize {
			r.w.violate("I7 limits", "group %s has limits [%d, %d] that no user gave, at index %d", name, g.MinSize, g.MaxSize, next.Index())
		}
		n := active(next, name)
		if n > d.MaxSize {
			r.w.violate("I7 limits", "group %s has %d active instances at index %d, above its maximum %d", name, n, next.Index(), d.MaxSize)
		}
	}
	for id, i := range next.Instances.All() {
		n, ok := next.Nodes.Get(i.Node)
		if !i.State.Terminal() && (!ok || n.State == fsm.NodeStateDown) {
			r.w.violate("instances live on nodes", "%s is %s on node %s, which is gone, at index %d", id, i.State, i.Node, next.Index())
		}
	}
	if next.Instances.Len() != next.GroupInstances.Len() {
		r.w.violate("index", "%d instances, %d rows in their index, at index %d", next.Instances.Len(), next.GroupInstances.Len(), next.Index())
	}
}

func active(s *fsm.State, group string) int {
	n := 0
	for _, i := range s.InstancesOf(group) {
		if i.State.Active() {
			n++
		}
	}
	return n
}

// drained counts the healthy instances that a step has told to end.
func drained(prev, next *fsm.State, group string) int {
	n := 0
	for id, i := range next.InstancesOf(group) {
		old, ok := prev.Instances.Get(id)
		if ok && i.State == fsm.Draining && old.State == fsm.Running && old.Health == fsm.Healthy {
			n++
		}
	}
	return n
}

// finish checks what can be said at the end only.
func (r *rules) finish(_ *fsm.State, launches []launch) {
	for _, l := range launches {
		c, claimed := r.claims[l.id]
		switch {
		case !claimed:
			r.w.violate("claim before launch", "%s: the log has no claim of it", l)
		case c.node != l.node:
			r.w.violate("claim before launch", "%s: it was placed on %s", l, c.node)
		case c.index > l.index:
			r.w.violate("claim before launch", "%s: its claim has index %d", l, c.index)
		}
	}
}

func itoa[T int | uint64](n T) string { return strconv.FormatInt(int64(n), 10) }
