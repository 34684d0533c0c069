package fsm

import (
	"iter"
	"reflect"
	"slices"
	"time"
)

// Group is a set of instances of one template version that the cluster keeps
// at its desired size.
type Group struct {
	Name     string `json:"name"`
	Template string `json:"template"`
	// Version is the template version that new instances get. 0 in a request
	// means the template's current version.
	Version int `json:"version,omitempty"`
	MinSize int `json:"minSize"`
	MaxSize int `json:"maxSize"`
	// Desired is the size that the reconciler holds; it always lies within
	// [MinSize, MaxSize]. A PUT that leaves it out keeps the present size.
	Desired int `json:"desired"`
	// Zones limits placement; empty means every zone.
	Zones  []string          `json:"zones,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
	// Service routes traffic to the group's instances; nil for none.
	Service *Service `json:"service,omitempty"`

	// Deleting is set while a deleted group's instances are drained.
	Deleting bool `json:"deleting,omitempty"`
	// LastScaledAt is the log time of the last change of Desired.
	LastScaledAt time.Time `json:"lastScaledAt,omitzero"`
	// WokenAt is the log time at which a request last brought the group up
	// from 0.
	WokenAt   time.Time `json:"wokenAt,omitzero"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
	Revision  uint64    `json:"revision"`
}

var groupTable = tableSpec[Group]{
	name: "groups", noun: "group",
	key:   func(g *Group) string { return g.Name },
	stamp: func(g *Group, r uint64) { g.Revision = r },
}

// GroupInstance is the index from a group to its instances.
type GroupInstance struct {
	Group    string `json:"group"`
	Instance string `json:"instance"`
}

var groupInstanceTable = tableSpec[GroupInstance]{
	name: "groupInstances", noun: "instance",
	key: func(g *GroupInstance) string { return g.Group + "/" + g.Instance },
}

// Validate returns every problem of the group as one error. It does not know
// the other nouns; Apply checks that the template exists.
func (g *Group) Validate() error {
	var f fieldErrors
	f.name("name", g.Name)
	f.name("template", g.Template)
	f.check(g.Version >= 0, "version", "must be a version of the template, or 0 for the current one")
	f.check(g.MinSize >= 0, "minSize", "must be 0 or more")
	f.check(g.MaxSize <= maxGroupSize, "maxSize", "must be at most %d", maxGroupSize)
	f.check(g.MinSize <= g.MaxSize, "minSize", "is %d, above maxSize %d", g.MinSize, g.MaxSize)
	f.check(g.Desired >= g.MinSize && g.Desired <= g.MaxSize, "desired",
		"is %d, outside [minSize %d, maxSize %d]", g.Desired, g.MinSize, g.MaxSize)
	f.check(len(g.Zones) <= maxZones, "zones", "has %d entries, at most %d are allowed", len(g.Zones), maxZones)
	for _, z := range g.Zones {
		f.name("zones", z)
	}
	f.labels("labels", g.Labels)
	if g.Service != nil {
		g.Service.validate(&f)
	}
	return f.err("group", g.Name)
}

// InstancesOf yields the instances of a group, living and ended, oldest
// first: instance ids are ULIDs.
func (s *State) InstancesOf(group string) iter.Seq2[string, *Instance] {
	return func(yield func(string, *Instance) bool) {
		for _, gi := range s.GroupInstances.Prefix(group + "/") {
			i, ok := s.Instances.Get(gi.Instance)
			if ok && !yield(gi.Instance, i) {
				return
			}
		}
	}
}

