package balance

import (
	"cmp"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/zeebo/xxh3"
)

// key is what rendezvous hashing reads of a member, kept together.
type key struct {
	seed uint64
	inv  uint64 // maxInverse divided by the weight
}

// prepareHash puts the members in an order that depends on their keys only.
func (p *pool) prepareHash(s *Set) {
	for at := range p.members {
		p.members[at].seed = xxh3.HashString(s.endpoints[p.members[at].index].Key)
	}
	slices.SortFunc(p.members, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.seed, b.seed), cmp.Compare(s.endpoints[a.index].Key, s.endpoints[b.index].Key))
	})
	for at := range p.members {
		p.keys = append(p.keys, key{p.members[at].seed, maxInverse / uint64(p.members[at].weight)})
	}
	if len(p.members) > rendezvous {
		p.table = maglev(p.members)
	}
}

// hashed picks by the request's hash.
func (p *pool) hashed(s *Set, r *Request, slow bool) int {
	h := mix(r.Hash)
	plain := !slow && s.bounded == 0 && len(r.Tried) == 0
	switch {
	case p.table != nil && plain:
		return int(p.table[within(h, len(p.table))])
	case p.table != nil:
		return p.probe(s, r, slow, h)
	case p.even && plain:
		return p.highest(h)
	case plain:
		return p.lowest(h)
	default:
		return p.rendezvous(s, r, slow, h)
	}
}

// highest is rendezvous hashing for members that are all alike.
func (p *pool) highest(h uint64) int {
	best, most := 0, uint64(0)
	for at := range p.keys {
		if x := score(h, p.keys[at].seed); x > most {
			best, most = at, x
		}
	}
	return best
}

// lowest is weighted rendezvous hashing: the member with the least -log(x)/weight,
// for x in (0, 1) from the hash and the member. All numbers are integers, so
// that it needs no branch and that nodes of any processor agree.
func (p *pool) lowest(h uint64) int {
	least := uint64(math.MaxUint64)
	for at := range p.keys {
		k := &p.keys[at]
		least = min(least, negLog(score(h, k.seed))*k.inv*rendezvous|uint64(at))
	}
	return int(least % rendezvous)
}

// rendezvous is lowest, with a part of the weight for members in slow start, so
// that hashes only ever move to them, and without those that were tried or have
// their bounded load; -1 when none is left.
func (p *pool) rendezvous(s *Set, r *Request, slow bool, h uint64) int {
	if len(r.Tried) <= fewTried {
		return p.lowestFresh(s, r, slow, h, tried{list: r.Tried})
	}
	var room marks
	return p.lowestFresh(s, r, slow, h, lookUp(r.Tried, &room))
}

func (p *pool) lowestFresh(s *Set, r *Request, slow bool, h uint64, t tried) int {
	room := s.room()
	best, least := -1, uint64(math.MaxUint64)
	for at := range p.keys {
		k, m := &p.keys[at], &p.members[at]
		inv := k.inv
		if slow {
			if share := s.ramp(m.since, r.Now); share < 1 {
				inv = uint64(float64(inv) / share)
			}
		}
		if y := negLog(score(h, k.seed)) * inv; y < least && !t.has(m.index) && s.fits(m, room) {
			best, least = at, y
		}
	}
	return best
}

// probe looks up the table until it finds a member that was not tried, is not
// too young for this hash, and has room.
func (p *pool) probe(s *Set, r *Request, slow bool, h uint64) int {
	room := s.room()
	x := h
	for range drawLimit {
		at := int(p.table[within(x, len(p.table))])
		m := &p.members[at]
		young := slow && !p.admits(s, m, r, float64(score(h, ^m.seed)>>11)/(1<<53))
		if !young && !slices.Contains(r.Tried, m.index) && s.fits(m, room) {
			return at
		}
		x = mix(x)
	}
	return p.rendezvous(s, r, slow, h)
}

// spills says whether a request goes to another zone.
func (s *Set) spills(r *Request) bool {
	x := rand.Uint64()
	if s.policy.hashes() {
		x = score(mix(r.Hash), zoneSeed)
	}
	return x < s.spill
}

// room is what bounds the load of an endpoint of weight one, in percent of the
// total weight. It counts the request that is about to be sent.
func (s *Set) room() int64 {
	if s.bounded == 0 {
		return 0
	}
	total := int64(1)
	for _, f := range s.families {
		total += f.total.Load()
	}
	return s.bounded * total
}

// fits says whether one more request leaves an endpoint within its bound, which
// is rounded up.
func (s *Set) fits(m *member, room int64) bool {
	return s.bounded == 0 || m.load.InFlight()*100*s.weight < room*int64(m.weight)
}

// leastLoaded is for when no endpoint that is left has room: others took it at
// the same time, or those that have it were tried.
func (s *Set) leastLoaded(r *Request) int {
	var room marks
	t := lookUp(r.Tried, &room)
	best, least := -1, math.Inf(1)
	for i := range s.endpoints {
		e := &s.endpoints[i]
		if c := float64(e.Load.InFlight()) / float64(e.Weight); c < least && !t.has(int32(i)) {
			best, least = i, c
		}
	}
	return best
}

// maxInverse is what a weight of 1 divides by, of 28 binary places: a change of
// the set must not touch the rounding.
const maxInverse = 1 << 28

const (
	golden   = 0x9e3779b97f4a7c15 // 2^64 divided by the golden ratio
	zoneSeed = 0xd1342543de82ef95
)

// score mixes a hash with a member's seed: the two halves of a product, folded.
func score(h, seed uint64) uint64 {
	hi, lo := bits.Mul64(h^seed, golden)
	return hi ^ lo
}

// again makes further random bits of random bits, for less than new ones cost.
func again(x uint64) uint64 { return score(x, zoneSeed) }

// mix is the finalizer of splitmix64.
func mix(x uint64) uint64 {
	x += golden
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// within maps a hash to [0, n).
func within(h uint64, n int) int {
	hi, _ := bits.Mul64(h, uint64(n))
	return int(hi)
}
