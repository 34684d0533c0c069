package scaling_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

var noon = time.Date(2026, 11, 2, 12, 0, 0, 0, time.UTC)

func policy(name, direction string, op fsm.Operator, threshold float64, periods, adjustment int) *fsm.Policy {
	return &fsm.Policy{
		Group: "web", Name: name, Metric: "cpu", Operator: op, Threshold: threshold,
		EvaluationPeriods: periods, Direction: direction, Adjustment: adjustment, AdjustmentType: fsm.Absolute,
	}
}

func up(periods, adjustment int) *fsm.Policy {
	return policy("up", fsm.Up, fsm.Greater, 70, periods, adjustment)
}

func down(periods, adjustment int) *fsm.Policy {
	return policy("down", fsm.Down, fsm.Less, 30, periods, adjustment)
}

// edited returns a changed copy.
func edited[T any](v *T, f func(*T)) *T {
	c := *v
	f(&c)
	return &c
}

// window has samples every 5 s, the newest 5 s before noon.
func window(values ...float64) map[string]*fsm.Window {
	w := &fsm.Window{Group: "web", Metric: "cpu"}
	for k, v := range values {
		w.Samples = append(w.Samples, fsm.Sample{At: noon.Add(-5 * time.Second * time.Duration(len(values)-k)), Value: v})
	}
	return map[string]*fsm.Window{"cpu": w}
}

func web(desired int) *fsm.Group {
	return &fsm.Group{Name: "web", Template: "app", MinSize: 1, MaxSize: 10, Desired: desired}
}

// woken is a group at size 1 that a request has woken so long ago.
func woken(ago time.Duration) *fsm.Group {
	return edited(web(1), func(g *fsm.Group) { g.MinSize, g.WokenAt = 0, noon.Add(-ago) })
}

func cpu(v float64) map[string]float64 { return map[string]float64{"cpu": v} }

