package balance

// tableSizes are the sizes of Maglev's table: primes, from that of the paper's
// small table on. A change of the size moves most hashes, so there are few.
var tableSizes = [...]int{65_537, 131_101, 524_309, 1_048_583}

// entriesEach is how many entries of the table there should be for a member.
const entriesEach = 100

// maglev fills the lookup table of "Maglev: A Fast and Reliable Software Network
// Load Balancer" (Eisenbud et al., 2016, section 3.4): members take turns, and
// each takes the next free entry of a permutation of its own. Turns are by
// weight, in an order that the removal of a member leaves as it is.
func maglev(members []member) []uint16 {
	size := tableSizes[len(tableSizes)-1]
	for _, n := range tableSizes {
		if n >= entriesEach*len(members) {
			size = n
			break
		}
	}
	total := 0
	phase := make([]float64, len(members))
	at := make([]uint32, len(members))
	skip := make([]uint32, len(members))
	for i := range members {
		m := &members[i]
		total += int(m.weight)
		// Early, as the table may be full before the last turns.
		phase[i] = 0.25
		at[i] = uint32(within(mix(m.seed), size))
		skip[i] = uint32(1 + within(mix(^m.seed), size-1))
	}
	turns := schedule(members, phase, size, total)
	table := make([]uint16, size)
	// One bit for each entry stays in the nearest cache: most of the time goes
	// into entries that are taken.
	taken := make([]uint64, size/64+1)
	for filled := range size {
		i := turns[filled%len(turns)]
		k, by := at[i], skip[i]
		for taken[k/64]&(1<<(k%64)) != 0 {
			if k += by; k >= uint32(size) {
				k -= uint32(size)
			}
		}
		taken[k/64] |= 1 << (k % 64)
		table[k], at[i] = i, k
	}
	return table
}
