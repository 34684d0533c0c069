package httpapi

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// eventsOf derives the events of a change set. It is a pure function of the
// change set, so that an event has the same id on every node.
func eventsOf(set fsm.ChangeSet) []client.Event {
	if set.Reset {
		return []client.Event{{
			ID: eventID(set.Index, 1), Index: set.Index, At: set.Time, Type: client.EventReset,
			Message: "the state was replaced by a snapshot; read again what you need",
		}}
	}
	var out []client.Event
	for _, change := range set.Changes {
		e, ok := eventOf(change)
		if !ok {
			continue
		}
		e.Index, e.At, e.ID = set.Index, set.Time, eventID(set.Index, len(out)+1)
		out = append(out, e)
	}
	return out
}

func eventID(index uint64, n int) string {
	return strconv.FormatUint(index, 10) + "." + strconv.Itoa(n)
}

// place is where a reader is in the stream.
type place struct {
	index uint64
	n     int
}

func (p place) before(q place) bool {
	return p.index < q.index || (p.index == q.index && p.n < q.n)
}

func placeOf(id string) (place, bool) {
	a, b, ok := strings.Cut(id, ".")
	index, err := strconv.ParseUint(a, 10, 64)
	n, err2 := strconv.Atoi(b)
	return place{index, n}, ok && err == nil && err2 == nil && n >= 0
}

// eventOf turns one changed row into an event. Rows that say the same as
// another row of their command (a new group and its activity) give one event.
func eventOf(c fsm.Change) (client.Event, bool) {
	switch row := either(c).(type) {
	case *fsm.Activity:
		return activityEvent(c, row)
	case *fsm.Instance:
		return instanceEvent(c, row)
	case *fsm.Node:
		return nodeEvent(c, row)
	case *fsm.Group:
		return groupEvent(c, row)
	case *fsm.Template:
		return templateEvent(c, row)
	case *fsm.Policy:
		return policyEvent(c, row)
	case *fsm.Quarantined:
		return client.Event{Type: "entry.quarantined",
			Message: fmt.Sprintf("command %s of entry %d panicked and was left out: %s", row.Command, row.Index, row.Panic)}, !c.Removed()
	}
	return client.Event{}, false
}

// heard lists the tables whose changes eventOf looks at.
var heard = []string{"activities", "instances", "nodes", "groups", "templates", "policies", "quarantine"}

// unheard reports whether a change never becomes an event: that of a session
// or its data, of the keys that seal cookies, of bookkeeping.
func unheard(c fsm.Change) bool { return c.Withheld() || !slices.Contains(heard, c.Table) }

func either(c fsm.Change) any {
	if !c.Removed() {
		return c.New()
	}
	return c.Old()
}