func TestDecide(t *testing.T) {
	off := false
	for _, c := range []struct {
		name     string
		in       scaling.Inputs
		to       int
		verdicts []fsm.Verdict
		winner   string
		says     string
	}{
		{
			name: "acts at once with one period",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(1, 2)}, Metrics: cpu(85.2)},
			to:   5, winner: "up", verdicts: []fsm.Verdict{fsm.VerdictWon},
			says: "scale out from 3 to 5: up: cpu is 85.2, above 70 for 1 of 1 evaluations; proposes 5",
		}, {
			name: "waits for all periods",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(3, 2)}, Windows: window(40, 80), Metrics: cpu(85.2)},
			to:   3, verdicts: []fsm.Verdict{fsm.VerdictPending},
			says: "no change: up: cpu is 85.2, above 70 for 2 of 3 evaluations; waiting",
		}, {
			name: "acts after all periods",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(3, 2)}, Windows: window(71, 80), Metrics: cpu(85)},
			to:   5, winner: "up", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "3 of 3",
		}, {
			name: "the threshold itself is not above it",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(1, 2)}, Metrics: cpu(70)},
			to:   3, verdicts: []fsm.Verdict{fsm.VerdictNotBreached}, says: "cpu is 70, not above 70",
		}, {
			name: "no sample, no change, and it says so",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(1, 2)}, Windows: window(99, 99, 99)},
			to:   3, verdicts: []fsm.Verdict{fsm.VerdictNoData}, says: "no change: up: no sample of cpu",
		}, {
			name: "NaN is no sample",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(1, 2)}, Metrics: cpu(math.NaN())},
			to:   3, verdicts: []fsm.Verdict{fsm.VerdictNoData}, says: "no sample",
		}, {
			name: "infinity is no sample",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(1, 2)}, Metrics: cpu(math.Inf(1))},
			to:   3, verdicts: []fsm.Verdict{fsm.VerdictNoData}, says: "no sample",
		}, {
			name: "disabled",
			in:   scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{edited(up(1, 2), func(p *fsm.Policy) { p.Enabled = &off })}, Metrics: cpu(99)},
			to:   3, verdicts: []fsm.Verdict{fsm.VerdictDisabled}, says: "the policy is disabled",
		}, {
			name: "cooldown since the group's last change",
			in: scaling.Inputs{
				Group:    edited(web(3), func(g *fsm.Group) { g.LastScaledAt = noon.Add(-18 * time.Second) }),
				Policies: []*fsm.Policy{edited(up(1, 2), func(p *fsm.Policy) { p.Cooldown = fsm.Duration(time.Minute) })}, Metrics: cpu(99),
			},
			to: 3, verdicts: []fsm.Verdict{fsm.VerdictCooldown}, says: "cooldown for another 42s",
		}, {
			name: "cooldown since the policy's own last trigger",
			in: scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{edited(up(1, 2), func(p *fsm.Policy) {
				p.Cooldown, p.LastTriggeredAt = fsm.Duration(time.Minute), noon.Add(-59*time.Second)
			})}, Metrics: cpu(99)},
			to: 3, verdicts: []fsm.Verdict{fsm.VerdictCooldown}, says: "cooldown for another 1s",
		}, {
			name: "cooldown over",
			in: scaling.Inputs{
				Group:    edited(web(3), func(g *fsm.Group) { g.LastScaledAt = noon.Add(-time.Minute) }),
				Policies: []*fsm.Policy{edited(up(1, 2), func(p *fsm.Policy) { p.Cooldown = fsm.Duration(time.Minute) })}, Metrics: cpu(99),
			},
			to: 5, winner: "up", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "scale out",
		}, {
			name: "clamped to maxSize",
			in:   scaling.Inputs{Group: web(9), Policies: []*fsm.Policy{up(1, 5)}, Metrics: cpu(99)},
			to:   10, winner: "up", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "proposes 14, maxSize allows 10",
		}, {
			name: "at maxSize already",
			in:   scaling.Inputs{Group: web(10), Policies: []*fsm.Policy{up(1, 5)}, Metrics: cpu(99)},
			to:   10, winner: "up", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "no change: up: cpu is 99, above 70",
		}, {
			name: "clamped to minSize",
			in:   scaling.Inputs{Group: web(2), Policies: []*fsm.Policy{down(1, 5)}, Metrics: cpu(1)},
			to:   1, winner: "down", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "minSize allows 1",
		}, {
			name: "a group that was just woken is not put back to 0",
			in:   scaling.Inputs{Group: woken(59 * time.Second), Policies: []*fsm.Policy{down(1, 1)}, Metrics: cpu(1)},
			to:   1, winner: "down", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "no change: down: cpu is 1, below 30 for 1 of 1 evaluations; proposes 0, wokenAt allows 1",
		}, {
			name: "one that was woken a while ago is",
			in:   scaling.Inputs{Group: woken(time.Minute), Policies: []*fsm.Policy{down(1, 1)}, Metrics: cpu(1)},
			to:   0, winner: "down", verdicts: []fsm.Verdict{fsm.VerdictWon}, says: "scale in from 1 to 0",
		}, {
			name: "cooldown since a request woke the group",
			in: scaling.Inputs{
				Group:    edited(woken(2*time.Minute), func(g *fsm.Group) { g.LastScaledAt = g.WokenAt }),
				Policies: []*fsm.Policy{edited(down(1, 1), func(p *fsm.Policy) { p.Cooldown = fsm.Duration(5 * time.Minute) })}, Metrics: cpu(1),
			},
			to: 1, verdicts: []fsm.Verdict{fsm.VerdictCooldown}, says: "cooldown for another 3m0s",
		}, {
			name: "out beats in",
			in: scaling.Inputs{Group: web(5), Policies: []*fsm.Policy{
				up(1, 1), policy("shrink", fsm.Down, fsm.Greater, 0, 1, 1),
			}, Metrics: cpu(99)},
			to: 6, winner: "up", verdicts: []fsm.Verdict{fsm.VerdictProposed, fsm.VerdictWon}, says: "scale out from 5 to 6",
		}, {
			name: "the largest wins among outs",
			in: scaling.Inputs{Group: web(5), Policies: []*fsm.Policy{
				policy("a", fsm.Up, fsm.Greater, 70, 1, 1), policy("b", fsm.Up, fsm.Greater, 90, 1, 3), policy("c", fsm.Up, fsm.Greater, 80, 1, 2),
			}, Metrics: cpu(99)},
			to: 8, winner: "b", verdicts: []fsm.Verdict{fsm.VerdictProposed, fsm.VerdictWon, fsm.VerdictProposed}, says: "scale out from 5 to 8",
		}, {
			name: "the largest wins among ins",
			in: scaling.Inputs{Group: web(8), Policies: []*fsm.Policy{
				policy("a", fsm.Down, fsm.Less, 70, 1, 5), policy("b", fsm.Down, fsm.Less, 90, 1, 2),
			}, Metrics: cpu(9)},
			to: 6, winner: "b", verdicts: []fsm.Verdict{fsm.VerdictProposed, fsm.VerdictWon}, says: "scale in from 8 to 6",
		}, {
			name: "equal proposals: the first name wins",
			in: scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{
				policy("b", fsm.Up, fsm.Greater, 70, 1, 1), policy("a", fsm.Up, fsm.Greater, 70, 1, 1),
			}, Metrics: cpu(99)},
			to: 4, winner: "a", verdicts: []fsm.Verdict{fsm.VerdictWon, fsm.VerdictProposed}, says: "a: cpu",
		}, {
			name: "no policy",
			in:   scaling.Inputs{Group: web(3), Metrics: cpu(99)},
			to:   3, says: "the group has no policy",
		}, {
			name: "a group that is being deleted stays",
			in:   scaling.Inputs{Group: edited(web(0), func(g *fsm.Group) { g.Deleting, g.MinSize = true, 0 }), Policies: []*fsm.Policy{up(1, 1)}, Metrics: cpu(99)},
			to:   0, verdicts: []fsm.Verdict{fsm.VerdictProposed}, says: "being deleted",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.in.Now, c.in.Interval = noon, 5*time.Second
			d := scaling.Decide(c.in)
			if d.To != c.to || d.From != c.in.Group.Desired || d.Winner != c.winner {
				t.Errorf("got %d → %d by %q, want → %d by %q", d.From, d.To, d.Winner, c.to, c.winner)
			}
			if !strings.Contains(d.Reason, c.says) {
				t.Errorf("reason is %q, want it to say %q", d.Reason, c.says)
			}
			if len(d.Proposals) != len(c.verdicts) {
				t.Fatalf("%d proposals, want %d", len(d.Proposals), len(c.verdicts))
			}
			for k, q := range d.Proposals {
				if q.Verdict != c.verdicts[k] {
					t.Errorf("proposal %s: verdict %s, want %s", q.Policy, q.Verdict, c.verdicts[k])
				}
				if q.Reason == "" {
					t.Errorf("proposal %s has no reason", q.Policy)
				}
			}
		})
	}
}

