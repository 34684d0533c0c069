package scaling

import (
	"fmt"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// GroupExplanation says why a group looks as it does.
type GroupExplanation struct {
	Group   string `json:"group"`
	Desired int    `json:"desired"`
	// Active instances are planned, starting or running.
	Active    int `json:"active"`
	Running   int `json:"running"`
	Healthy   int `json:"healthy"`
	Unhealthy int `json:"unhealthy"`
	// Doubted instances are unhealthy for their own node, but answer another
	// one, and are not replaced.
	Doubted  int `json:"doubted,omitempty"`
	Draining int `json:"draining"`
	// Failures is the number of failures in a row; LastFailure is the reason
	// of the newest, and NextLaunchAt the end of the back-off, if one holds.
	Failures     int       `json:"failures,omitempty"`
	LastFailure  string    `json:"lastFailure,omitempty"`
	NextLaunchAt time.Time `json:"nextLaunchAt,omitzero"`
	// Unplaced instances find no node, for the reason given.
	Unplaced       int    `json:"unplaced,omitempty"`
	UnplacedReason string `json:"unplacedReason,omitempty"`
	// Sentence is all of it for a human.
	Sentence string `json:"sentence"`
}

// Explain says how a group stands and what it waits for. It works on any
// node's state: it makes the plan that the leader would make, and reads it.
// spared is what [Reconciler.Doubted] says on the leader.
func Explain(s *fsm.State, group string, now time.Time, lim Limits, spared map[string]string) (GroupExplanation, error) {
	g, err := s.Groups.Lookup(group)
	if err != nil {
		return GroupExplanation{}, err
	}
	p := Planner{Limits: lim.withDefaults(), NewID: func() string { return "" }, Spared: spared}
	f := NewFleet(s, now, nil)
	before := newView(f, g, p)
	plan := p.planGroup(f, g)
	e := GroupExplanation{
		Group: group, Desired: g.Desired, Active: before.active(), Healthy: before.ready(), Draining: len(before.ending),
		Failures: plan.Backoff.Failures, LastFailure: plan.Backoff.Reason,
		Unplaced: plan.Placement.Unplaced, UnplacedReason: plan.Placement.Reason,
	}
	e.count(before)
	if len(before.usable) < g.Desired {
		e.NextLaunchAt = plan.Backoff.Until
	}
	e.Sentence = e.sentence(before, now)
	return e, nil
}

func (e *GroupExplanation) count(v *view) {
	for _, i := range v.all {
		if i.State == fsm.Running {
			e.Running++
		}
		if sick(i) {
			e.Unhealthy++
			if v.Spared[i.ID] != "" && v.fleet.ready(i.Node) {
				e.Doubted++
			}
		}
	}
	for _, i := range v.leaving {
		if serves(i) {
			e.Healthy++
		}
	}
}

func (e *GroupExplanation) sentence(v *view, now time.Time) string {
	parts := []string{fmt.Sprintf("%d of %d running", e.Running, e.Desired)}
	say := func(is bool, format string, args ...any) {
		if is {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	if v.group.Deleting {
		parts[0] = fmt.Sprintf("being deleted; %s left", plural(e.Active+e.Draining, "instance"))
	}
	begun := e.Active - e.Running
	say(begun > 0, "%d starting", begun)
	unknown := e.Running - e.Healthy - e.Unhealthy
	say(unknown > 0, "%d not checked yet", unknown)
	say(e.Unhealthy > 0, "%d unhealthy", e.Unhealthy)
	say(e.Doubted > 0, "%d of them not replaced, because another node gets good answers", e.Doubted)
	moving := len(v.leaving) - sickIn(v.leaving)
	say(moving > 0 && !v.group.Deleting, "%d to be moved off their node", moving)
	say(e.Draining > 0 && !v.group.Deleting, "%d draining", e.Draining)
	say(e.Unplaced > 0, "%d can not be placed: %s", e.Unplaced, e.UnplacedReason)
	say(v.template == nil, "template %s has no version %d", v.group.Template, v.group.Version)
	say(!e.NextLaunchAt.IsZero(), "next launch in %s after %s: %s",
		seconds(e.NextLaunchAt.Sub(now)), plural(e.Failures, "failure"), e.LastFailure)
	return strings.Join(parts, "; ")
}
