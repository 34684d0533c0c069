package fsm

import (
	"slices"
	"time"
)

// InstanceState is a step of an instance's life.
//
//	            ┌──────────────────────────────┐ scale-in, drain, replace
//	            │              ┌───────────────┤
//	planned ─► starting ─► running ─► draining ─► stopping ─► stopped
//	   │           │           │          │           │
//	   └───────────┴───────────┴──────────┴───────────┴─► failed (it ended by itself)
//	                                                  └─► lost   (its node is gone)
type InstanceState string

// The states of an instance.
const (
	// Planned is placed on a node which has not begun to launch it.
	Planned InstanceState = "planned"
	// Starting is being launched.
	Starting InstanceState = "starting"
	// Running has a live process or container.
	Running InstanceState = "running"
	// Draining gets no new work and finishes what it has.
	Draining InstanceState = "draining"
	// Stopping has been told to end.
	Stopping InstanceState = "stopping"
	// Stopped has ended because it was told to.
	Stopped InstanceState = "stopped"
	// Failed has ended by itself, or could not be launched.
	Failed InstanceState = "failed"
	// Lost was on a node that is gone; whether it runs is not known.
	Lost InstanceState = "lost"
)

// instanceSteps is the transition table: what may follow each state.
var instanceSteps = map[InstanceState][]InstanceState{
	Planned:  {Starting, Stopped, Failed, Lost},
	Starting: {Running, Draining, Stopping, Stopped, Failed, Lost},
	Running:  {Draining, Stopping, Failed, Lost},
	Draining: {Stopping, Stopped, Failed, Lost},
	Stopping: {Stopped, Failed, Lost},
	Stopped:  {},
	Failed:   {},
	Lost:     {},
}

// Terminal reports whether the state is an end.
func (s InstanceState) Terminal() bool { return s == Stopped || s == Failed || s == Lost }

// Active reports whether an instance in this state counts towards its
// group's size: it serves or is about to.
func (s InstanceState) Active() bool { return s == Planned || s == Starting || s == Running }

// Health is what an instance's checks say.
type Health string

// The healths of an instance.
const (
	// Unknown has not been checked yet.
	Unknown Health = "unknown"
	// Healthy passes its checks, or has none and runs.
	Healthy Health = "healthy"
	// Unhealthy fails its checks.
	Unhealthy Health = "unhealthy"
)

// HealthFlapping is the health reason of an instance that was unhealthy again
// and again, and has to be healthy for a while to count as such.
const HealthFlapping = "flapping"

// Instance is one running copy of a template on one node. Its ID is a ULID
// and is never used again.
type Instance struct {
	ID       string        `json:"id"`
	Group    string        `json:"group"`
	Template string        `json:"template"`
	Version  int           `json:"version"`
	Node     string        `json:"node"`
	Zone     string        `json:"zone,omitempty"`
	State    InstanceState `json:"state"`
	Health   Health        `json:"health"`
	// HealthReason is "flapping" while the instance counts as unhealthy because
	// its health changes too often, whatever its last check said.
	HealthReason string `json:"healthReason,omitempty"`
	// Incarnation counts the launches of this instance on its node. Routing
	// and sessions refer to an instance and its incarnation.
	Incarnation int    `json:"incarnation,omitempty"`
	Address     string `json:"address,omitempty"`
	PID         int    `json:"pid,omitempty"`
	// Reason says why the instance is in its state.
	Reason string `json:"reason,omitempty"`
	// Term is the leader's Raft term that placed the instance.
	Term       uint64    `json:"term"`
	LaunchedAt time.Time `json:"launchedAt"`
	// Since is the log time at which State was entered.
	Since    time.Time `json:"since"`
	Revision uint64    `json:"revision"`
}

var instanceTable = tableSpec[Instance]{
	name: "instances", noun: "instance",
	key:   func(i *Instance) string { return i.ID },
	stamp: func(i *Instance, r uint64) { i.Revision = r },
}

// CanStep reports whether an instance may go from one state to another.
func CanStep(from, to InstanceState) bool { return slices.Contains(instanceSteps[from], to) }