// TestStreakIsBrokenByAMissingSample would pass vacuously if the newest sample
// were missing, so the gap is in the middle of the window.
func TestStreakIsBrokenByAMissingSample(t *testing.T) {
	in := scaling.Inputs{Group: web(3), Policies: []*fsm.Policy{up(4, 1)}, Windows: window(90, 90, 90), Metrics: cpu(90), Now: noon, Interval: 5 * time.Second}
	if d := scaling.Decide(in); d.To != 4 {
		t.Fatalf("without a gap the size is %d, want 4: %s", d.To, d.Reason)
	}
	samples := in.Windows["cpu"].Samples
	in.Windows["cpu"].Samples = append(samples[:1:1], samples[2:]...)
	d := scaling.Decide(in)
	if d.To != 3 || d.Proposals[0].Breaches != 2 {
		t.Errorf("with a gap: size %d after %d breaches, want 3 after 2", d.To, d.Proposals[0].Breaches)
	}
	in.MaxGap = time.Minute
	if d := scaling.Decide(in); d.Proposals[0].Breaches != 3 {
		t.Errorf("with a longer MaxGap: %d breaches, want 3", d.Proposals[0].Breaches)
	}
}

func TestPercentageIsRoundedAwayAndAtLeastOne(t *testing.T) {
	for _, c := range []struct {
		direction     string
		from, by, to  int
		low, high     int
		metric, limit float64
	}{
		{fsm.Up, 10, 10, 11, 0, 100, 9, 1},
		{fsm.Up, 11, 10, 13, 0, 100, 9, 1},
		{fsm.Up, 1, 1, 2, 0, 100, 9, 1},
		{fsm.Up, 0, 50, 1, 0, 100, 9, 1},
		{fsm.Up, 3, 200, 9, 0, 100, 9, 1},
		{fsm.Down, 10, 10, 9, 0, 100, 9, 1},
		{fsm.Down, 11, 10, 9, 0, 100, 9, 1},
		{fsm.Down, 1, 1, 0, 0, 100, 9, 1},
		{fsm.Down, 4, 400, 0, 0, 100, 9, 1},
	} {
		p := policy("p", c.direction, fsm.Greater, c.limit, 1, c.by)
		p.AdjustmentType = fsm.Percentage
		g := &fsm.Group{Name: "web", MinSize: c.low, MaxSize: c.high, Desired: c.from}
		d := scaling.Decide(scaling.Inputs{Group: g, Policies: []*fsm.Policy{p}, Metrics: cpu(c.metric), Now: noon})
		if d.To != c.to {
			t.Errorf("%s %d %% of %d: got %d, want %d", c.direction, c.by, c.from, d.To, c.to)
		}
	}
}

