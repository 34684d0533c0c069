package balance_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/routing/balance"
)

// TestTurnsAreExact checks that every round, wherever it begins, gives each
// endpoint exactly its turns, and that an endpoint's turns are well apart.
func TestTurnsAreExact(t *testing.T) {
	for _, p := range policies[1:3] {
		t.Run(p.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				ws := rapid.SliceOfN(rapid.SampledFrom([]int{1, 2, 3, 4, 5, 12, 60, 256}), 1, 12).Draw(t, "weights")
				es := weights(ws...)
				s, err := balance.New(balance.Config{Policy: p.name}, es)
				if err != nil {
					t.Fatal(err)
				}
				turns, round := turnsOf(es, p.weighted)
				last := make([]int, len(es))
				counts := make([]int, len(es))
				var seq []int
				for k := range 3 * round {
					i := s.Pick(&balance.Request{})
					seq = append(seq, i)
					counts[i]++
					if k >= round {
						counts[seq[k-round]]--
					}
					// Others of the same weight may stand a little differently in
					// relation to it, one place for each endpoint.
					if gap := k - last[i]; k >= round && gap > round/turns[i]+len(es)+1 {
						t.Fatalf("endpoint %d waits for %d picks; it has %d of %d turns", i, gap, turns[i], round)
					}
					last[i] = k
					for j := range counts {
						if k >= round-1 && counts[j] != turns[j] {
							t.Fatalf("endpoint %d has %d turns in %d picks, expected %d", j, counts[j], round, turns[j])
						}
					}
				}
			})
		})
	}
}

// turnsOf is how many turns each endpoint has in the shortest round.
func turnsOf(es []balance.Endpoint, weighted bool) (turns []int, round int) {
	divisor := 0
	for _, w := range shares(es, weighted) {
		for a := int(w); a != 0; {
			divisor, a = a, divisor%a
		}
	}
	for _, w := range shares(es, weighted) {
		turns = append(turns, int(w)/divisor)
		round += int(w) / divisor
	}
	return turns, round
}

// TestHeavyEndpointIsInterleaved checks the order that plain repetition by weight
// would get wrong: the light ones do not stand together.
func TestHeavyEndpointIsInterleaved(t *testing.T) {
	s := newSet(t, balance.Config{Policy: "weighted_round_robin"}, weights(6, 1, 1))
	run := 0
	for range 100 {
		if s.Pick(&balance.Request{}) != 0 {
			run = 0
		} else if run++; run > 4 {
			t.Fatal("the heavy endpoint has more than 4 turns in a row")
		}
	}
}
