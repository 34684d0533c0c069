package scaling

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pacelinehq/paceline/fsm"
)

// proposalReason is what a policy made of an evaluation, as a sentence.
func proposalReason(q fsm.Proposal, wait, interval time.Duration) string {
	beyond := fmt.Sprintf("%s is %s, %s %s for %d of %d evaluations",
		q.Metric, valueText(q.Value), operatorText(q.Operator), number(q.Threshold), q.Breaches, q.Periods)
	switch q.Verdict {
	case fsm.VerdictDisabled:
		return "the policy is disabled"
	case fsm.VerdictNoData:
		return fmt.Sprintf("no sample of %s in this evaluation; it is needed every %s", q.Metric, interval)
	case fsm.VerdictNotBreached:
		return fmt.Sprintf("%s is %s, not %s %s", q.Metric, valueText(q.Value), operatorText(q.Operator), number(q.Threshold))
	case fsm.VerdictPending:
		return beyond + "; waiting"
	case fsm.VerdictCooldown:
		return fmt.Sprintf("%s; cooldown for another %s", beyond, seconds(wait))
	}
	return fmt.Sprintf("%s; proposes %d", beyond, q.Size)
}

// explainDecision writes the decision's own sentence, and tells the losing
// proposals who won.
func explainDecision(d *fsm.Decision, winner int, g *fsm.Group) {
	switch {
	case g.Deleting:
		d.Reason = "no change: the group is being deleted"
	case winner >= 0:
		d.Reason = winnerReason(d, &d.Proposals[winner])
		for k := range d.Proposals {
			if q := &d.Proposals[k]; q.Verdict == fsm.VerdictProposed {
				q.Reason += fmt.Sprintf("; %s won with %d", d.Winner, d.Proposals[winner].Size)
			}
		}
	case len(d.Proposals) == 0:
		d.Reason = "no change: the group has no policy"
	default:
		q := tellingProposal(d.Proposals)
		d.Reason = fmt.Sprintf("no change: %s: %s", q.Policy, q.Reason)
	}
	d.Reason = shorten(d.Reason)
}

func winnerReason(d *fsm.Decision, q *fsm.Proposal) string {
	why := fmt.Sprintf("%s: %s", q.Policy, q.Reason)
	for _, c := range d.Clamps {
		why += fmt.Sprintf(", %s allows %d", c.Limit, c.To)
	}
	switch {
	case d.To > d.From:
		return fmt.Sprintf("scale out from %d to %d: %s", d.From, d.To, why)
	case d.To < d.From:
		return fmt.Sprintf("scale in from %d to %d: %s", d.From, d.To, why)
	}
	return "no change: " + why
}

// tellingProposal is the one that came closest to acting: it answers "why did
// nothing happen?".
func tellingProposal(list []fsm.Proposal) fsm.Proposal {
	rank := func(v fsm.Verdict) int {
		switch v {
		case fsm.VerdictCooldown:
			return 4
		case fsm.VerdictPending:
			return 3
		case fsm.VerdictNoData:
			return 2
		case fsm.VerdictNotBreached:
			return 1
		}
		return 0
	}
	best := list[0]
	for _, q := range list[1:] {
		if rank(q.Verdict) > rank(best.Verdict) {
			best = q
		}
	}
	return best
}

func operatorText(o fsm.Operator) string {
	switch o {
	case fsm.Greater:
		return "above"
	case fsm.Less:
		return "below"
	case fsm.GreaterEqual:
		return "at or above"
	}
	return "at or below"
}

func valueText(v *float64) string {
	if v == nil {
		return "unknown"
	}
	return number(*v)
}

// number writes a value with as many digits as a reader wants to see.
func number(v float64) string {
	if a := math.Abs(v); a >= 1000 && a < 1e15 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 4, 64)
}

// seconds rounds up: "cooldown for another 0s" would be a lie.
func seconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// shorten cuts a sentence to what the replicated state takes, between runes.
func shorten(s string) string {
	if len(s) <= maxReason {
		return s
	}
	const ellipsis = "…"
	cut := maxReason - len(ellipsis)
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + ellipsis
}

// plural is "1 instance" or "3 instances".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// listed joins names, the first few of them.
func listed(names []string) string {
	if len(names) <= maxNodesNamed {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:maxNodesNamed], ", "), len(names)-maxNodesNamed)
}
