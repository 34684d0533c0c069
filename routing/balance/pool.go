package balance

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"time"
)

// pool is a part of a set within which a policy picks.
type pool struct {
	members []member
	slots   []slot
	even    bool          // all weights are the same
	oldest  time.Duration // the earliest Since

	turns []uint16 // round robin: members in the order of their turns
	keys  []key    // hashing: of the members, in the same order
	table []uint16 // hashing in a large pool: Maglev's

	_    [cacheLine]byte
	next atomic.Uint64 // round robin: the next turn
	_    [cacheLine - 8]byte
}

type member struct {
	load   *Load
	since  time.Duration
	inv    float64 // the mean weight divided by the own one
	seed   uint64  // the key's hash
	index  int32   // in the set
	weight int32
	scaled uint32 // inv as an integer of 20 binary places
}

// slot is one of an alias table (Walker, Vose): it stands for its own member up
// to and including cut, of 2^32, and for other above.
type slot struct {
	cut   uint32
	other uint32
}

func (s *Set) newPool(indexes []int) *pool {
	p := &pool{members: make([]member, len(indexes)), even: true, oldest: math.MaxInt64}
	total := 0
	for at, i := range indexes {
		e := &s.endpoints[i]
		w := s.weightOf(i)
		total += w
		p.members[at] = member{load: e.Load, since: e.Since, index: int32(i), weight: int32(w)}
		p.even = p.even && int32(w) == p.members[0].weight
		p.oldest = min(p.oldest, e.Since)
	}
	for at := range p.members {
		m := &p.members[at]
		m.inv = float64(total) / float64(len(indexes)) / float64(m.weight)
		m.scaled = uint32(m.inv * (1 << 20))
	}
	switch {
	case s.policy.hashes():
		p.prepareHash(s)
	case s.policy == roundRobin || s.policy == weightedRoundRobin:
		p.turns = interleave(p.members)
		p.next.Store(uint64(rand.IntN(len(p.turns)))) // nodes do not start alike
	}
	p.slots = aliasTable(p.members, total)
	return p
}

func aliasTable(members []member, total int) []slot {
	n := len(members)
	slots := make([]slot, n)
	// In units of 1/n of the total weight: what a member still has to place.
	left := make([]int, n)
	var small, large []int
	for i := range members {
		left[i] = int(members[i].weight) * n
		slots[i] = slot{cut: math.MaxUint32, other: uint32(i)}
		if left[i] < total {
			small = append(small, i)
		} else {
			large = append(large, i)
		}
	}
	for len(small) > 0 && len(large) > 0 {
		i, j := small[len(small)-1], large[len(large)-1]
		small = small[:len(small)-1]
		slots[i] = slot{cut: uint32(uint64(left[i])<<32/uint64(total) - 1), other: uint32(j)}
		left[j] -= total - left[i]
		if left[j] < total {
			large = large[:len(large)-1]
			small = append(small, j)
		}
	}
	return slots
}

// sample draws a member by weight, with 64 random bits.
func (p *pool) sample(x uint64) int {
	i := (x >> 32) * uint64(len(p.slots)) >> 32
	if s := p.slots[i]; uint32(x) > s.cut {
		return int(s.other)
	}
	return int(i)
}

// draw draws a member by weight that was not tried; -1 if all were.
func (p *pool) draw(s *Set, r *Request, slow bool) int {
	if !slow && len(r.Tried) == 0 {
		return p.sample(rand.Uint64())
	}
	return p.drawFresh(s, r, slow)
}

// drawFresh draws again when an endpoint was tried, or is young and it is not
// its turn. When nothing came of it, it is the oldest that was drawn.
func (p *pool) drawFresh(s *Set, r *Request, slow bool) int {
	best := -1
	for range drawLimit {
		at := p.sample(rand.Uint64())
		m := &p.members[at]
		if slices.Contains(r.Tried, m.index) {
			continue
		}
		if !slow || p.admits(s, m, r, rand.Float64()) {
			return at
		}
		if best < 0 || m.since < p.members[best].since {
			best = at
		}
	}
	if best < 0 {
		return p.drawSlowly(s, r, slow)
	}
	return best
}

// admits decides, by a number in [0, 1), whether an endpoint in slow start gets
// what an endpoint of full age would. The oldest one always does, as a share is
// one in relation to others'.
func (p *pool) admits(s *Set, m *member, r *Request, x float64) bool {
	return s.ramp(m.since, r.Now) >= x*s.ramp(p.oldest, r.Now)
}

// drawSlowly looks at all members: nearly all have been tried.
func (p *pool) drawSlowly(s *Set, r *Request, slow bool) int {
	var room marks
	t := lookUp(r.Tried, &room)
	chosen, sum := -1, 0.0
	for at := range p.members {
		m := &p.members[at]
		if t.has(m.index) {
			continue
		}
		w := float64(m.weight)
		if slow {
			w *= s.ramp(m.since, r.Now)
		}
		// Each takes the place of those before it by its part of their sum.
		if sum += w; rand.Float64()*sum < w {
			chosen = at
		}
	}
	return chosen
}

// tried is the set of the indexes that were tried, as a list and, when that is
// long, as bits.
type tried struct {
	list []int32
	bits *marks
}

type marks [maxEndpoints / 64]uint64

// lookUp makes a list quick to look up; room is for one that is long. Callers
// declare the room only then, as clearing it takes as long as a pick.
func lookUp(list []int32, room *marks) tried {
	for _, i := range list {
		if i >= 0 && i < maxEndpoints {
			room[i/64] |= 1 << (i % 64)
		}
	}
	return tried{list, room}
}

func (t *tried) has(i int32) bool {
	if t.bits != nil {
		return t.bits[i/64]&(1<<(i%64)) != 0
	}
	return slices.Contains(t.list, i)
}
