package scaling

import (
	"cmp"
	"slices"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Backoff is how a group's recent failures hold its next launches back. It is
// computed from the retained rows of failed instances, so every leader comes
// to the same answer.
//
// Failures form generations: an instance that was launched after the present
// generation's first failure, and failed too, begins the next one. Instances
// that crash side by side are one generation and lengthen the delay once. The
// count begins again after an instance that had lived for long, after a quiet
// time, and with a new template version.
//
// Lost instances do not count: their node was at fault, and they are to be
// replaced at once.
type Backoff struct {
	// Failures is the number of generations in a row.
	Failures int
	// Held is how many launches have to wait, one for each failed instance
	// whose delay is not over.
	Held int
	// Until is when the next of them may go; zero when none waits.
	Until time.Time
	// Reason is that of the newest failure.
	Reason string

	// evidence are the rows that the computation needs next time as well.
	evidence map[string]bool
}

// backoffOf computes a group's back-off from its instances.
func backoffOf(g *fsm.Group, t *fsm.Template, instances []*fsm.Instance, now time.Time, lim Limits) Backoff {
	b := Backoff{evidence: map[string]bool{}}
	stable := lim.StableAfter
	if t != nil {
		stable += t.CheckOrDefault().Grace.Std()
	}
	quiet := lim.BackoffMax + stable
	var firsts []*fsm.Instance
	var lastEnd time.Time
	for _, i := range failures(g, instances) {
		switch {
		case b.Failures == 0 || i.LaunchedAt.Sub(lastEnd) > quiet || i.Since.Sub(i.LaunchedAt) >= stable:
			b.Failures, firsts = 1, []*fsm.Instance{i}
		case !i.LaunchedAt.Before(firsts[len(firsts)-1].Since):
			b.Failures, firsts = b.Failures+1, append(firsts, i)
		}
		lastEnd, b.Reason = i.Since, i.Reason
		if until := i.Since.Add(lim.delay(b.Failures)); until.After(now) {
			b.hold(i, until)
		}
	}
	if b.Held == 0 && now.Sub(lastEnd) > quiet {
		return Backoff{}
	}
	for _, i := range firsts[max(0, len(firsts)-maxGenerations):] {
		b.evidence[i.ID] = true
	}
	return b
}

func (b *Backoff) hold(i *fsm.Instance, until time.Time) {
	b.Held++
	b.evidence[i.ID] = true
	if b.Until.IsZero() || until.Before(b.Until) {
		b.Until = until
	}
}

// failures are the failed instances of the group's present version, in the
// order in which they failed.
func failures(g *fsm.Group, instances []*fsm.Instance) []*fsm.Instance {
	var list []*fsm.Instance
	for _, i := range instances {
		if i.State == fsm.Failed && i.Template == g.Template && i.Version == g.Version {
			list = append(list, i)
		}
	}
	slices.SortStableFunc(list, func(a, b *fsm.Instance) int {
		return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// delay after the n-th generation of failures.
func (l Limits) delay(n int) time.Duration {
	return min(l.BackoffMin<<min(n-1, maxGenerations), l.BackoffMax)
}
