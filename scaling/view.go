package scaling

import (
	"cmp"
	"slices"

	"github.com/pacelinehq/paceline/fsm"
)

// view is one group under planning: its instances sorted by what they are
// good for.
type view struct {
	Planner
	fleet    *Fleet
	group    *fsm.Group
	template *fsm.Template
	all      []*fsm.Instance

	// usable instances are those that the group can count on, now or soon, or
	// that are spared; leaving ones are active, but unhealthy or on a node that is being
	// emptied; ending ones drain or stop; ended ones are rows only.
	usable, leaving, ending, ended []*fsm.Instance
	out                            GroupPlan
}

func newView(f *Fleet, g *fsm.Group, p Planner) *view {
	v := &view{
		Planner: p, fleet: f, group: g, template: f.template(g.Template, g.Version), all: f.groups[g.Name],
		out: GroupPlan{Group: g.Name},
	}
	for _, i := range v.all {
		switch {
		case i.State.Terminal():
			v.ended = append(v.ended, i)
		case !i.State.Active():
			v.ending = append(v.ending, i)
		case !f.ready(i.Node) || sick(i) && !v.spared(i):
			v.leaving = append(v.leaving, i)
		default:
			v.usable = append(v.usable, i)
		}
	}
	v.out.Backoff = backoffOf(g, v.template, v.all, f.now, p.Limits)
	return v
}

func (v *view) spared(i *fsm.Instance) bool {
	_, yes := v.Spared[i.ID]
	return yes
}

func sick(i *fsm.Instance) bool { return i.State == fsm.Running && i.Health == fsm.Unhealthy }

// sickIn counts the unhealthy ones.
func sickIn(list []*fsm.Instance) (n int) {
	for _, i := range list {
		if sick(i) {
			n++
		}
	}
	return n
}

func serves(i *fsm.Instance) bool { return i.State == fsm.Running && i.Health == fsm.Healthy }

// active is the number that the state holds against the group's maximum.
func (v *view) active() int { return len(v.usable) + len(v.leaving) }

// ready is how many of the usable instances are running and healthy.
func (v *view) ready() int {
	n := 0
	for _, i := range v.usable {
		if serves(i) {
			n++
		}
	}
	return n
}

// inFlux is how many instances are on their way in or out.
func (v *view) inFlux() int { return len(v.ending) + len(v.usable) - v.ready() }

// victimOrder is who goes first in a scale-in: what does not serve yet, then
// who has the fewest sessions, the fewest requests, and the newest.
func (v *view) victimOrder() func(a, b *fsm.Instance) int {
	sessions := map[string]int{}
	if v.group.Service != nil {
		for _, slot := range v.fleet.state.SessionStats(v.group.Name).Slots {
			sessions[slot.Instance] += slot.Sessions
		}
	}
	inFlight := map[string]float64{} // read once: it changes while a list is sorted
	if v.InFlight != nil {
		for _, i := range v.usable {
			inFlight[i.ID] = v.InFlight(i.ID)
		}
	}
	return func(a, b *fsm.Instance) int {
		return cmp.Or(
			cmp.Compare(victimRank(a), victimRank(b)), cmp.Compare(sessions[a.ID], sessions[b.ID]),
			cmp.Compare(inFlight[a.ID], inFlight[b.ID]), b.LaunchedAt.Compare(a.LaunchedAt), cmp.Compare(b.ID, a.ID))
	}
}

func victimRank(i *fsm.Instance) int {
	switch {
	case i.State == fsm.Planned:
		return 0
	case i.State == fsm.Starting:
		return 1
	case !serves(i):
		return 2
	}
	return 3
}

// leaverOrder is who goes first of those that are to be replaced: what does
// not serve, then the oldest.
func leaverOrder(a, b *fsm.Instance) int {
	return cmp.Or(cmp.Compare(victimRank(a), victimRank(b)), cmp.Compare(a.ID, b.ID))
}

// stop adds commands that drain instances, and counts them as ending.
func (v *view) stop(list []*fsm.Instance, cause string) {
	if len(list) == 0 {
		return
	}
	for chunk := range slices.Chunk(list, idsPerCommand) {
		v.out.Commands = append(v.out.Commands, fsm.StopInstances{
			Instances: ids(chunk), Cause: shorten(cause), Term: v.Term,
		})
	}
	v.out.Drains += len(list)
	v.ending = append(v.ending, list...)
}

// take removes the first n instances of a list, in an order, and returns them.
func take(list *[]*fsm.Instance, n int, order func(a, b *fsm.Instance) int) []*fsm.Instance {
	sorted := slices.SortedFunc(slices.Values(*list), order)
	n = max(0, min(n, len(sorted)))
	*list = sorted[n:]
	return sorted[:n:n]
}

func ids(list []*fsm.Instance) []string {
	out := make([]string, len(list))
	for k, i := range list {
		out[k] = i.ID
	}
	return out
}