// PutGroup creates or replaces a group. Replacing keeps its instances; those
// of another template version stay until they are replaced.
type PutGroup struct {
	Group      Group   `json:"group"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
	// KeepDesired is for a description that does not name a size: the
	// present one stays, moved into the new limits if need be; a new group
	// begins at MinSize.
	KeepDesired bool `json:"keepDesired,omitempty"`
}

// Name implements [Command].
func (PutGroup) Name() string { return "PutGroup" }

// Apply implements [Command]; its value is the [*Group].
func (c PutGroup) Apply(tx *Tx) (any, error) {
	g := c.Group
	old, exists := tx.Groups.Get(g.Name)
	if c.KeepDesired {
		g.Desired = g.MinSize
		if exists {
			g.Desired = min(max(old.Desired, g.MinSize), max(g.MaxSize, g.MinSize))
		}
	}
	if err := g.Validate(); err != nil {
		return nil, err
	}
	if exists && old.Deleting {
		return nil, Errorf(Conflict, "group", g.Name, "is being deleted").
			WithHint("wait until its instances have ended")
	}
	var have uint64
	if exists {
		have = old.Revision
	}
	if err := checkRevision("group", g.Name, c.IfRevision, have); err != nil {
		return nil, err
	}
	if err := tx.checkRoutes(&g); err != nil {
		return nil, err
	}
	if err := tx.resolveVersion(&g); err != nil {
		return nil, err
	}
	return tx.storeGroup(&g, old), nil
}

// storeGroup writes a checked group over the old one, which may be nil. The
// same description again changes nothing.
func (tx *Tx) storeGroup(g, old *Group) *Group {
	g.Deleting, g.CreatedAt, g.UpdatedAt = false, tx.Meta.Time, tx.Meta.Time
	g.LastScaledAt, g.WokenAt = time.Time{}, time.Time{}
	if old == nil {
		tx.record(g.Name, Activity{Type: ActivityCreated, To: g.Desired, Cause: "the group was created"})
		return put(tx, &tx.State.Groups, g)
	}
	g.CreatedAt, g.LastScaledAt, g.WokenAt, g.Revision = old.CreatedAt, old.LastScaledAt, old.WokenAt, old.Revision
	same := *g
	same.UpdatedAt = old.UpdatedAt
	if reflect.DeepEqual(&same, old) {
		return old
	}
	if g.Desired != old.Desired {
		g.LastScaledAt = tx.Meta.Time
		tx.record(g.Name, Activity{Type: ActivityScaled, From: old.Desired, To: g.Desired, Cause: "the group was changed"})
	}
	row := put(tx, &tx.State.Groups, g)
	tx.dropUnusedVersions(old.Template)
	return row
}

func (tx *Tx) resolveVersion(g *Group) error {
	t, ok := tx.Templates.Get(g.Template)
	if !ok {
		return Errorf(NotFound, "template", g.Template, "does not exist; group %q can not use it", g.Name).
			WithHint("create the template first: paceline template put %s …", g.Template)
	}
	if g.Version == 0 {
		g.Version = t.Version
		return nil
	}
	if _, err := tx.TemplateAt(g.Template, g.Version); err != nil {
		return Errorf(NotFound, "template", g.Template, "has no version %d; its current version is %d", g.Version, t.Version)
	}
	return nil
}

// DeleteGroup marks a group: its size becomes 0, its instances are drained,
// and the reconciler then proposes [RemoveGroup].
type DeleteGroup struct {
	Group      string  `json:"group"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (DeleteGroup) Name() string { return "DeleteGroup" }

// Apply implements [Command]; its value is the [*Group].
func (c DeleteGroup) Apply(tx *Tx) (any, error) {
	g, err := tx.Groups.Lookup(c.Group)
	if err != nil {
		return nil, err
	}
	if err := checkRevision("group", c.Group, c.IfRevision, g.Revision); err != nil {
		return nil, err
	}
	if g.Deleting {
		return g, nil
	}
	tx.record(g.Name, Activity{Type: ActivityDeleted, From: g.Desired, Cause: "the group was deleted"})
	return edit(tx, &tx.State.Groups, g, func(g *Group) {
		g.Deleting, g.MinSize, g.Desired, g.UpdatedAt = true, 0, 0, tx.Meta.Time
	}), nil
}

// RemoveGroup removes a deleted group and all that belongs to it, once no
// instance of it lives.
type RemoveGroup struct {
	Group string `json:"group"`
}

// Name implements [Command].
func (RemoveGroup) Name() string { return "RemoveGroup" }

// Apply implements [Command].
func (c RemoveGroup) Apply(tx *Tx) (any, error) {
	g, err := tx.Groups.Lookup(c.Group)
	if err != nil {
		return nil, err
	}
	if !g.Deleting {
		return nil, Errorf(Conflict, "group", c.Group, "is not being deleted")
	}
	var ids []string
	for id, i := range tx.InstancesOf(c.Group) {
		if !i.State.Terminal() {
			return nil, Errorf(Conflict, "group", c.Group, "still has instance %s, which is %s", id, i.State)
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		tx.forget(c.Group, id)
	}
	prefix := c.Group + "/"
	delPrefix(tx, &tx.State.Policies, prefix)
	delPrefix(tx, &tx.State.Windows, prefix)
	delPrefix(tx, &tx.State.Decisions, prefix)
	delPrefix(tx, &tx.State.Activities, prefix)
	tx.dropSessions(c.Group)
	del(tx, &tx.State.Groups, c.Group)
	tx.dropUnusedVersions(g.Template)
	return g, nil
}

// SetDesired changes a group's size: by hand, or as the outcome of a
// [Decision].
type SetDesired struct {
	Group string `json:"group"`
	// From, when given, refuses the change if the size has moved on.
	From   *int   `json:"from,omitempty"`
	To     int    `json:"to"`
	Reason string `json:"reason,omitempty"`
}

// Name implements [Command].
func (SetDesired) Name() string { return "SetDesired" }

// Apply implements [Command]; its value is the [*Group].
func (c SetDesired) Apply(tx *Tx) (any, error) {
	g, err := tx.Groups.Lookup(c.Group)
	if err != nil {
		return nil, err
	}
	if len(c.Reason) > maxReason {
		return nil, Errorf(Invalid, "group", c.Group, "has a reason of %d bytes, at most %d are allowed", len(c.Reason), maxReason)
	}
	cause := c.Reason
	if cause == "" {
		cause = "scaled by hand"
	}
	return tx.setDesired(g, c.From, c.To, cause, "")
}

// setDesired is the one place where a size changes.
func (tx *Tx) setDesired(g *Group, from *int, to int, cause, policy string) (*Group, error) {
	switch {
	case g.Deleting:
		return nil, Errorf(Conflict, "group", g.Name, "is being deleted")
	case from != nil && *from != g.Desired:
		return nil, Errorf(Conflict, "group", g.Name, "has moved on: desired is %d, not %d", g.Desired, *from)
	case to < g.MinSize || to > g.MaxSize:
		return nil, &Error{
			Kind: Invalid, Noun: "group", Key: g.Name, Message: "is not valid",
			Fields: []FieldError{{Field: "desired", Message: sizeMessage(to, g)}},
			Hint:   "change minSize or maxSize of the group first",
		}
	case to == g.Desired:
		return g, nil
	}
	tx.record(g.Name, Activity{Type: ActivityScaled, From: g.Desired, To: to, Cause: cause, Policy: policy})
	return edit(tx, &tx.State.Groups, g, func(g *Group) {
		g.Desired, g.LastScaledAt, g.UpdatedAt = to, tx.Meta.Time, tx.Meta.Time
	}), nil
}

// WakeGroup brings a group at size 0 up, because a request waits for an
// instance of it. Any node proposes it, and many may at once: where there is
// nothing to wake it changes nothing and is no error.
type WakeGroup struct {
	Group string `json:"group"`
}

// Name implements [Command].
func (WakeGroup) Name() string { return "WakeGroup" }

// Apply implements [Command]; its value is the [*Group].
func (c WakeGroup) Apply(tx *Tx) (any, error) {
	g, err := tx.Groups.Lookup(c.Group)
	if err != nil {
		return nil, err
	}
	if !g.Asleep() {
		return g, nil
	}
	tx.record(g.Name, Activity{Type: ActivityScaled, To: wokenSize, Cause: "woken by a request"})
	return edit(tx, &tx.State.Groups, g, func(g *Group) {
		g.Desired = wokenSize
		g.LastScaledAt, g.WokenAt, g.UpdatedAt = tx.Meta.Time, tx.Meta.Time, tx.Meta.Time
	}), nil
}

// wokenSize is the size that a group wakes to: policies make it more.
const wokenSize = 1

// Asleep reports whether the group has size 0 and a request may wake it.
func (g *Group) Asleep() bool { return g.Desired == 0 && g.MaxSize >= wokenSize && !g.Deleting }

// Closed reports whether the group is to have no instance whatever is asked of
// it: it may have none at most, or is being deleted.
func (g *Group) Closed() bool { return g.MaxSize == 0 || g.Deleting }

func sizeMessage(to int, g *Group) string {
	return Errorf(Invalid, "", "", "is %d, outside [minSize %d, maxSize %d]", to, g.MinSize, g.MaxSize).Message
}

// InZone reports whether the group may be placed in a zone.
func (g *Group) InZone(zone string) bool {
	return len(g.Zones) == 0 || slices.Contains(g.Zones, zone)
}
