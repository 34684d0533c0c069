package balance

import (
	"math/rand/v2"
	"slices"
)

// turn is the next one of the schedule. A turn that an endpoint can not take, as
// it was tried or is in slow start, goes to a random one: the next in order
// would always take those of the same neighbour.
func (p *pool) turn(s *Set, r *Request, slow bool) int {
	i := (p.next.Add(1) - 1) % uint64(len(p.turns))
	at := int(p.turns[i])
	if !slow && len(r.Tried) == 0 {
		return at
	}
	if m := &p.members[at]; slices.Contains(r.Tried, m.index) || slow && !p.admits(s, m, r, rand.Float64()) {
		return p.draw(s, r, slow)
	}
	return at
}

// interleave makes the schedule of round robin: as many turns for each member
// as its weight says, spread as evenly as can be.
func interleave(members []member) []uint16 {
	divisor, total := int(members[0].weight), 0
	for i := range members {
		divisor = gcd(divisor, int(members[i].weight))
		total += int(members[i].weight)
	}
	turns := min(total/divisor, maxTurns)
	// Members of the same weight take turns at the same distance from each
	// other, so that equal weights give a plain rotation.
	var of, seen [maxWeight + 1]int
	for i := range members {
		of[members[i].weight]++
	}
	phase := make([]float64, len(members))
	for i := range members {
		w := members[i].weight
		phase[i] = (float64(seen[w]) + 0.5) / float64(of[w])
		seen[w]++
	}
	return schedule(members, phase, turns, total)
}

// schedule puts the turns of all members in order, about as many as there are
// places. A member with a part w of the total weight has one turn in total/w
// places, the first one a phase of that after the start; each has at least one.
//
// It sorts by counting, as there is nearly one turn for each place.
func schedule(members []member, phase []float64, places, total int) []uint16 {
	starts := make([]int32, places+1)
	each := func(do func(at, place int)) {
		for at := range members {
			step := min(float64(total)/float64(members[at].weight), float64(places))
			for k := 0.0; ; k++ {
				place := int((k + phase[at]) * step)
				if place >= places {
					break
				}
				do(at, place)
			}
		}
	}
	each(func(_, place int) { starts[place+1]++ })
	for i := range places {
		starts[i+1] += starts[i]
	}
	turns := make([]uint16, starts[places])
	each(func(at, place int) {
		turns[starts[place]] = uint16(at)
		starts[place]++
	})
	return turns
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}
