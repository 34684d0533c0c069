package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// The garbage collector's pace. A node's heap is small and busy when the
// cluster is new, and large and quiet when the state is: a fixed GOGC collects
// the first far too often and doubles the second for nothing. The heap may
// grow by what is allocated in a second, within bounds, or by a share of what
// lives, if that is more.
const (
	gcHeadroomMin = 12 << 20 // bytes
	gcHeadroomMax = 64 << 20 // bytes
	gcShare       = 25       // percent of the live heap
	gcPercentMax  = 1000
	gcEvery       = time.Second
	liveHeap      = "/gc/heap/live:bytes"
	allocated     = "/gc/heap/allocs:bytes"
)

// tuneGC keeps the collector's pace fitting until ctx ends. A GOGC in the
// environment is left alone.
func tuneGC(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(gcEvery)
	defer tick.Stop()
	samples := []metrics.Sample{{Name: liveHeap}, {Name: allocated}}
	var before uint64
	last := 0
	for {
		metrics.Read(samples)
		live, total := samples[0].Value.Uint64(), samples[1].Value.Uint64()
		// Small changes are not worth the pause that SetGCPercent takes.
		if p := gcPercent(live, total-before); p < last*3/4 || p > last*5/4 {
			debug.SetGCPercent(p)
			last = p
		}
		before = total
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// gcPercent is the GOGC for a live heap and the bytes allocated in the last
// second.
func gcPercent(live, rate uint64) int {
	live = max(live, 1<<20)
	headroom := max(min(max(rate, gcHeadroomMin), gcHeadroomMax), live*gcShare/100)
	return int(min(headroom*100/live, gcPercentMax))
}
