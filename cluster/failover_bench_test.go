package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"
)

// BenchmarkFailover ends the leader and measures until the first acknowledged
// write that began after that, on a follower. The nodes are in this process,
// so that the death is the end of its sockets, as the kernel would do it.
func BenchmarkFailover(b *testing.B) {
	for _, c := range []struct {
		how string
		end func(f *fleet, n *node)
	}{
		{"kill", func(f *fleet, n *node) { f.kill(n) }},
		{"stop", func(f *fleet, n *node) { f.stop(n) }},
	} {
		b.Run(c.how, func(b *testing.B) {
			f := running(b, 3)
			var gaps []time.Duration
			for i := range b.N {
				gaps = append(gaps, failOver(b, f, i, c.end))
			}
			slices.Sort(gaps)
			b.ReportMetric(float64(gaps[len(gaps)/2].Microseconds())/1000, "median-ms")
			b.ReportMetric(float64(gaps[len(gaps)-1].Microseconds())/1000, "max-ms")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// failOver ends the leader once, returns the longest wait of a write that
// began meanwhile, and brings the node back.
func failOver(b *testing.B, f *fleet, i int, end func(*fleet, *node)) time.Duration {
	l := f.leader()
	via := f.followers()[0]
	gone := make(chan struct{})
	start := time.Now()
	go func() {
		end(f, l)
		close(gone)
	}()
	var worst time.Duration
	over := false
	for k := 0; !over || k < 20; k++ {
		select {
		case <-gone:
			over = true
		default:
		}
		t := time.Now()
		if _, err := via.Propose(context.Background(), put(fmt.Sprintf("t-%d-%d", i, k))); err != nil {
			b.Fatalf("a write failed %s after the end: %v", time.Since(start), err)
		}
		worst = max(worst, time.Since(t))
	}
	f.start(l)
	f.settled()
	eventually(b, "the node is back", func() error {
		if l.State().Index() < via.State().Index() {
			return fmt.Errorf("it is at index %d", l.State().Index())
		}
		return nil
	})
	return worst
}
