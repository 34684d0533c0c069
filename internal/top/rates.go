package top

import (
	"cmp"
	"maps"
	"math"
	"slices"
)

// increase is how much a set of counters grew. The counters of a set begin
// together; when one of them has fallen, all have begun anew in between, and
// what they show came since. It is then less than what really happened, and
// never more.
func increase[K comparable](before, after map[K]float64) map[K]float64 {
	begin := before
	for k, was := range before {
		if after[k] < was {
			begin = nil
			break
		}
	}
	out := make(map[K]float64, len(after))
	for k, v := range after {
		out[k] = v - begin[k]
	}
	return out
}

// growth is increase for a single counter.
func growth(before, after float64) float64 {
	if after < before {
		return after
	}
	return after - before
}

// quantile estimates the time that a share q of the answers did not exceed,
// from counts by upper bound: linear within a bucket. What lies beyond the
// last finite bound is told as that bound. It is false without answers.
func quantile(q float64, buckets map[float64]float64) (float64, bool) {
	bounds := slices.SortedFunc(maps.Keys(buckets), cmp.Compare)
	total := 0.0
	for _, b := range bounds {
		total += buckets[b]
	}
	if total <= 0 {
		return 0, false
	}
	rank, lower := q*total, 0.0
	for _, upper := range bounds {
		n := buckets[upper]
		if math.IsInf(upper, 1) {
			break
		}
		if n > 0 && rank <= n {
			return lower + (upper-lower)*rank/n, true
		}
		rank -= n
		lower = upper
	}
	return lower, true
}
