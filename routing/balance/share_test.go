package balance_test

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/routing/balance"
)

// TestSlowStart checks the share of new endpoints at points of the ramp, beside
// old ones and among themselves.
func TestSlowStart(t *testing.T) {
	const span = 100 * time.Second
	born := 1000 * time.Second
	ramps := []struct {
		age   time.Duration
		share float64
	}{{-time.Second, 0.1}, {0, 0.1}, {span / 2, 0.55}, {span, 1}, {2 * span, 1}}
	for _, p := range policies {
		for _, n := range []int{4, balance.Rendezvous + 8} {
			for _, r := range ramps {
				t.Run(fmt.Sprintf("%s/%d/%s", p.name, n, r.age), func(t *testing.T) {
					es := endpoints(n, func(i int, e *balance.Endpoint) {
						e.Weight = 1 + i%2
						if i%4 >= 2 {
							e.Since = born
						}
					})
					want := shares(es, p.weighted)
					for i := range want {
						if i%4 >= 2 {
							want[i] *= r.share
						}
					}
					s := newSet(t, balance.Config{Policy: p.name, SlowStart: span}, es)
					slack := 0.001 // a limited number of draws
					if p.hashes {
						slack += tableSlack
					}
					checkShares(t, count(t, s, 50_000, born+r.age), want, slack)
				})
			}
		}
		// A share is in relation to others': without old endpoints, young ones
		// have all, and twice the share when they are twice as far.
		t.Run(p.name+"/all new", func(t *testing.T) {
			es := endpoints(40, func(i int, e *balance.Endpoint) { e.Since = born + time.Duration(i%2)*span/9 })
			s := newSet(t, balance.Config{Policy: p.name, SlowStart: span}, es)
			older, younger := 0, 0
			for i, c := range count(t, s, 100_000, born+span/9) {
				if i%2 == 0 {
					older += c
				} else {
					younger += c
				}
			}
			checkShares(t, []int{older, younger}, []float64{2, 1}, 20*tableSlack)
		})
	}
}

// TestSlowStartUnderLoad checks that load-aware policies count what is in flight
// against the share of the moment, not against the weight.
func TestSlowStartUnderLoad(t *testing.T) {
	for _, p := range policies {
		if !p.loadAware {
			continue
		}
		t.Run(p.name, func(t *testing.T) {
			es := endpoints(2, nil)
			es[1].Since = time.Hour
			s := newSet(t, balance.Config{Policy: p.name, SlowStart: time.Hour}, es)
			flight := steady(s, 1100, time.Hour)
			if flight[1] > 150 {
				t.Errorf("in flight: %v; expected about 1000 and 100", flight)
			}
		})
	}
}

// TestSlowStartMovesHashesOnce checks that hashes move only to the endpoint that
// is growing, and none of them back.
func TestSlowStartMovesHashesOnce(t *testing.T) {
	for _, n := range []int{10, 100} {
		es := endpoints(n, func(i int, e *balance.Endpoint) { e.Weight = 1 + i%3 })
		es[7].Since = time.Hour
		s := newSet(t, balance.Config{Policy: "hash", SlowStart: time.Hour}, es)
		moved := 0
		for h := range uint64(20_000) {
			before := s.Pick(&balance.Request{Hash: h, Now: time.Hour})
			for now := time.Hour; now <= 2*time.Hour; now += 10 * time.Minute {
				i := s.Pick(&balance.Request{Hash: h, Now: now})
				if i != before && i != 7 {
					t.Fatalf("of %d endpoints, hash %d moved from %d to %d, not to 7", n, h, before, i)
				}
				if i != before {
					moved++
				}
				before = i
			}
		}
		if moved == 0 {
			t.Errorf("of %d endpoints, the new one got nothing", n)
		}
	}
}

