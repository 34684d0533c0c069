package scaling

import (
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Planner makes reconcile passes. It holds no state: two planners with the
// same fields and the same input make the same plan, but for the ids.
type Planner struct {
	Limits Limits
	// Term is the leader's; commands carry it.
	Term uint64
	// NewID makes the id of an instance, a ULID.
	NewID func() string
	// InFlight is how many requests an instance has, as far as is known; nil
	// when nothing is.
	InFlight func(instance string) float64
	// Avoid names nodes that get no new instances, and says why.
	Avoid map[string]string
	// Spared are unhealthy instances that keep their place: another node says
	// that they answer (its name is the value), or is still asking ("").
	Spared map[string]string
}

// Plan is what one reconcile pass wants done.
type Plan struct {
	Groups []GroupPlan
	// Wake is when the next pass has something to do that no event will
	// announce: the end of a back-off or of a launch window. Zero for never.
	Wake time.Time
	// More says that the pass was cut short by its limit.
	More bool
}

// GroupPlan is the part of a plan that concerns one group. Its commands are to
// be proposed in order; those of different groups are independent.
type GroupPlan struct {
	Group    string
	Commands []fsm.Command
	// Launches, of which Replacements make up for ended or leaving instances,
	// and Drains are numbers of instances.
	Launches, Replacements, Drains int
	Backoff                        Backoff
	// Placement is the pass's placement, with its reason when it fell short.
	Placement Placement
	Wake      time.Time
}

// Commands are all commands of the plan, in order.
func (p Plan) Commands() []fsm.Command {
	var list []fsm.Command
	for _, g := range p.Groups {
		list = append(list, g.Commands...)
	}
	return list
}

// Plan compares what runs with what is wanted, for every group, and returns
// the commands that bring them together. It is pure but for NewID.
func (p Planner) Plan(s *fsm.State, now time.Time) Plan {
	p.Limits = p.Limits.withDefaults()
	var out Plan
	f := NewFleet(s, now, p.Avoid)
	commands := 0
	for _, g := range s.Groups.All() {
		if commands >= p.Limits.MaxCommands {
			out.More = true
			break
		}
		gp := p.planGroup(f, g)
		commands += len(gp.Commands)
		out.Wake = sooner(out.Wake, gp.Wake)
		out.Groups = append(out.Groups, gp)
	}
	return out
}

// planGroup makes the plan of one group. Stops come before launches: at the
// maximum size they make the room.
func (p Planner) planGroup(f *Fleet, g *fsm.Group) GroupPlan {
	v := newView(f, g, p)
	switch {
	case g.Deleting:
		v.remove()
	default:
		v.scaleIn()
		v.fill()
		v.retire()
		v.forget()
	}
	return v.out
}

// sooner is the earlier of two times, where zero means never.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || (!b.IsZero() && b.Before(a)) {
		return b
	}
	return a
}
