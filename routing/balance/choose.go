package balance

import (
	"math/rand/v2"
	"slices"
)

// choose is the best of some random choices. The first one is drawn by weight
// and wins a tie; the others are drawn by weight from all, the first excepted.
func (p *pool) choose(s *Set, r *Request, slow bool, choices int) int {
	if len(p.members) == 1 || slow || len(r.Tried) > 0 {
		return p.chooseFresh(s, r, slow, choices)
	}
	x := rand.Uint64()
	first := p.sample(x)
	if s.policy != peakEWMA {
		return p.fewest(x, first, choices)
	}
	second := p.sampleOther(again(x), first)
	if p.cost(s, r, second, false) < p.cost(s, r, first, false) {
		return second
	}
	return first
}

// fewest compares random choices by requests in flight for their weight. The
// least of numbers that end with the place of a choice needs no branch, which
// would be foretold wrongly half of the time.
func (p *pool) fewest(x uint64, first, choices int) int {
	var at [leastChoices]int
	at[0] = first
	best := p.members[first].rank()
	for k := 1; k < choices; k++ {
		x = again(x)
		at[k] = p.sampleOther(x, first)
		best = min(best, p.members[at[k]].rank()|uint64(k))
	}
	return at[best%maxEndpoints]
}

// rank is the requests in flight for the weight, with room for a place in a
// comparison.
func (m *member) rank() uint64 {
	flight := uint64(max(m.load.InFlight(), 0))
	return min(flight, 1<<20) * uint64(m.scaled) * maxEndpoints
}

// chooseFresh leaves out endpoints that were tried, and young ones when it is
// not their turn.
func (p *pool) chooseFresh(s *Set, r *Request, slow bool, choices int) int {
	best := p.draw(s, r, slow)
	if best < 0 || len(p.members) == 1 {
		return best
	}
	first, least := best, p.cost(s, r, best, slow)
	for range choices - 1 {
		at := p.sampleOther(rand.Uint64(), first)
		if !p.eligible(s, r, at, slow) {
			continue
		}
		if c := p.cost(s, r, at, slow); c < least {
			best, least = at, c
		}
	}
	return best
}

// sampleOther draws a member that is not first, by weight. When that gives the
// first again, as its weight may be most of the total, it is any other one, and
// never none: the first may be the one that is in trouble.
func (p *pool) sampleOther(x uint64, first int) int {
	at := p.sample(x)
	if at != first {
		return at
	}
	n := uint64(len(p.members))
	at += 1 + int((again(x)>>32)*(n-1)>>32)
	if at >= int(n) {
		at -= int(n)
	}
	return at
}

// eligible says whether a member may be compared: it was not tried, and its age
// lets it take part this time.
func (p *pool) eligible(s *Set, r *Request, at int, slow bool) bool {
	m := &p.members[at]
	return !slices.Contains(r.Tried, m.index) && (!slow || p.admits(s, m, r, rand.Float64()))
}

// scanLeast is the best of all members. One drawn by weight wins a tie; the
// others go round from a random place.
func (p *pool) scanLeast(s *Set, r *Request, slow bool) int {
	if slow || len(r.Tried) > 0 {
		return p.scanFresh(s, r, slow)
	}
	x := rand.Uint64()
	first, n := p.sample(x), len(p.members)
	start := int(again(x) >> 32 * uint64(n) >> 32)
	best := p.members[first].rank()
	for at := range p.members {
		k := at - start
		if k < 0 {
			k += n
		}
		best = min(best, p.members[at].rank()|uint64(k+1))
	}
	k := int(best % maxEndpoints)
	if k == 0 {
		return first
	}
	return (start + k - 1) % n
}

func (p *pool) scanFresh(s *Set, r *Request, slow bool) int {
	best := p.draw(s, r, slow)
	if best < 0 {
		return best
	}
	least := p.cost(s, r, best, slow)
	start, n := rand.IntN(len(p.members)), len(p.members)
	for k := range n {
		at := (start + k) % n
		if c := p.cost(s, r, at, slow); c < least && p.eligible(s, r, at, slow) {
			best, least = at, c
		}
	}
	return best
}

// cost is what a policy compares: the requests in flight for the weight and, for
// peak EWMA, the time they will take.
func (p *pool) cost(s *Set, r *Request, at int, slow bool) float64 {
	m := &p.members[at]
	flight := float64(max(m.load.InFlight(), 0)) * m.inv
	if slow {
		flight /= s.ramp(m.since, r.Now)
	}
	if s.policy != peakEWMA {
		return flight
	}
	latency := m.load.latency(r.Now)
	if latency == 0 {
		// Nothing is known yet. One request may find out, the others wait.
		if flight == 0 {
			return 0
		}
		latency = float64(unknownLatency)
	}
	return latency * (1 + flight)
}