func drawPolicy(t *rapid.T, name string) *fsm.Policy {
	on := rapid.Bool().Draw(t, "on")
	p := &fsm.Policy{
		Group: "web", Name: name, Metric: rapid.SampledFrom([]string{"cpu", "queue"}).Draw(t, "metric"),
		Operator:          rapid.SampledFrom([]fsm.Operator{fsm.Greater, fsm.Less, fsm.GreaterEqual, fsm.LessEqual}).Draw(t, "op"),
		Threshold:         rapid.Float64Range(-100, 100).Draw(t, "threshold"),
		EvaluationPeriods: rapid.IntRange(0, 5).Draw(t, "periods"),
		Direction:         rapid.SampledFrom([]string{fsm.Up, fsm.Down}).Draw(t, "direction"),
		Adjustment:        rapid.IntRange(1, 10_000).Draw(t, "by"),
		AdjustmentType:    rapid.SampledFrom([]string{fsm.Absolute, fsm.Percentage}).Draw(t, "type"),
		Cooldown:          fsm.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "cooldown")),
		Enabled:           &on,
	}
	if rapid.Bool().Draw(t, "triggered") {
		p.LastTriggeredAt = noon.Add(-time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "ago")))
	}
	return p
}

func drawInputs(t *rapid.T) scaling.Inputs {
	lowest := rapid.IntRange(0, 50).Draw(t, "min")
	highest := rapid.IntRange(lowest, 200).Draw(t, "max")
	in := scaling.Inputs{
		Group: &fsm.Group{Name: "web", MinSize: lowest, MaxSize: highest, Desired: rapid.IntRange(lowest, highest).Draw(t, "desired")},
		Now:   noon, Interval: 5 * time.Second, Metrics: map[string]float64{}, Windows: map[string]*fsm.Window{},
	}
	if rapid.Bool().Draw(t, "scaled") {
		in.Group.LastScaledAt = noon.Add(-time.Duration(rapid.Int64Range(0, int64(time.Hour)).Draw(t, "scaledAgo")))
	}
	for _, m := range []string{"cpu", "queue"} {
		if rapid.Bool().Draw(t, "has "+m) {
			in.Metrics[m] = rapid.Float64().Draw(t, m) // NaN and Inf included
		}
		values := rapid.SliceOfN(rapid.Float64Range(-200, 200), 0, 60).Draw(t, "window")
		in.Windows[m] = window(values...)["cpu"]
	}
	for k := range rapid.IntRange(0, 5).Draw(t, "policies") {
		in.Policies = append(in.Policies, drawPolicy(t, string(rune('a'+k))))
	}
	return in
}

