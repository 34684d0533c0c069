package scaling

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Inputs is everything that one evaluation of a group looks at.
type Inputs struct {
	Group *fsm.Group
	// Policies are the group's, in any order.
	Policies []*fsm.Policy
	// Windows are the group's recorded samples, by metric.
	Windows map[string]*fsm.Window
	// Metrics are the present values. A metric that is not here has no
	// sample in this evaluation; values that are not finite count as missing.
	Metrics map[string]float64
	// Now is the log time of the evaluation.
	Now time.Time
	// Interval is the time between two evaluations.
	Interval time.Duration
	// MaxGap is the longest time between two samples of one streak of
	// breaches; 0 means one and a half intervals, so that a single missing
	// sample breaks the streak.
	MaxGap time.Duration
}

// Decide evaluates the policies of a group. It is a pure function. The
// decision is complete also when nothing changes: it then says why.
//
// A proposal to grow beats any proposal to shrink; the largest size wins on
// either side, which for a shrinking group is the most cautious one.
func Decide(in Inputs) fsm.Decision {
	g := in.Group
	d := fsm.Decision{
		Group: g.Name, At: in.Now, From: g.Desired, To: g.Desired, Metrics: finiteOnly(in.Metrics),
	}
	policies := slices.SortedFunc(slices.Values(in.Policies), func(a, b *fsm.Policy) int {
		return cmp.Compare(a.Name, b.Name)
	})
	winner := -1
	for k, p := range policies {
		q := in.propose(p, d.Metrics)
		d.Proposals = append(d.Proposals, q)
		if q.Verdict == fsm.VerdictProposed && (winner < 0 || q.Size > d.Proposals[winner].Size) {
			winner = k
		}
	}
	if winner >= 0 && !g.Deleting {
		q := &d.Proposals[winner]
		q.Verdict, d.Winner = fsm.VerdictWon, q.Policy
		d.To, d.Clamps = clampSize(q.Size, g)
		if d.To == 0 && g.Desired > 0 && in.Now.Sub(g.WokenAt) < wakeHold {
			// Its first instance may not even serve the request that woke it.
			d.To = 1
			d.Clamps = append(d.Clamps, fsm.Clamp{Limit: "wokenAt", From: 0, To: d.To})
		}
	}
	explainDecision(&d, winner, g)
	return d
}

// clampSize keeps a size within the group's limits and says which one bit.
func clampSize(size int, g *fsm.Group) (int, []fsm.Clamp) {
	switch {
	case size > g.MaxSize:
		return g.MaxSize, []fsm.Clamp{{Limit: "maxSize", From: size, To: g.MaxSize}}
	case size < g.MinSize:
		return g.MinSize, []fsm.Clamp{{Limit: "minSize", From: size, To: g.MinSize}}
	}
	return size, nil
}

// propose is what one policy makes of the evaluation.
func (in *Inputs) propose(p *fsm.Policy, metrics map[string]float64) fsm.Proposal {
	q := fsm.Proposal{
		Policy: p.Name, Metric: p.Metric, Operator: p.Operator, Threshold: p.Threshold,
		Periods: max(p.EvaluationPeriods, 1),
	}
	value, sampled := metrics[p.Metric]
	if sampled {
		q.Value = &value
		q.Breaches = min(in.streak(p, value), q.Periods)
	}
	wait := in.cooldownLeft(p)
	switch {
	case !p.On():
		q.Verdict = fsm.VerdictDisabled
	case !sampled:
		q.Verdict = fsm.VerdictNoData
	case q.Breaches == 0:
		q.Verdict = fsm.VerdictNotBreached
	case q.Breaches < q.Periods:
		q.Verdict = fsm.VerdictPending
	case wait > 0:
		q.Verdict = fsm.VerdictCooldown
	default:
		q.Verdict = fsm.VerdictProposed
		q.Size = adjusted(in.Group.Desired, p)
	}
	q.Reason = proposalReason(q, wait, in.interval())
	return q
}

func (in *Inputs) interval() time.Duration { return orDefault(in.Interval, DefaultInterval) }

// streak counts the samples in a row, ending with the present value, that are
// beyond the policy's threshold. A gap between samples ends the row.
func (in *Inputs) streak(p *fsm.Policy, value float64) int {
	if !p.Operator.Holds(value, p.Threshold) {
		return 0
	}
	n, newer := 1, in.Now
	w := in.Windows[p.Metric]
	if w == nil {
		return n
	}
	maxGap := orDefault(in.MaxGap, in.interval()*3/2)
	for _, s := range slices.Backward(w.Samples) {
		if newer.Sub(s.At) > maxGap || !isFinite(s.Value) || !p.Operator.Holds(s.Value, p.Threshold) {
			break
		}
		n, newer = n+1, s.At
	}
	return n
}

// cooldownLeft is how long the policy has to wait: since the group's last
// change of size, by whatever cause, and since its own last one. Both are log
// times, so a new leader waits for the rest and no more.
func (in *Inputs) cooldownLeft(p *fsm.Policy) time.Duration {
	last := in.Group.LastScaledAt
	if p.LastTriggeredAt.After(last) {
		last = p.LastTriggeredAt
	}
	if last.IsZero() {
		return 0
	}
	return max(0, p.Cooldown.Std()-in.Now.Sub(last))
}

// adjusted is the size that a policy proposes. A percentage is rounded away
// from the present size and is at least one instance.
func adjusted(size int, p *fsm.Policy) int {
	step := p.Adjustment
	if p.AdjustmentType == fsm.Percentage {
		step = max(1, (size*p.Adjustment+99)/100)
	}
	if p.Direction == fsm.Down {
		return max(0, size-step)
	}
	return size + step
}

// finiteOnly drops what can not be compared, averaged or encoded.
func finiteOnly(metrics map[string]float64) map[string]float64 {
	out := make(map[string]float64, len(metrics))
	for name, v := range metrics {
		if isFinite(v) {
			out[name] = v
		}
	}
	return out
}

func isFinite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
