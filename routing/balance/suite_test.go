package balance_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/routing/balance"
)

// TestPickIsValid tries anything: a pick is in range and was not tried, and
// there is none only when nothing is left.
func TestPickIsValid(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				cfg := balance.Config{Policy: p.name}
				if p.hashes && rapid.Bool().Draw(t, "bounded") {
					cfg.BoundedLoadPercent = rapid.IntRange(101, 300).Draw(t, "percent")
				}
				if rapid.Bool().Draw(t, "slow start") {
					cfg.SlowStart = time.Duration(rapid.IntRange(1, 100).Draw(t, "slow start"))
				}
				if rapid.Bool().Draw(t, "zone aware") {
					cfg.ZoneAware, cfg.Zone = true, rapid.SampledFrom([]string{"a", "b", "nowhere"}).Draw(t, "zone")
					cfg.ZoneShare = rapid.Float64Range(0.01, 1).Draw(t, "zone share")
				}
				n := rapid.IntRange(0, 60).Draw(t, "endpoints")
				es := endpoints(n, func(i int, e *balance.Endpoint) {
					e.Zone = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "zone")
					e.Weight = rapid.SampledFrom([]int{-1, 0, 1, 2, 100, 256}).Draw(t, "weight")
					e.Since = time.Duration(rapid.IntRange(0, 200).Draw(t, "since"))
				})
				s, err := balance.New(cfg, es)
				if err != nil {
					t.Fatal(err)
				}
				var tried []int32
				if rapid.Bool().Draw(t, "tried") {
					tried = rapid.SliceOfN(rapid.Int32Range(-2, int32(n)+1), 0, 2*n).Draw(t, "tried")
				}
				for range n + 1 {
					r := balance.Request{Hash: rapid.Uint64().Draw(t, "hash"), Now: time.Duration(rapid.IntRange(0, 400).Draw(t, "now")), Tried: tried}
					i := s.Pick(&r)
					left := n
					for k := range n {
						if slices.Contains(tried, int32(k)) {
							left--
						}
					}
					switch {
					case left == 0 && i != -1, left > 0 && (i < 0 || i >= n):
						t.Fatalf("picked %d of %d endpoints, of which %d are left", i, n, left)
					case i >= 0 && slices.Contains(tried, int32(i)):
						t.Fatalf("picked %d, which was tried: %v", i, tried)
					case i < 0:
						continue
					}
					s.At(i).Load.Begin()
					tried = append(tried, int32(i))
				}
			})
		})
	}
}

// TestTriedInALargeSet takes the ways that a small set has not: all but one, and
// all, of many endpoints were tried.
func TestTriedInALargeSet(t *testing.T) {
	const n = 1000
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			s := newSet(t, balance.Config{Policy: p.name}, endpoints(n, nil))
			for _, left := range []int32{0, 511, n - 1} {
				var tried []int32
				for i := range int32(n) {
					if i != left {
						tried = append(tried, i)
					}
				}
				for h := range uint64(5) {
					if i := s.Pick(&balance.Request{Hash: h, Tried: tried}); i != int(left) {
						t.Errorf("picked %d when only %d is left", i, left)
					}
				}
				if i := s.Pick(&balance.Request{Tried: append(tried, left)}); i != -1 {
					t.Errorf("picked %d when none is left", i)
				}
			}
		})
	}
}

// TestTriedSharesAreKept checks that what a tried endpoint does not get is shared
// by weight, also when its weight is nearly everything.
func TestTriedSharesAreKept(t *testing.T) {
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			es := weights(256, 1, 2, 3)
			s := newSet(t, balance.Config{Policy: p.name}, es)
			want := shares(es, p.weighted)
			want[0] = 0
			checkShares(t, count(t, s, 50_000, 0, 0), want, 0)
		})
	}
}

func TestShares(t *testing.T) {
	mixed := func(n int) []balance.Endpoint {
		return endpoints(n, func(i int, e *balance.Endpoint) { e.Weight = []int{1, 2, 3, 10, 0}[i%5] })
	}
	cases := []struct {
		name string
		es   []balance.Endpoint
	}{
		{"one", weights(7)},
		{"three alike", weights(1, 1, 1)},
		{"5 1 1", weights(5, 1, 1)},
		{"extreme", weights(256, 1)},
		{"ten", mixed(10)},
		{"rendezvous", mixed(balance.Rendezvous)},
		{"maglev", mixed(balance.Rendezvous + 1)},
		{"hundred", mixed(100)},
	}
	for _, p := range policies {
		for _, c := range cases {
			t.Run(p.name+"/"+c.name, func(t *testing.T) {
				s := newSet(t, balance.Config{Policy: p.name}, c.es)
				slack := 0.0
				if p.hashes && len(c.es) > balance.Rendezvous {
					slack = tableSlack
				}
				checkShares(t, count(t, s, 100_000, 0), shares(c.es, p.weighted), slack)
			})
		}
	}
}

// variants are the settings under which a pick takes another way.
func variants(hashes bool) map[string]balance.Config {
	m := map[string]balance.Config{
		"plain":      {},
		"slow start": {SlowStart: time.Hour},
		"zone":       {ZoneAware: true, Zone: "a", ZoneShare: 0.9},
	}
	if hashes {
		m["bounded"] = balance.Config{BoundedLoadPercent: 110}
	}
	return m
}

