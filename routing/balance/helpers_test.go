package balance_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/routing/balance"
)

// policies is every policy and what the suite may expect of it.
var policies = []struct {
	name      string
	weighted  bool
	loadAware bool
	hashes    bool
}{
	{name: "random", weighted: true},
	{name: "round_robin"},
	{name: "weighted_round_robin", weighted: true},
	{name: "least_requests", weighted: true, loadAware: true},
	{name: "power_of_two", weighted: true, loadAware: true},
	{name: "peak_ewma", weighted: true, loadAware: true},
	{name: "ip_hash", weighted: true, hashes: true},
	{name: "hash", weighted: true, hashes: true},
}

// TestEveryPolicyIsInTheSuite keeps the table complete.
func TestEveryPolicyIsInTheSuite(t *testing.T) {
	var names []string
	for _, p := range policies {
		names = append(names, p.name)
	}
	if got, want := fmt.Sprint(names), fmt.Sprint(balance.Policies()); got != want {
		t.Errorf("the suite knows %s, the package %s", got, want)
	}
}

// falseAlarm bounds the probability that one comparison of a count with its
// expectation fails by chance. The suite makes about a thousand of them, so that a
// correct package fails it less than once in 10^8 runs.
const falseAlarm = 1e-12

// tolerance is how far a count of n independent picks, each of probability p,
// may be from n*p: Bernstein's inequality, solved for a probability of
// falseAlarm. It is a bound, not an approximation, and holds for picks that
// differ in their probabilities too.
func tolerance(n int, p float64) float64 {
	l := math.Log(2 / falseAlarm)
	return l/3 + math.Sqrt(l*l/9+2*l*float64(n)*p*(1-p))
}

// checkShares compares counts with their expected shares. slack is what the
// policy may be off by design.
func checkShares(t *testing.T, counts []int, want []float64, slack float64) {
	t.Helper()
	n := 0
	for _, c := range counts {
		n += c
	}
	sum := 0.0
	for _, w := range want {
		sum += w
	}
	for i, c := range counts {
		p := want[i] / sum
		if off := math.Abs(float64(c) - float64(n)*p); off > tolerance(n, p)+slack*float64(n) {
			t.Errorf("endpoint %d has %d of %d picks, expected %.0f; tolerance %.0f", i, c, n, float64(n)*p, tolerance(n, p)+slack*float64(n))
		}
	}
}

// tableSlack is how far the share of an endpoint in Maglev's table may be from
// its weight: a turn is one entry of 65,537.
const tableSlack = 2.0 / 65_537

func newSet(t testing.TB, cfg balance.Config, es []balance.Endpoint) *balance.Set {
	t.Helper()
	s, err := balance.New(cfg, es)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// count makes n picks with hashes that are the same in each run.
func count(t testing.TB, s *balance.Set, n int, now time.Duration, tried ...int32) []int {
	t.Helper()
	counts := make([]int, s.Len())
	rng := rand.New(rand.NewPCG(1, 2))
	for range n {
		i := s.Pick(&balance.Request{Hash: rng.Uint64(), Now: now, Tried: tried})
		if i < 0 || i >= s.Len() {
			t.Fatalf("picked %d of %d endpoints", i, s.Len())
		}
		counts[i]++
	}
	return counts
}

// weights makes endpoints of these weights.
func weights(ws ...int) []balance.Endpoint {
	return endpoints(len(ws), func(i int, e *balance.Endpoint) { e.Weight = ws[i] })
}

// shares are the weights as a policy sees them.
func shares(es []balance.Endpoint, weighted bool) []float64 {
	ws := make([]float64, len(es))
	for i := range es {
		ws[i] = 1
		if weighted {
			ws[i] = float64(max(es[i].Weight, 1))
		}
	}
	return ws
}
