package xds_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	"github.com/pacelinehq/paceline/fsm"
)

// BenchmarkChange measures from the commit of a change until a request of a
// grpc-go client reaches the endpoint that it brought. "swap" replaces the only
// endpoint, "add" adds a second one; both need a new connection.
func BenchmarkChange(b *testing.B) {
	for _, groups := range []int{1, 1000} {
		for _, clients := range []int{1, 100} {
			for _, how := range []string{"swap", "add"} {
				b.Run(fmt.Sprintf("groups=%d/clients=%d/%s", groups, clients, how), func(b *testing.B) {
					benchChange(b, groups, clients, how == "swap")
				})
			}
		}
	}
}

func benchChange(b *testing.B, groups, clients int, swap bool) {
	c := newCluster(b)
	c.Group("web", turns())
	for k := 1; k < groups; k++ {
		c.Group(fmt.Sprint("g", k), &fsm.Service{PathPrefix: fmt.Sprint("/g", k)})
		for n := range 3 {
			c.Run(fmt.Sprint("g", k), fmt.Sprintf("g%d-%d", k, n), "n1", fmt.Sprintf("10.%d.%d.%d:80", n, k/250, k%250+1), fsm.Healthy)
		}
	}
	s := serve(b, c)
	pair := c.backends("web", 2) // on n1 and n2
	c.Report("web-1", "", fsm.Unhealthy)
	ch := s.dial(b, "web")
	ch.reaches(pair[0])
	for range clients - 1 {
		r := s.raw(b)
		r.send(ask(resource.EndpointType, "web"))
		r.next("web")
		go func() {
			for {
				resp, err := r.Recv()
				if err != nil {
					return
				}
				req := ask(resp.TypeUrl, "web")
				req.ResponseNonce, req.VersionInfo = resp.Nonce, resp.VersionInfo
				if r.Send(req) != nil {
					return
				}
			}
		}()
	}
	node := []string{"n1", "n2"}
	report := func(k int, h fsm.Health) fsm.Command {
		return fsm.ReportInstances{Node: node[k], NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: fmt.Sprint("web-", k), Health: h}}}
	}
	var took []time.Duration
	next := 1
	for b.Loop() {
		change := []fsm.Command{report(next, fsm.Healthy)}
		if swap {
			change = append(change, report(1-next, fsm.Unhealthy))
		}
		begin := time.Now()
		c.Must(change...)
		for ch.must(b.Context()) != pair[next].addr {
		}
		took = append(took, time.Since(begin))
		if !swap {
			c.Must(report(1-next, fsm.Unhealthy))
			ch.reaches(pair[next])
		}
		next = 1 - next
	}
	percentiles(b, took)
}

func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	at := func(q float64) float64 { return float64(took[int(q*float64(len(took)-1))].Microseconds()) }
	b.ReportMetric(at(0.1), "p10-µs")
	b.ReportMetric(at(0.5), "p50-µs")
	b.ReportMetric(at(0.99), "p99-µs")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkReceived measures from the commit of a change until a client has its
// message: our part of BenchmarkChange. The rest is grpc-go's: it reads the
// message, rebuilds its balancers, connects, and sends the request.
func BenchmarkReceived(b *testing.B) {
	c := newCluster(b)
	c.Group("web", turns())
	s := serve(b, c)
	c.backends("web", 1)
	r := s.raw(b)
	r.send(ask(resource.EndpointType, "web"))
	r.next("web")
	health := []fsm.Health{fsm.Unhealthy, fsm.Healthy}
	var took []time.Duration
	for b.Loop() {
		begin := time.Now()
		c.Report("web-0", "", health[len(took)%2])
		resp, err := r.Recv()
		took = append(took, time.Since(begin))
		if err != nil {
			b.Fatal(err)
		}
		req := ask(resp.TypeUrl, "web")
		req.ResponseNonce, req.VersionInfo = resp.Nonce, resp.VersionInfo
		r.send(req)
	}
	percentiles(b, took)
}

// BenchmarkRenew is the cost of one changed service among many, without
// clients.
func BenchmarkRenew(b *testing.B) {
	for _, groups := range []int{1, 1000, 10_000} {
		b.Run(fmt.Sprintf("groups=%d", groups), func(b *testing.B) {
			c := newCluster(b)
			for k := range groups {
				c.Group(fmt.Sprint("g", k), &fsm.Service{PathPrefix: fmt.Sprint("/g", k)})
			}
			c.Run("g0", "i", "n1", "10.0.0.1:80", fsm.Healthy)
			s := serve(b, c)
			s.Renew()
			health := []fsm.Health{fsm.Healthy, fsm.Unhealthy}
			for k := 0; b.Loop(); k++ {
				b.StopTimer()
				c.Report("i", "", health[k%2])
				b.StartTimer()
				s.Renew()
			}
		})
	}
}