func TestNoAllocations(t *testing.T) {
	many := make([]int32, balance.FewTried+10)
	for i := range many {
		many[i] = int32(i)
	}
	for _, p := range policies {
		for name, cfg := range variants(p.hashes) {
			for _, n := range []int{3, 100} {
				t.Run(fmt.Sprintf("%s/%s/%d", p.name, name, n), func(t *testing.T) {
					cfg.Policy = p.name
					s := newSet(t, cfg, zoned(n))
					for _, tried := range [][]int32{nil, {0, 1}, many} {
						r := balance.Request{Now: time.Minute, Tried: tried}
						allocs := testing.AllocsPerRun(200, func() {
							r.Hash++
							if i := s.Pick(&r); i >= 0 {
								s.At(i).Load.Begin()
								s.At(i).Load.End(r.Now, time.Millisecond)
								s.At(i).Load.Begin()
							}
						})
						if allocs != 0 {
							t.Errorf("%v allocations with %d tried", allocs, len(tried))
						}
					}
				})
			}
		}
	}
}

// TestConcurrentUse is for the race detector. At the end, nothing is in flight
// by any count.
func TestConcurrentUse(t *testing.T) {
	for _, p := range policies {
		for name, cfg := range variants(p.hashes) {
			t.Run(p.name+"/"+name, func(t *testing.T) {
				cfg.Policy = p.name
				es := zoned(40)
				for i := range es {
					es[i].Load = new(balance.Load)
				}
				var wg sync.WaitGroup
				for g := range 4 {
					wg.Go(func() { work(t, cfg, es, g) })
				}
				wg.Wait()
				for i := range es {
					if n := es[i].Load.InFlight(); n != 0 {
						t.Errorf("%d requests are in flight at endpoint %d", n, i)
					}
				}
				if n := balance.FamilyTotal(es[0].Load); n != 0 {
					t.Errorf("the family counts %d requests in flight", n)
				}
			})
		}
	}
}

// work picks from sets that come and go, as the endpoints do.
func work(t *testing.T, cfg balance.Config, es []balance.Endpoint, g int) {
	for round := range 20 {
		s, err := balance.New(cfg, es[(g+round)%20:20+(g+round)%20])
		if err != nil {
			t.Error(err)
			return
		}
		var tried []int32
		for k := range 100 {
			now := time.Duration(round*100+k) * time.Millisecond
			i := s.Pick(&balance.Request{Hash: uint64(g*1000 + k), Now: now, Tried: tried})
			if i < 0 {
				t.Error("nothing was picked")
				return
			}
			l := s.At(i).Load
			l.Begin()
			defer l.End(now, time.Duration(k)*time.Microsecond)
			if tried = append(tried, int32(i)); len(tried) > 3 {
				tried = nil
			}
		}
	}
}

// zoned makes endpoints of three zones, weights and ages.
func zoned(n int) []balance.Endpoint {
	return endpoints(n, func(i int, e *balance.Endpoint) {
		e.Zone = string(rune('a' + i%3))
		e.Weight = 1 + i%4
		e.Since = time.Duration(i%5) * 10 * time.Minute
	})
}

func TestNewRefuses(t *testing.T) {
	cases := []struct {
		name string
		cfg  balance.Config
		es   []balance.Endpoint
	}{
		{"no policy", balance.Config{}, nil},
		{"unknown policy", balance.Config{Policy: "best"}, nil},
		{"negative slow start", balance.Config{Policy: "random", SlowStart: -1}, nil},
		{"bounded load of 100", balance.Config{Policy: "hash", BoundedLoadPercent: 100}, nil},
		{"negative bounded load", balance.Config{Policy: "hash", BoundedLoadPercent: -5}, nil},
		{"huge bounded load", balance.Config{Policy: "hash", BoundedLoadPercent: 1e9}, nil},
		{"bounded load without hash", balance.Config{Policy: "random", BoundedLoadPercent: 150}, nil},
		{"no zone share", balance.Config{Policy: "random", ZoneAware: true}, nil},
		{"zone share above 1", balance.Config{Policy: "random", ZoneAware: true, ZoneShare: 1.1}, nil},
		{"duplicate key", balance.Config{Policy: "random"}, append(endpoints(2, nil), endpoints(1, nil)...)},
		{"heavy", balance.Config{Policy: "random"}, weights(257)},
		{"many", balance.Config{Policy: "random"}, endpoints(balance.MaxEndpoints+1, nil)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if s, err := balance.New(c.cfg, c.es); err == nil || s != nil {
				t.Errorf("made a set of %+v", c.cfg)
			}
		})
	}
}

func TestSetHoldsItsEndpoints(t *testing.T) {
	for _, p := range policies {
		es := weights(0, 3)
		es[1].Load = new(balance.Load)
		s := newSet(t, balance.Config{Policy: p.name}, es)
		es[0].Key = "changed"
		switch {
		case s.Len() != 2 || s.At(0).Key == "changed" || s.At(0).Weight != 1 || s.At(0).Load == nil:
			t.Errorf("%s: the set holds %+v", p.name, s.At(0))
		case s.At(1).Load != es[1].Load || es[0].Load != nil:
			t.Errorf("%s: the Load is not the one that was given", p.name)
		case s.At(-1) != nil || s.At(2) != nil:
			t.Errorf("%s: there are endpoints out of range", p.name)
		}
	}
}

// TestLargestSet checks the limits: the most endpoints with the most different
// weights can all be picked.
func TestLargestSet(t *testing.T) {
	es := endpoints(balance.MaxEndpoints, func(i int, e *balance.Endpoint) { e.Weight = 1 + i%2*255 })
	for _, p := range policies {
		t.Run(p.name, func(t *testing.T) {
			s := newSet(t, balance.Config{Policy: p.name}, es)
			counts := count(t, s, 200_000, 0)
			odd := 0
			for i := 1; i < len(counts); i += 2 {
				odd += counts[i]
			}
			want := []float64{1, 1}
			if p.weighted {
				want = []float64{1, 256}
			}
			checkShares(t, []int{200_000 - odd, odd}, want, 0.03)
		})
	}
}
