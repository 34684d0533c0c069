package fsm

import (
	"slices"
	"strings"
	"time"
)

// PolicyType is the kind of a policy.
type PolicyType string

// PolicyStep is the policy of a threshold and an adjustment.
const PolicyStep PolicyType = "step"

// Operator compares a metric with a threshold.
type Operator string

// The operators.
const (
	Greater      Operator = "greater"
	Less         Operator = "less"
	GreaterEqual Operator = "greater_equal"
	LessEqual    Operator = "less_equal"
)

// Holds reports whether value stands in the relation to threshold.
func (o Operator) Holds(value, threshold float64) bool {
	switch o {
	case Greater:
		return value > threshold
	case Less:
		return value < threshold
	case GreaterEqual:
		return value >= threshold
	case LessEqual:
		return value <= threshold
	}
	return false
}

// Directions and adjustment types of a step policy.
const (
	Up         = "up"
	Down       = "down"
	Absolute   = "absolute"
	Percentage = "percentage"
)

// Policy proposes a desired size for a group. A step policy proposes its
// adjustment when the metric was beyond the threshold for EvaluationPeriods
// evaluations in a row and the cooldown is over.
type Policy struct {
	Group string     `json:"group"`
	Name  string     `json:"name"`
	Type  PolicyType `json:"type,omitempty"`
	// Metric is a built-in ("cpu", "memory": percent of the template's
	// resources) or the name of a pushed metric; it is averaged over the
	// group's healthy instances.
	Metric            string   `json:"metric"`
	Operator          Operator `json:"operator"`
	Threshold         float64  `json:"threshold"`
	EvaluationPeriods int      `json:"evaluationPeriods,omitempty"`
	// Direction is "up" or "down".
	Direction string `json:"direction"`
	// Adjustment is a number of instances, or a percentage of the desired
	// size (rounded away from the present size, at least one instance).
	Adjustment     int    `json:"adjustment"`
	AdjustmentType string `json:"adjustmentType,omitempty"`
	// Cooldown is the least time between two changes of the group's size
	// and this policy's next one.
	Cooldown Duration `json:"cooldown,omitzero"`
	// Enabled is true unless said otherwise.
	Enabled *bool `json:"enabled,omitempty"`

	// LastTriggeredAt is the log time at which the policy last changed the
	// size. A new leader honours it.
	LastTriggeredAt time.Time `json:"lastTriggeredAt,omitzero"`
	Revision        uint64    `json:"revision"`
}

var policyTable = tableSpec[Policy]{
	name: "policies", noun: "policy",
	key:   func(p *Policy) string { return p.Group + "/" + p.Name },
	stamp: func(p *Policy, r uint64) { p.Revision = r },
}

// On reports whether the policy is enabled.
func (p *Policy) On() bool { return p.Enabled == nil || *p.Enabled }

// withDefaults fills in what the user left out.
func (p Policy) withDefaults() Policy {
	if p.Type == "" {
		p.Type = PolicyStep
	}
	if p.EvaluationPeriods == 0 {
		p.EvaluationPeriods = 1
	}
	if p.AdjustmentType == "" {
		p.AdjustmentType = Absolute
	}
	on := p.On()
	p.Enabled = &on
	return p
}

// Validate returns every problem of the policy as one error.
func (p *Policy) Validate() error {
	var f fieldErrors
	f.name("name", p.Name)
	f.name("group", p.Group)
	f.check(p.Type == PolicyStep || p.Type == "", "type", "must be step")
	f.metric("metric", p.Metric)
	ops := []Operator{Greater, Less, GreaterEqual, LessEqual}
	f.check(slices.Contains(ops, p.Operator), "operator", "must be one of greater, less, greater_equal, less_equal")
	f.check(finite(p.Threshold), "threshold", "must be a finite number")
	f.check(p.EvaluationPeriods >= 0 && p.EvaluationPeriods <= maxPeriods, "evaluationPeriods", "must be between 1 and %d", maxPeriods)
	f.check(p.Direction == Up || p.Direction == Down, "direction", "must be up or down")
	f.check(p.Adjustment >= 1 && p.Adjustment <= maxGroupSize, "adjustment", "must be between 1 and %d; the direction says which way", maxGroupSize)
	f.check(slices.Contains([]string{"", Absolute, Percentage}, p.AdjustmentType), "adjustmentType", "must be absolute or percentage")
	f.span("cooldown", p.Cooldown, 24*time.Hour)
	return f.err("policy", strings.Trim(p.Group+"/"+p.Name, "/"))
}

// PutPolicy creates or replaces a policy of a group.
type PutPolicy struct {
	Policy     Policy  `json:"policy"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (PutPolicy) Name() string { return "PutPolicy" }

// Apply implements [Command]; its value is the [*Policy].
func (c PutPolicy) Apply(tx *Tx) (any, error) {
	p := c.Policy.withDefaults()
	if err := p.Validate(); err != nil {
		return nil, err
	}
	if _, err := tx.Groups.Lookup(p.Group); err != nil {
		return nil, err
	}
	key := p.Group + "/" + p.Name
	old, exists := tx.Policies.Get(key)
	var have uint64
	p.LastTriggeredAt = time.Time{}
	if exists {
		have, p.LastTriggeredAt = old.Revision, old.LastTriggeredAt
	}
	if err := checkRevision("policy", key, c.IfRevision, have); err != nil {
		return nil, err
	}
	if !exists && tx.countPolicies(p.Group) >= maxPolicies {
		return nil, Errorf(Exhausted, "group", p.Group, "has %d policies, the most that are allowed", maxPolicies)
	}
	return put(tx, &tx.State.Policies, &p), nil
}

func (tx *Tx) countPolicies(group string) int {
	n := 0
	for range tx.Policies.Prefix(group + "/") {
		n++
	}
	return n
}

// DeletePolicy removes a policy.
type DeletePolicy struct {
	Group      string  `json:"group"`
	Policy     string  `json:"policy"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (DeletePolicy) Name() string { return "DeletePolicy" }

// Apply implements [Command]; its value is the removed [*Policy].
func (c DeletePolicy) Apply(tx *Tx) (any, error) {
	key := c.Group + "/" + c.Policy
	p, err := tx.Policies.Lookup(key)
	if err != nil {
		return nil, err
	}
	if err := checkRevision("policy", key, c.IfRevision, p.Revision); err != nil {
		return nil, err
	}
	del(tx, &tx.State.Policies, key)
	return p, nil
}