// step moves an instance to a state, or refuses with a Conflict.
func (tx *Tx) step(i *Instance, to InstanceState, reason string, change func(*Instance)) (*Instance, error) {
	if !CanStep(i.State, to) {
		return nil, Errorf(Conflict, "instance", i.ID, "is %s and can not become %s", i.State, to)
	}
	return edit(tx, &tx.State.Instances, i, func(i *Instance) {
		i.State, i.Reason, i.Since = to, reason, tx.Meta.Time
		if to != Running {
			i.Health, i.HealthReason = Unknown, ""
		}
		if change != nil {
			change(i)
		}
	}), nil
}

// forget removes an instance and its index row.
func (tx *Tx) forget(group, id string) {
	del(tx, &tx.State.Instances, id)
	del(tx, &tx.State.GroupInstances, group+"/"+id)
}

// Launch is one placement: a new instance on a node.
type Launch struct {
	ID   string `json:"id"`
	Node string `json:"node"`
}

// LaunchInstances places new instances of a group. It is proposed by the
// leader's reconciler under its term, and refused when another term has
// begun, or when the group would grow beyond its maximum.
type LaunchInstances struct {
	Group    string   `json:"group"`
	Launches []Launch `json:"launches"`
	Term     uint64   `json:"term"`
	Cause    string   `json:"cause,omitempty"`
	// Replaces marks launches that make up for failed or lost instances.
	Replaces bool `json:"replaces,omitempty"`
}

// Name implements [Command].
func (LaunchInstances) Name() string { return "LaunchInstances" }

// Apply implements [Command]; its value is the []*Instance placed.
func (c LaunchInstances) Apply(tx *Tx) (any, error) {
	if err := tx.fence("group", c.Group, c.Term); err != nil {
		return nil, err
	}
	g, err := tx.Groups.Lookup(c.Group)
	if err != nil {
		return nil, err
	}
	active := 0
	for _, i := range tx.InstancesOf(c.Group) {
		if i.State.Active() {
			active++
		}
	}
	if n := active + len(c.Launches); n > g.MaxSize {
		return nil, Errorf(Conflict, "group", c.Group, "would have %d instances, above maxSize %d", n, g.MaxSize)
	}
	placed := make([]*Instance, 0, len(c.Launches))
	for _, l := range c.Launches {
		i, err := tx.launch(g, l, c.Term)
		if err != nil {
			return nil, err
		}
		placed = append(placed, i)
	}
	typ := ActivityLaunched
	if c.Replaces {
		typ = ActivityReplaced
	}
	tx.record(g.Name, Activity{Type: typ, Count: len(placed), Instances: idsOf(placed), Cause: c.Cause})
	return placed, nil
}

func (tx *Tx) launch(g *Group, l Launch, term uint64) (*Instance, error) {
	n, ok := tx.Nodes.Get(l.Node)
	if !ok || n.State != NodeStateReady {
		return nil, Errorf(Conflict, "node", l.Node, "is not ready to take instance %s", l.ID)
	}
	if _, taken := tx.Instances.Get(l.ID); taken || l.ID == "" {
		return nil, Errorf(Conflict, "instance", l.ID, "exists already")
	}
	put(tx, &tx.State.GroupInstances, &GroupInstance{Group: g.Name, Instance: l.ID})
	return put(tx, &tx.State.Instances, &Instance{
		ID: l.ID, Group: g.Name, Template: g.Template, Version: g.Version,
		Node: n.Name, Zone: n.Zone, State: Planned, Health: Unknown,
		Term: term, LaunchedAt: tx.Meta.Time, Since: tx.Meta.Time,
	}), nil
}

func idsOf(list []*Instance) []string {
	ids := make([]string, len(list))
	for k, i := range list {
		ids[k] = i.ID
	}
	return ids
}

// StopInstances drains instances: of a scale-in, of a node, or named by a
// user. An instance that is not launched yet ends at once.
type StopInstances struct {
	Instances []string `json:"instances"`
	Cause     string   `json:"cause,omitempty"`
	// Term fences a control loop's proposal; 0 for a user's.
	Term uint64 `json:"term,omitempty"`
}

// Name implements [Command].
func (StopInstances) Name() string { return "StopInstances" }

