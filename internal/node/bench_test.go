package node_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

// threeNodes runs a cluster of three nodes in this process, with real files and
// sockets, and a sticky group of ten instances of the fake driver. traffic gives
// them proxies, and the API with those.
func threeNodes(b testing.TB, traffic bool) []*node.Node {
	b.Helper()
	nodes := startNodes(b, traffic)
	c := nodes[0].Cluster()
	must := func(cmd fsm.Command) {
		b.Helper()
		if _, err := c.Propose(b.Context(), cmd); err != nil {
			b.Fatal(err)
		}
	}
	must(fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: fsm.SampleCommand}})
	must(fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "web", MinSize: 10, Desired: 10, MaxSize: 10, Service: &fsm.Service{
		Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable},
	}}})
	for _, err := range c.Watch(b.Context(), 0) {
		healthy := 0
		for _, i := range c.State().InstancesOf("web") {
			if e, ok := i.Endpoint(); ok && e.Health == fsm.Healthy {
				healthy++
			}
		}
		if err != nil || healthy == 10 {
			break
		}
	}
	return nodes
}

// startNodes runs a cluster of three nodes with nothing in it.
func startNodes(b testing.TB, traffic bool) []*node.Node {
	b.Helper()
	dir := b.TempDir()
	var joins, peers []string
	for range 3 {
		joins, peers = append(joins, freeAddr(b)), append(peers, freeAddr(b))
	}
	var nodes []*node.Node
	for k := range 3 {
		cfg := node.Config{
			Name: fmt.Sprintf("n%d", k+1), DataDir: filepath.Join(dir, fmt.Sprint(k)), PeerAddr: peers[k], GossipAddr: joins[k],
			BootstrapExpect: 3, Join: joins, Logger: slog.New(slog.DiscardHandler), LogStore: "wal",
			APIAddr: "127.0.0.1:0", TrafficAddr: "127.0.0.1:0",
		}
		n, err := node.New(cfg.WithDefaults(), node.Environment{NoAPI: !traffic, Driver: fake.New("process", fake.Hooks{})})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = n.Stop(context.Background()) })
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		if err := n.Start(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
	return nodes
}

func freeAddr(b testing.TB) string {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// BenchmarkSessions assigns new sessions through all three nodes, in commands
// of a number of keys, with fsync. The nodes share this process.
func BenchmarkSessions(b *testing.B) {
	for _, size := range []int{1, 64, 512, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			nodes := threeNodes(b, false)
			const workers = 8 // of each node
			var next, failed atomic.Int64
			var why atomic.Value
			b.ResetTimer()
			began := time.Now()
			var wg sync.WaitGroup
			for _, n := range nodes {
				for range workers {
					wg.Go(func() {
						r := rand.NewChaCha8([32]byte{byte(rand.Uint32())})
						for next.Add(1) <= int64(b.N) {
							keys := make([]byte, 16*size)
							_, _ = r.Read(keys)
							if _, err := n.Cluster().Propose(b.Context(), fsm.AssignSessions{Group: "web", Keys: keys}); err != nil {
								failed.Add(1)
								why.Store(err)
							}
						}
					})
				}
			}
			wg.Wait()
			b.StopTimer()
			if failed.Load() > 0 {
				b.Fatalf("%d commands failed, such as: %v", failed.Load(), why.Load())
			}
			b.ReportMetric(float64(size*b.N)/time.Since(began).Seconds(), "sessions/s")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkChange changes a service and asks the proxies of all nodes until
// each of them routes by it. The time begins when the change is acknowledged.
func BenchmarkChange(b *testing.B) {
	nodes := threeNodes(b, true)
	c := nodes[0].Cluster()
	old, _ := c.State().Groups.Get("web")
	took := make([]time.Duration, 0, b.N)
	client := http.Client{Timeout: time.Second}
	defer client.CloseIdleConnections()
	for k := range b.N {
		g := *old
		g.Service = &fsm.Service{PathPrefix: fmt.Sprint("/v", k)}
		if _, err := c.Propose(b.Context(), fsm.PutGroup{Group: g}); err != nil {
			b.Fatal(err)
		}
		began := time.Now()
		for _, n := range nodes {
			for routed := false; !routed; {
				resp, err := client.Get(fmt.Sprintf("http://%s/v%d", n.Traffic(), k))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				routed = resp.StatusCode != http.StatusNotFound // the instances do not exist: 502
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	b.ReportMetric(ms(took[len(took)/2]), "p50-ms")
	b.ReportMetric(ms(took[len(took)*99/100]), "p99-ms")
	b.ReportMetric(0, "ns/op")
}
