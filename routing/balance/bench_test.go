package balance_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/routing/balance"
)

// BenchmarkPick is the goal of the package: 40 ns at 1,000 endpoints, no
// allocation. The endpoints have requests in flight and latencies.
func BenchmarkPick(b *testing.B) {
	for _, policy := range balance.Policies() {
		for _, n := range []int{3, 10, 32, 100, 1000} {
			for _, variant := range []string{"even", "weighted"} {
				b.Run(fmt.Sprintf("%s/%s/%d", policy, variant, n), func(b *testing.B) {
					es := endpoints(n, func(i int, e *balance.Endpoint) {
						if variant == "weighted" {
							e.Weight = 1 + i*37%256
						}
					})
					benchPick(b, balance.Config{Policy: policy}, es)
				})
			}
		}
	}
}

// BenchmarkPickExtras is the cost of what can be switched on.
func BenchmarkPickExtras(b *testing.B) {
	cases := []struct {
		name string
		cfg  balance.Config
	}{
		{"bounded/hash", balance.Config{Policy: "hash", BoundedLoadPercent: 125}},
		{"slow_start/power_of_two", balance.Config{Policy: "power_of_two", SlowStart: 2 * time.Hour}},
		{"slow_start/hash", balance.Config{Policy: "hash", SlowStart: 2 * time.Hour}},
		{"zone/power_of_two", balance.Config{Policy: "power_of_two", ZoneAware: true, Zone: "z0", ZoneShare: 0.5}},
		{"zone/hash", balance.Config{Policy: "hash", ZoneAware: true, Zone: "z0", ZoneShare: 0.5}},
	}
	for _, c := range cases {
		for _, n := range []int{3, 32, 1000} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				// One endpoint in ten is new, for slow start.
				es := endpoints(n, func(i int, e *balance.Endpoint) {
					e.Zone = fmt.Sprintf("z%d", i%3)
					if i%10 == 0 {
						e.Since = time.Hour
					}
				})
				benchPick(b, c.cfg, es)
			})
		}
	}
}

// BenchmarkNew builds sets, the more expensive ones.
func BenchmarkNew(b *testing.B) {
	for _, policy := range []string{"power_of_two", "weighted_round_robin", "hash"} {
		for _, n := range []int{32, 100, 1000} {
			b.Run(fmt.Sprintf("%s/%d", policy, n), func(b *testing.B) {
				es := endpoints(n, func(i int, e *balance.Endpoint) { e.Weight = 1 + i*37%256 })
				for b.Loop() {
					if _, err := balance.New(balance.Config{Policy: policy}, es); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkLoad is what a request pays beside its pick.
func BenchmarkLoad(b *testing.B) {
	var l balance.Load
	now := time.Duration(0)
	for b.Loop() {
		now += 10 * time.Microsecond
		l.Begin()
		l.End(now, time.Millisecond+now%1000)
	}
}

func benchPick(b *testing.B, cfg balance.Config, es []balance.Endpoint) {
	s, err := balance.New(cfg, es)
	if err != nil {
		b.Fatal(err)
	}
	for i := range s.Len() {
		l := s.At(i).Load
		for range 1 + i%7 {
			l.Begin()
		}
		l.Begin()
		l.End(time.Hour, time.Duration(i%13+1)*time.Millisecond)
	}
	r := balance.Request{Now: time.Hour}
	b.ReportAllocs()
	for b.Loop() {
		r.Hash++
		r.Now += 10 * time.Microsecond
		s.Pick(&r)
	}
}

// endpoints makes n endpoints of weight 1, changed by edit.
func endpoints(n int, edit func(i int, e *balance.Endpoint)) []balance.Endpoint {
	es := make([]balance.Endpoint, n)
	for i := range es {
		es[i] = balance.Endpoint{Key: fmt.Sprintf("01J%05d", i), Weight: 1}
		if edit != nil {
			edit(i, &es[i])
		}
	}
	return es
}
