package balance

import (
	"math"
	"math/bits"
)

// logPlaces is how many binary places a logarithm has. With 7 bits before them
// and the 28 of a weight and the 5 of a member, it fills a word.
const logPlaces = 24

// logs are the values of -log2(x/2) from x = 1 to 2, in 256 steps.
var logs = makeLogs()

func makeLogs() (t [257]uint64) {
	for i := range t {
		t[i] = uint64(math.Round((1 - math.Log2(1+float64(i)/256)) * (1 << logPlaces)))
	}
	return t
}

// negLog is -log2(x/2^64): how many zeros x begins with, and the rest by a
// table, straight between its values. It is at most two millionths off.
func negLog(x uint64) uint64 {
	zeros := bits.LeadingZeros64(x | 1)
	m := (x | 1) << zeros
	i := m >> 55 & 0xff
	a, b := logs[i], logs[i+1]
	return uint64(zeros)<<logPlaces + a - (a-b)*(m>>23&0xffff_ffff)>>32
}
