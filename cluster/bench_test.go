package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// labelled is the benchmark's write: a template with a label of 100 bytes.
func labelled(name string) fsm.Command {
	const hundred = "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
	return fsm.PutTemplate{Template: fsm.Template{
		Name: name, Driver: "process", Command: "@sample", Labels: map[string]string{"note": hundred},
	}}
}

// spread runs do b.N times from a number of clients, over all nodes, and
// reports the rate and the median and 99th percentile of the latency.
func spread(b *testing.B, f *fleet, clients int, do func(n *node, client, i int) error) {
	b.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	lat := make([][]time.Duration, clients)
	b.ResetTimer()
	start := time.Now()
	for k := range clients {
		n := f.nodes[k%len(f.nodes)]
		wg.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				t := time.Now()
				if err := do(n, k, i); err != nil {
					b.Error(err)
					return
				}
				lat[k] = append(lat[k], time.Since(t))
			}
		})
	}
	wg.Wait()
	took := time.Since(start)
	b.StopTimer()
	all := slices.Concat(lat...)
	slices.Sort(all)
	if len(all) > 0 {
		b.ReportMetric(float64(b.N)/took.Seconds(), "ops/s")
		b.ReportMetric(float64(all[len(all)/2].Microseconds())/1000, "p50-ms")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1000, "p99-ms")
	}
}

// BenchmarkPropose writes through all nodes.
func BenchmarkPropose(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			f := running(b, 3)
			spread(b, f, clients, func(n *node, _, i int) error {
				_, err := n.Propose(context.Background(), labelled(fmt.Sprintf("t-%d", i)))
				return err
			})
		})
	}
}

// BenchmarkProposeAtFollower writes one at a time through a follower: the case
// in which the follower has to learn of the commit.
func BenchmarkProposeAtFollower(b *testing.B) {
	f := running(b, 3)
	n := f.followers()[0]
	b.ResetTimer()
	for i := range b.N {
		if _, err := n.Propose(context.Background(), labelled(fmt.Sprintf("t-%d", i))); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkStrongRead reads with a quorum round through all nodes.
func BenchmarkStrongRead(b *testing.B) {
	for _, clients := range []int{1, 64} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			f := running(b, 3)
			mustPut(b, f.nodes[0].Cluster, "t")
			spread(b, f, clients, func(n *node, _, _ int) error {
				s, err := n.StrongState(context.Background())
				if err == nil && !hasTemplate(s, "t") {
					err = fmt.Errorf("a strong read lacks the row")
				}
				return err
			})
		})
	}
}

// BenchmarkStaleRead reads local states.
func BenchmarkStaleRead(b *testing.B) {
	f := running(b, 3)
	mustPut(b, f.nodes[0].Cluster, "t")
	f.eventually("all nodes have the row", func() error {
		for _, n := range f.nodes {
			if !hasTemplate(n.State(), "t") {
				return fmt.Errorf("%s lacks it", n.name)
			}
		}
		return nil
	})
	spread(b, f, 64, func(n *node, _, _ int) error {
		hasTemplate(n.State(), "t")
		return nil
	})
}
