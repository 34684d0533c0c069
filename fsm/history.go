package fsm

import "time"

// How much history a group keeps in the replicated state.
const (
	// WindowSamples is the number of samples kept for a group and metric, so
	// that a new leader is not blind.
	WindowSamples = 60
	// DecisionsKept is the number of decisions kept for a group.
	DecisionsKept = 200
	// ActivitiesKept is the number of activities kept for a group.
	ActivitiesKept = 100
)

// Sample is the value of a group's metric at one evaluation.
type Sample struct {
	At    time.Time `json:"at"`
	Value float64   `json:"value"`
}

// Window is the last samples of one metric of a group, oldest first.
type Window struct {
	Group   string   `json:"group"`
	Metric  string   `json:"metric"`
	Samples []Sample `json:"samples"`
}

var windowTable = tableSpec[Window]{
	name: "windows", noun: "metric window",
	key: func(w *Window) string { return w.Group + "/" + w.Metric },
}

// Verdict says what became of a policy's proposal.
type Verdict string

// The verdicts on a proposal.
const (
	// VerdictNoData had no sample to look at.
	VerdictNoData Verdict = "no_data"
	// VerdictNotBreached was on the right side of the threshold.
	VerdictNotBreached Verdict = "not_breached"
	// VerdictPending was beyond it, but not for enough evaluations yet.
	VerdictPending Verdict = "pending"
	// VerdictCooldown wanted to act, too soon after the last change.
	VerdictCooldown Verdict = "cooldown"
	// VerdictDisabled is switched off.
	VerdictDisabled Verdict = "disabled"
	// VerdictProposed proposed a size, and another proposal won.
	VerdictProposed Verdict = "proposed"
	// VerdictWon proposed the size that was taken.
	VerdictWon Verdict = "won"
)

// Proposal is what one policy made of an evaluation.
type Proposal struct {
	Policy    string   `json:"policy"`
	Metric    string   `json:"metric,omitempty"`
	Value     *float64 `json:"value,omitempty"`
	Operator  Operator `json:"operator,omitempty"`
	Threshold float64  `json:"threshold"`
	// Breaches of Periods evaluations in a row are beyond the threshold.
	Breaches int `json:"breaches"`
	Periods  int `json:"periods"`
	// Size is the proposed size; 0 when nothing was proposed.
	Size    int     `json:"size,omitempty"`
	Verdict Verdict `json:"verdict"`
	// Reason is a sentence for a human.
	Reason string `json:"reason"`
}

// Clamp is a limit that changed the size which had won.
type Clamp struct {
	Limit string `json:"limit"`
	From  int    `json:"from"`
	To    int    `json:"to"`
}

// Decision is the record of one evaluation of a group: also when nothing
// changed.
type Decision struct {
	ID        uint64             `json:"id"`
	Group     string             `json:"group"`
	At        time.Time          `json:"at"`
	From      int                `json:"from"`
	To        int                `json:"to"`
	Metrics   map[string]float64 `json:"metrics,omitempty"`
	Proposals []Proposal         `json:"proposals,omitempty"`
	Clamps    []Clamp            `json:"clamps,omitempty"`
	Winner    string             `json:"winner,omitempty"`
	// Reason is the whole decision as one sentence.
	Reason string `json:"reason"`
}

var decisionTable = tableSpec[Decision]{
	name: "decisions", noun: "decision", encoded: true,
	key: func(d *Decision) string { return seqKey(d.Group, d.ID) },
}

// Types of activities.
const (
	ActivityCreated  = "created"
	ActivityDeleted  = "deleted"
	ActivityScaled   = "scaled"
	ActivityLaunched = "launched"
	ActivityReplaced = "replaced"
	ActivityDrained  = "drained"
	ActivityFailed   = "failed"
	ActivityLost     = "lost"
)