// Apply implements [Command]; its value is the []*Instance drained. Those
// that are on their way out already are left alone.
func (c StopInstances) Apply(tx *Tx) (any, error) {
	if c.Term != 0 {
		if err := tx.fence("instances", "", c.Term); err != nil {
			return nil, err
		}
	}
	var drained []*Instance
	for _, id := range c.Instances {
		i, err := tx.Instances.Lookup(id)
		if err != nil {
			return nil, err
		}
		if !i.State.Active() {
			continue
		}
		to := Draining
		if i.State == Planned {
			to = Stopped
		}
		i, err = tx.step(i, to, c.Cause, nil)
		if err != nil {
			return nil, err
		}
		drained = append(drained, i)
		tx.record(i.Group, Activity{Type: ActivityDrained, Count: 1, Instances: []string{id}, Cause: c.Cause})
	}
	return drained, nil
}

// InstanceReport is what a node says about one of its instances. Empty fields
// are left as they are.
type InstanceReport struct {
	ID          string        `json:"id"`
	State       InstanceState `json:"state,omitempty"`
	Health      Health        `json:"health,omitempty"`
	Address     string        `json:"address,omitempty"`
	PID         int           `json:"pid,omitempty"`
	Incarnation int           `json:"incarnation,omitempty"`
	Reason      string        `json:"reason,omitempty"`
	// HealthReason goes with Health, also when it is empty.
	HealthReason string `json:"healthReason,omitempty"`
}

// ReportInstances records what a node did with its instances. Reports about
// instances of other nodes, and illegal steps, are skipped: they come from a
// node that has not seen the newest state yet.
type ReportInstances struct {
	Node string `json:"node"`
	// NodeIncarnation is that of the reporting process, so that the reports
	// of an earlier one do not count.
	NodeIncarnation uint64           `json:"nodeIncarnation"`
	Reports         []InstanceReport `json:"reports"`
}

// Name implements [Command].
func (ReportInstances) Name() string { return "ReportInstances" }

// Apply implements [Command]; its value is the number of reports that counted.
func (c ReportInstances) Apply(tx *Tx) (any, error) {
	n, err := tx.Nodes.Lookup(c.Node)
	if err != nil {
		return nil, err
	}
	if n.Incarnation != c.NodeIncarnation {
		return nil, Errorf(Conflict, "node", c.Node, "has restarted since this report")
	}
	counted := 0
	for _, r := range c.Reports {
		i, ok := tx.Instances.Get(r.ID)
		if ok && i.Node == c.Node && tx.report(i, r) {
			counted++
		}
	}
	return counted, nil
}

func (tx *Tx) report(i *Instance, r InstanceReport) bool {
	fill := func(i *Instance) {
		if r.Address != "" {
			i.Address = r.Address
		}
		if r.PID != 0 {
			i.PID = r.PID
		}
		if r.Incarnation != 0 {
			i.Incarnation = r.Incarnation
		}
		if r.Health != "" {
			i.Health, i.HealthReason = r.Health, r.HealthReason
		}
	}
	if len(r.Reason) > maxReason {
		r.Reason = r.Reason[:maxReason]
	}
	if len(r.HealthReason) > maxReason {
		r.HealthReason = r.HealthReason[:maxReason]
	}
	if r.State == "" || r.State == i.State {
		if i.State.Terminal() {
			return false
		}
		edit(tx, &tx.State.Instances, i, func(i *Instance) {
			fill(i)
			if r.Reason != "" {
				i.Reason = r.Reason
			}
		})
		return true
	}
	next, err := tx.step(i, r.State, r.Reason, fill)
	if err != nil {
		return false
	}
	if next.State == Failed {
		tx.record(i.Group, Activity{Type: ActivityFailed, Count: 1, Instances: []string{i.ID}, Cause: r.Reason})
	}
	return true
}

// ForgetInstances removes ended instances; the reconciler keeps some for
// users to look at and for the crash-loop back-off.
type ForgetInstances struct {
	Instances []string `json:"instances"`
}

// Name implements [Command].
func (ForgetInstances) Name() string { return "ForgetInstances" }

// Apply implements [Command]; its value is how many were removed.
func (c ForgetInstances) Apply(tx *Tx) (any, error) {
	n := 0
	for _, id := range c.Instances {
		i, ok := tx.Instances.Get(id)
		if !ok || !i.State.Terminal() {
			continue
		}
		tx.forget(i.Group, id)
		n++
	}
	return n, nil
}