func activityEvent(c fsm.Change, a *fsm.Activity) (client.Event, bool) {
	e := client.Event{Type: "group." + a.Type, Group: a.Group, Policy: a.Policy, Actor: a.Actor}
	if len(a.Instances) == 1 {
		e.Instance = a.Instances[0]
	}
	switch a.Type {
	case fsm.ActivityScaled:
		e.Message = fmt.Sprintf("group %s was scaled from %d to %d: %s", a.Group, a.From, a.To, a.Cause)
	case fsm.ActivityCreated:
		e.Message = fmt.Sprintf("group %s was created with %d instances", a.Group, a.To)
	case fsm.ActivityDeleted:
		e.Message = fmt.Sprintf("group %s is being deleted", a.Group)
	default:
		e.Message = fmt.Sprintf("group %s: %s %s: %s", a.Group, a.Type, count(a.Count, "instance"), a.Cause)
	}
	return e, !c.Removed()
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

func instanceEvent(c fsm.Change, i *fsm.Instance) (client.Event, bool) {
	if c.Removed() {
		return client.Event{}, false // an ended instance that is forgotten is no news
	}
	e := client.Event{Group: i.Group, Instance: i.ID, Node: i.Node, Template: i.Template}
	old, _ := c.Old().(*fsm.Instance)
	switch {
	case old == nil || old.State != i.State:
		e.Type = "instance." + string(i.State)
		e.Message = fmt.Sprintf("instance %s of group %s is %s on node %s%s", i.ID, i.Group, i.State, i.Node, because(i.Reason))
	case old.Health != i.Health && i.Health != fsm.Unknown:
		e.Type = "instance." + string(i.Health)
		if i.HealthReason == fsm.HealthFlapping {
			e.Type = "instance." + fsm.HealthFlapping
		}
		e.Message = fmt.Sprintf("instance %s of group %s is %s%s", i.ID, i.Group, i.Health, because(i.Reason))
	default:
		return e, false
	}
	return e, true
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func nodeEvent(c fsm.Change, n *fsm.Node) (client.Event, bool) {
	e := client.Event{Node: n.Name}
	old, _ := c.Old().(*fsm.Node)
	switch {
	case c.Removed():
		e.Type, e.Message = "node.removed", fmt.Sprintf("node %s was removed", n.Name)
	case old == nil:
		e.Type, e.Message = "node.joined", fmt.Sprintf("node %s has joined", n.Name)
	case old.Incarnation != n.Incarnation:
		e.Type, e.Message = "node.restarted", fmt.Sprintf("node %s has started again", n.Name)
	case old.State != n.State:
		e.Type = "node." + string(n.State)
		e.Message = fmt.Sprintf("node %s is %s%s", n.Name, n.State, because(n.Reason))
	default:
		return e, false
	}
	return e, true
}

func groupEvent(c fsm.Change, g *fsm.Group) (client.Event, bool) {
	e := client.Event{Group: g.Name, Template: g.Template}
	old, _ := c.Old().(*fsm.Group)
	if c.Removed() {
		e.Type, e.Message = "group.removed", fmt.Sprintf("group %s was removed", g.Name)
		return e, true
	}
	if old == nil || g.Deleting {
		return e, false // its activity tells
	}
	same := *g
	same.Desired, same.LastScaledAt, same.WokenAt = old.Desired, old.LastScaledAt, old.WokenAt
	same.UpdatedAt, same.Revision = old.UpdatedAt, old.Revision
	if reflect.DeepEqual(&same, old) {
		return e, false // only its size has changed
	}
	e.Type = "group.updated"
	e.Message = fmt.Sprintf("group %s was changed: template %s version %d, size %d to %d", g.Name, g.Template, g.Version, g.MinSize, g.MaxSize)
	return e, true
}

func templateEvent(c fsm.Change, t *fsm.Template) (client.Event, bool) {
	if c.Table != "templates" {
		return client.Event{}, false // a superseded version being kept
	}
	e := client.Event{Template: t.Name}
	switch {
	case c.Removed():
		e.Type, e.Message = "template.deleted", fmt.Sprintf("template %s was deleted", t.Name)
	case c.Created():
		e.Type, e.Message = "template.created", fmt.Sprintf("template %s was created", t.Name)
	default:
		e.Type, e.Message = "template.updated", fmt.Sprintf("template %s has version %d", t.Name, t.Version)
	}
	return e, true
}

func policyEvent(c fsm.Change, p *fsm.Policy) (client.Event, bool) {
	e := client.Event{Group: p.Group, Policy: p.Name}
	old, _ := c.Old().(*fsm.Policy)
	switch {
	case c.Removed():
		e.Type, e.Message = "policy.deleted", fmt.Sprintf("policy %s of group %s was deleted", p.Name, p.Group)
	case old == nil:
		e.Type, e.Message = "policy.created", fmt.Sprintf("policy %s of group %s was created", p.Name, p.Group)
	case !old.LastTriggeredAt.Equal(p.LastTriggeredAt):
		return e, false // the group's activity tells
	default:
		e.Type, e.Message = "policy.updated", fmt.Sprintf("policy %s of group %s was changed", p.Name, p.Group)
	}
	return e, true
}