// Activity is something that was done to a group, with its cause.
type Activity struct {
	ID        uint64    `json:"id"`
	Group     string    `json:"group"`
	At        time.Time `json:"at"`
	Type      string    `json:"type"`
	From      int       `json:"from,omitempty"`
	To        int       `json:"to,omitempty"`
	Count     int       `json:"count,omitempty"`
	Instances []string  `json:"instances,omitempty"`
	Policy    string    `json:"policy,omitempty"`
	Actor     string    `json:"actor,omitempty"`
	Cause     string    `json:"cause"`
}

var activityTable = tableSpec[Activity]{
	name: "activities", noun: "activity", encoded: true,
	key: func(a *Activity) string { return seqKey(a.Group, a.ID) },
}

// record adds an activity to a group's history and drops the oldest.
func (tx *Tx) record(group string, a Activity) {
	a.Group, a.At, a.Actor = group, tx.Meta.Time, tx.Meta.Actor
	if len(a.Instances) > maxListed {
		a.Instances = a.Instances[:maxListed]
	}
	a.ID = 1
	for _, last := range tx.Activities.Backward(group + "/") {
		a.ID = last.ID + 1
		break
	}
	put(tx, &tx.State.Activities, &a)
	if a.ID > ActivitiesKept {
		del(tx, &tx.State.Activities, seqKey(group, a.ID-ActivitiesKept))
	}
}

// maxListed bounds the instance ids of one activity; Count has the number.
const maxListed = 20

// RecordDecision is the outcome of one evaluation: its samples, its decision,
// and the change of size, in one step. It is refused when the group has moved
// on since the leader looked at it, so that a decision is never carried out
// twice or on a size that it did not see.
type RecordDecision struct {
	Decision Decision `json:"decision"`
	Term     uint64   `json:"term"`
}

// Name implements [Command].
func (RecordDecision) Name() string { return "RecordDecision" }

// Apply implements [Command]; its value is the recorded [*Decision].
func (c RecordDecision) Apply(tx *Tx) (any, error) {
	d := c.Decision
	if err := tx.fence("group", d.Group, c.Term); err != nil {
		return nil, err
	}
	g, err := tx.Groups.Lookup(d.Group)
	if err != nil {
		return nil, err
	}
	if len(d.Metrics) > maxMetricsGroup {
		return nil, Errorf(Exhausted, "group", d.Group, "has %d metrics, at most %d are kept", len(d.Metrics), maxMetricsGroup)
	}
	if d.To != d.From {
		if _, err := tx.setDesired(g, &d.From, d.To, d.Reason, d.Winner); err != nil {
			return nil, err
		}
		if p, ok := tx.Policies.Get(d.Group + "/" + d.Winner); ok {
			edit(tx, &tx.State.Policies, p, func(p *Policy) { p.LastTriggeredAt = tx.Meta.Time })
		}
	}
	d.At, d.ID = tx.Meta.Time, 1
	for _, last := range tx.Decisions.Backward(d.Group + "/") {
		d.ID = last.ID + 1
		break
	}
	for _, metric := range sortedKeys(d.Metrics) {
		tx.sample(d.Group, metric, Sample{At: d.At, Value: d.Metrics[metric]})
	}
	row := put(tx, &tx.State.Decisions, &d)
	if d.ID > DecisionsKept {
		del(tx, &tx.State.Decisions, seqKey(d.Group, d.ID-DecisionsKept))
	}
	return row, nil
}

// sample appends to a window. The slice is copied: the old row is immutable.
func (tx *Tx) sample(group, metric string, s Sample) {
	w := &Window{Group: group, Metric: metric}
	if old, ok := tx.Windows.Get(group + "/" + metric); ok {
		keep := old.Samples[max(0, len(old.Samples)-WindowSamples+1):]
		w.Samples = append(make([]Sample, 0, len(keep)+1), keep...)
	}
	w.Samples = append(w.Samples, s)
	put(tx, &tx.State.Windows, w)
}

// fence refuses a control loop's proposal that was made under another term
// than the one that the entry was committed in.
func (tx *Tx) fence(noun, key string, term uint64) error {
	if term != tx.Meta.Term {
		return Errorf(Conflict, noun, key, "was planned by the leader of term %d, in term %d", term, tx.Meta.Term)
	}
	return nil
}
