package balance_test

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/routing/balance"
)

// TestBusyIsAvoided checks that an endpoint with requests in flight is never
// picked while any other that is compared with it has none.
func TestBusyIsAvoided(t *testing.T) {
	for _, p := range policies {
		if !p.loadAware {
			continue
		}
		for _, ws := range [][]int{{1, 1}, {256, 1}, {1, 256}, {1, 2, 3}, make([]int, 100)} {
			for _, zone := range []bool{false, true} {
				s := newSet(t, balance.Config{Policy: p.name, ZoneAware: zone, ZoneShare: 1}, weights(ws...))
				s.At(0).Load.Begin()
				s.At(0).Load.Begin()
				if c := count(t, s, 20_000, 0); c[0] > 0 {
					t.Errorf("%s: of %d endpoints, the busy one got %d", p.name, len(ws), c[0])
				}
				// Unless the others were tried.
				if i := s.Pick(&balance.Request{Tried: allBut(0, len(ws))}); i != 0 {
					t.Errorf("%s: picked %d, only 0 was left", p.name, i)
				}
			}
		}
	}
}

func allBut(i, n int) (rest []int32) {
	for k := range int32(n) {
		if k != int32(i) {
			rest = append(rest, k)
		}
	}
	return rest
}

// TestLeastRequestsIsExact checks small sets against a plain search, with and
// without tried endpoints.
func TestLeastRequestsIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, balance.LeastScan).Draw(t, "endpoints")
		s, err := balance.New(balance.Config{Policy: "least_requests"}, endpoints(n, func(_ int, e *balance.Endpoint) {
			e.Weight = rapid.IntRange(1, 16).Draw(t, "weight")
		}))
		if err != nil {
			t.Fatal(err)
		}
		var tried []int32
		least := math.Inf(1)
		cost := func(i int) float64 { return float64(s.At(i).Load.InFlight()) / float64(s.At(i).Weight) }
		for i := range n {
			for range rapid.IntRange(0, 20).Draw(t, "in flight") {
				s.At(i).Load.Begin()
			}
			if rapid.IntRange(0, 3).Draw(t, "was tried") == 0 {
				tried = append(tried, int32(i))
			} else {
				least = min(least, cost(i))
			}
		}
		i := s.Pick(&balance.Request{Tried: tried})
		if len(tried) == n {
			return
		}
		// The comparison rounds in the sixth place.
		if cost(i) > least*1.0001 {
			t.Fatalf("picked %d with %v in flight for its weight, the least is %v", i, cost(i), least)
		}
	})
}

// TestSlowIsAvoided checks that peak EWMA goes by latency when nothing else
// differs, and tries a slow endpoint again when its latency is old.
func TestSlowIsAvoided(t *testing.T) {
	const start = time.Hour
	s := newSet(t, balance.Config{Policy: "peak_ewma"}, endpoints(5, nil))
	for i := range s.Len() {
		l := s.At(i).Load
		l.Begin()
		if i == 2 {
			l.End(start, 100*time.Millisecond)
		} else {
			l.End(start, time.Millisecond)
		}
	}
	if c := count(t, s, 20_000, start+time.Second); c[2] > 0 {
		t.Errorf("the slow endpoint got %d picks", c[2])
	}
	late := start + 5*time.Minute
	for i := range s.Len() {
		if i != 2 {
			s.At(i).Load.Begin()
			s.At(i).Load.End(late, time.Millisecond)
		}
	}
	if c := count(t, s, 20_000, late); c[2] == 0 {
		t.Error("an endpoint that was slow five minutes ago is not tried again")
	}
}

// TestUnknownLatencyIsProbed checks that one request goes out to learn the latency of a
// new endpoint, and the next only when that is known.
func TestUnknownLatencyIsProbed(t *testing.T) {
	s := newSet(t, balance.Config{Policy: "peak_ewma"}, endpoints(2, nil))
	known, fresh := s.At(0).Load, s.At(1).Load
	known.Begin()
	known.End(0, time.Millisecond)
	if c := count(t, s, 1000, 0); c[0] > 0 {
		t.Errorf("the new endpoint missed %d picks", c[0])
	}
	fresh.Begin()
	if c := count(t, s, 1000, 0); c[1] > 0 {
		t.Errorf("the new endpoint got %d picks before its first answer", c[1])
	}
	fresh.End(0, time.Microsecond)
	if c := count(t, s, 1000, 0); c[0] > 0 {
		t.Errorf("the faster endpoint missed %d picks", c[0])
	}
}

func TestPeakEWMA(t *testing.T) {
	near := func(got, want time.Duration) bool {
		return math.Abs(float64(got-want)) <= 0.03*float64(want)
	}
	var l balance.Load
	if got := l.Latency(0); got != 0 {
		t.Errorf("the latency is %s before the first sample", got)
	}
	l.Begin()
	l.End(0, -1)
	if got := l.Latency(0); got != 0 {
		t.Errorf("a negative latency is no sample, the latency is %s", got)
	}
	now := 5 * time.Second
	sample := func(latency time.Duration) {
		l.Begin()
		l.End(now, latency)
	}
	sample(10 * time.Millisecond)
	if got := l.Latency(now); !near(got, 10*time.Millisecond) {
		t.Errorf("the first sample was 10ms, the latency is %s", got)
	}
	sample(100 * time.Millisecond)
	if got := l.Latency(now); !near(got, 100*time.Millisecond) {
		t.Errorf("a higher sample of 100ms must count at once, the latency is %s", got)
	}
	sample(time.Millisecond)
	if got := l.Latency(now); !near(got, 100*time.Millisecond) {
		t.Errorf("a lower sample of the same moment must not count, the latency is %s", got)
	}
	// After one decay, 1/e of the distance is left, however often it is sampled.
	for range 1000 {
		now += 10 * time.Millisecond
		sample(time.Millisecond)
	}
	if got := l.Latency(now); !near(got, 37_420*time.Microsecond) {
		t.Errorf("the latency is %s a decay after 100ms, expected 37.4ms", got)
	}
	was := l.Latency(now)
	if got := l.Latency(now + 10*time.Second); got < was/4 || got > was/2 {
		t.Errorf("the latency is %s a decay after %s without a sample", got, was)
	}
	if got := l.Latency(now - 10*time.Millisecond); !near(got, was) {
		t.Errorf("the latency is %s a little earlier, expected %s", got, was)
	}
	if got := l.Latency(now + 40*24*time.Hour); got > was/1000 {
		t.Errorf("the latency is %s after 40 days", got)
	}
	sample(0)
	if got := l.Latency(now); got <= 0 {
		t.Errorf("a latency of 0 must be known, it is %s", got)
	}
	if got := l.InFlight(); got != 0 {
		t.Errorf("%d requests are in flight", got)
	}
}

// TestSetsShareLoad checks that a new set knows what is in flight.
func TestSetsShareLoad(t *testing.T) {
	es := endpoints(2, func(_ int, e *balance.Endpoint) { e.Load = new(balance.Load) })
	es[1].Load.Begin()
	for range 2 {
		s := newSet(t, balance.Config{Policy: "power_of_two"}, es)
		if c := count(t, s, 1000, 0); c[1] > 0 {
			t.Errorf("the busy endpoint got %d picks", c[1])
		}
	}
}