func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := drawInputs(t)
		d := scaling.Decide(in)
		if d.To < in.Group.MinSize || d.To > in.Group.MaxSize {
			t.Fatalf("size %d is outside [%d, %d]", d.To, in.Group.MinSize, in.Group.MaxSize)
		}
		if d.Reason == "" || len(d.Reason) > 256 {
			t.Fatalf("reason of %d bytes", len(d.Reason))
		}
		for name, v := range d.Metrics {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Fatalf("metric %s is %v", name, v)
			}
		}
		checkWinner(t, in, d)
		if again := scaling.Decide(in); again.To != d.To || again.Reason != d.Reason {
			t.Fatalf("not a pure function: %q, then %q", d.Reason, again.Reason)
		}
	})
}

func checkWinner(t *rapid.T, in scaling.Inputs, d fsm.Decision) {
	byName := map[string]*fsm.Policy{}
	for _, p := range in.Policies {
		byName[p.Name] = p
	}
	wins, anyUp := 0, false
	for _, q := range d.Proposals {
		p := byName[q.Policy]
		if q.Verdict != fsm.VerdictWon && q.Verdict != fsm.VerdictProposed {
			continue
		}
		anyUp = anyUp || p.Direction == fsm.Up
		if q.Verdict == fsm.VerdictWon {
			wins++
		}
		since := in.Now.Sub(in.Group.LastScaledAt)
		if !in.Group.LastScaledAt.IsZero() && since < p.Cooldown.Std() {
			t.Fatalf("%s proposes %s after the last change, within its cooldown of %s", p.Name, since, p.Cooldown)
		}
		if own := in.Now.Sub(p.LastTriggeredAt); !p.LastTriggeredAt.IsZero() && own < p.Cooldown.Std() {
			t.Fatalf("%s proposes %s after its last trigger, within its cooldown of %s", p.Name, own, p.Cooldown)
		}
		if !p.On() || q.Value == nil || !p.Operator.Holds(*q.Value, p.Threshold) || q.Breaches < q.Periods {
			t.Fatalf("%s proposes without a right to: %+v", p.Name, q)
		}
		if (p.Direction == fsm.Up && q.Size <= d.From) || (p.Direction == fsm.Down && q.Size >= d.From && d.From > 0) {
			t.Fatalf("%s of direction %s proposes %d from %d", p.Name, p.Direction, q.Size, d.From)
		}
	}
	if (d.Winner == "") != (wins == 0) || wins > 1 {
		t.Fatalf("%d winners, named %q", wins, d.Winner)
	}
	switch {
	case d.Winner == "" && d.To != d.From:
		t.Fatalf("the size changes without a winner")
	case anyUp && d.To < d.From:
		t.Fatalf("scaled in although a policy wants out")
	case d.To > d.From && byName[d.Winner].Direction != fsm.Up, d.To < d.From && byName[d.Winner].Direction != fsm.Down:
		t.Fatalf("%s of direction %s moves %d to %d", d.Winner, byName[d.Winner].Direction, d.From, d.To)
	}
}

func BenchmarkDecide(b *testing.B) {
	values := make([]float64, fsm.WindowSamples)
	for k := range values {
		values[k] = 90
	}
	in := scaling.Inputs{
		Group: web(3), Policies: []*fsm.Policy{up(3, 1), down(10, 1)}, Windows: window(values...),
		Metrics: cpu(90), Now: noon, Interval: 5 * time.Second,
	}
	b.ReportAllocs()
	for b.Loop() {
		scaling.Decide(in)
	}
}
