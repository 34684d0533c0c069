package proxy

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets whose width is an eighth of their
// lower bound, from 16 µs to more than an hour, so that a quantile is off by
// at most 12 %. Its zero value is ready; observing is one atomic add.
type histogram struct {
	buckets [numBuckets]atomic.Uint64
}

const (
	histogramUnit = 16 * time.Microsecond
	subBuckets    = 8
	numOctaves    = 28
	numBuckets    = numOctaves * subBuckets
)

func (h *histogram) observe(d time.Duration) { h.buckets[bucketOf(d)].Add(1) }

// bucketOf returns the bucket of a duration: the position of its highest bit
// and the three bits below it.
func bucketOf(d time.Duration) int {
	u := uint64(max(d, 0) / (histogramUnit / subBuckets))
	if u < subBuckets {
		return int(u)
	}
	octave := bits.Len64(u) - 3
	return min(octave*subBuckets+int(u>>(octave-1))-subBuckets, numBuckets-1)
}

// upperBound is the duration at which the next bucket begins.
func upperBound(bucket int) time.Duration {
	next := bucket + 1
	octave := next / subBuckets
	if octave == 0 {
		return time.Duration(next) * histogramUnit / subBuckets
	}
	return time.Duration(subBuckets+next%subBuckets) << (octave - 1) * histogramUnit / subBuckets
}

// counts copies the buckets.
func (h *histogram) counts() (c [numBuckets]uint64) {
	for k := range h.buckets {
		c[k] = h.buckets[k].Load()
	}
	return c
}
