package sim_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/internal/sim"
)

// tries is how many seeds a planted bug may take to be seen. The schedules
// are made so that the first one should do.
const tries = 4

// planted is how each bug is looked for: under which faults, and which of the
// checks have to see it.
var planted = []struct {
	bug    sim.Bug
	faults []sim.Kind
	seenBy []string
}{
	{sim.BugLostWrites, []sim.Kind{sim.PowerAll}, []string{"I3 committed stays", "I3 acked write", "state goes back"}},
	{sim.BugStaleRead, []sim.Kind{sim.SlowNet, sim.Isolate}, []string{"strong read"}},
	{sim.BugStaleRead, []sim.Kind{sim.SlowNet, sim.Isolate}, []string{"linearizability"}},
	{sim.BugDroppedWrite, []sim.Kind{}, []string{"I3 acked write"}},
	{sim.BugDroppedWrite, []sim.Kind{}, []string{"linearizability"}},
	{sim.BugForgottenRequest, []sim.Kind{}, []string{"write applied once"}},
	{sim.BugRefusedApplied, []sim.Kind{}, []string{"refused write"}},
	{sim.BugDoubleLaunch, []sim.Kind{sim.EndInstance}, []string{"launches are wanted"}},
	{sim.BugAboveMax, []sim.Kind{sim.EndInstance}, []string{"I7 limits"}},
	{sim.BugNoCooldown, []sim.Kind{}, []string{"I9 cooldown"}},
	{sim.BugEarlyStart, []sim.Kind{}, []string{"claim before launch"}},
	{sim.BugCorruptRow, []sim.Kind{}, []string{"I2 equal states"}},
	{sim.BugOtherSnapshot, []sim.Kind{}, []string{"I2 equal states"}},
	{sim.BugLeftOver, []sim.Kind{}, []string{"orphan"}},
}

func TestPlantedBugs(t *testing.T) {
	if raceDetector {
		t.Skip("make sim plants them: it takes minutes with the race detector, which two of them trip, and the seeds have run with it")
	}
	for _, p := range planted {
		t.Run(strings.ReplaceAll(string(p.bug), " ", "-")+"/"+strings.ReplaceAll(p.seenBy[0], " ", "-"), func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(tries) {
				r := simulate(t, sim.Options{Seed: 500 + seed, Nodes: 3, Load: 25 * time.Second, Calm: 15 * time.Second, Faults: p.faults, Bug: p.bug})
				if by := seen(r.Violations, p.seenBy); by != "" {
					t.Logf("seen with seed %d of %d: %s", seed+1, tries, by)
					return
				}
				t.Logf("seed %d: not seen; violations: %q", seed+1, r.Violations)
			}
			t.Errorf("%q was planted and not seen by %q with %d seeds", p.bug, p.seenBy, tries)
		})
	}
}

// seen returns the first violation that one of the checks has found.
func seen(violations, checks []string) string {
	for _, v := range violations {
		for _, c := range checks {
			if strings.Contains(v, c+":") {
				return v
			}
		}
	}
	return ""
}

func TestEveryBugIsLookedFor(t *testing.T) {
	for _, b := range sim.Bugs() {
		if !slices.ContainsFunc(planted, func(p struct {
			bug    sim.Bug
			faults []sim.Kind
			seenBy []string
		}) bool {
			return p.bug == b
		}) {
			t.Errorf("no test plants %q", b)
		}
	}
}