func TestZones(t *testing.T) {
	// Weights: a 1+2, b 3+2, c 1+1; a has 3 of 10 by weight, 2 of 6 by number.
	es := weights(1, 2, 3, 2, 1, 1)
	for i := range es {
		es[i].Zone = string("aabbcc"[i])
	}
	cases := []struct {
		name  string
		zone  string
		share float64
		// local is the share that stays, for weights and for numbers.
		local, localEven float64
	}{
		{"enough", "a", 0.25, 1, 1},
		{"just enough", "b", 1.0 / 3, 1, 1},
		{"half", "a", 2.0 / 3, 0.45, 0.5},
		{"all proxies in one zone", "a", 1, 0.3, 1.0 / 3},
		{"none of ours", "d", 0.5, 0, 0},
	}
	for _, p := range policies {
		for _, c := range cases {
			t.Run(p.name+"/"+c.name, func(t *testing.T) {
				s := newSet(t, balance.Config{Policy: p.name, ZoneAware: true, Zone: c.zone, ZoneShare: c.share}, es)
				local := c.local
				if !p.weighted {
					local = c.localEven
				}
				want := shares(es, p.weighted)
				in, out := 0.0, 0.0
				for i, w := range want {
					if es[i].Zone == c.zone {
						in += w
					} else {
						out += w
					}
				}
				for i := range want {
					if es[i].Zone == c.zone {
						want[i] *= local / in
					} else {
						want[i] *= (1 - local) / out
					}
				}
				checkShares(t, count(t, s, 60_000, 0), want, 1e-9)
			})
		}
	}
}

// TestZoneFailsOver checks that the other zones serve when the own one's
// endpoints were tried, and the own one when theirs were.
func TestZoneFailsOver(t *testing.T) {
	es := endpoints(6, func(i int, e *balance.Endpoint) { e.Zone = string("aabbcc"[i]) })
	for _, p := range policies {
		s := newSet(t, balance.Config{Policy: p.name, ZoneAware: true, Zone: "a", ZoneShare: 0.5}, es)
		checkShares(t, count(t, s, 20_000, 0, 0, 1), []float64{0, 0, 1, 1, 1, 1}, 0)
		checkShares(t, count(t, s, 20_000, 0, 2, 3, 4, 5), []float64{1, 1, 0, 0, 0, 0}, 0)
	}
}

// TestZoneIsOfTheHash checks that equal hashes stay together in spite of zones.
func TestZoneIsOfTheHash(t *testing.T) {
	s := newSet(t, balance.Config{Policy: "hash", ZoneAware: true, Zone: "a", ZoneShare: 1}, zoned(9))
	for h := range uint64(1000) {
		first := s.Pick(&balance.Request{Hash: h})
		for range 3 {
			if i := s.Pick(&balance.Request{Hash: h}); i != first {
				t.Fatalf("hash %d goes to %d and to %d", h, first, i)
			}
		}
	}
}

// steady keeps a number of requests in flight, the oldest of which ends whenever
// one begins, and returns how many each endpoint has after a while.
func steady(s *balance.Set, inFlight int, now time.Duration) []int64 {
	var queue []*balance.Load
	for k := range 20 * inFlight {
		if k >= inFlight {
			queue[0].End(now, time.Millisecond)
			queue = queue[1:]
		}
		l := s.At(s.Pick(&balance.Request{Hash: uint64(k), Now: now})).Load
		l.Begin()
		queue = append(queue, l)
	}
	flight := make([]int64, s.Len())
	for i := range flight {
		flight[i] = s.At(i).Load.InFlight()
	}
	return flight
}

// TestLoadFollowsWeights checks the requests in flight, where each policy that
// knows them keeps them by weight.
func TestLoadFollowsWeights(t *testing.T) {
	for _, p := range policies {
		for _, n := range []int{3, balance.LeastScan + 8} {
			if !p.loadAware {
				continue
			}
			es := endpoints(n, func(i int, e *balance.Endpoint) { e.Weight = 1 << (i % 3) })
			total := 0.0
			for _, w := range shares(es, true) {
				total += w
			}
			s := newSet(t, balance.Config{Policy: p.name}, es)
			for i, got := range steady(s, int(100*total), 0) {
				if want := float64(100 * es[i].Weight); math.Abs(float64(got)-want) > 0.1*want {
					t.Errorf("%s: of %d endpoints, %d has %d in flight, expected about %.0f", p.name, n, i, got, want)
				}
			}
		}
	}
}
