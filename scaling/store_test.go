package scaling_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

func TestStoreKeepsTheNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scaling.NewStore("n1", scaling.StoreLimits{Samples: 4})
		for k := range 10 {
			if err := s.Push("web", "cpu", "i1", float64(k), time.Now()); err != nil {
				t.Fatal(err)
			}
			elapse(time.Second)
		}
		got := s.Since(time.Now().Add(-time.Minute))
		if len(got) != 4 || got[0].Value != 6 || got[3].Value != 9 || got[0].Node != "n1" {
			t.Errorf("got %v, want the values 6 to 9", got)
		}
		if got := s.Since(time.Now().Add(-2 * time.Second)); len(got) != 1 || got[0].Value != 9 {
			t.Errorf("since 2 s ago: %v, want 9 alone", got)
		}
	})
}

func TestStoreRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scaling.NewStore("n1", scaling.StoreLimits{Groups: 2, Metrics: 2, Series: 4})
		now := time.Now()
		for _, k := range []struct {
			group, metric, instance string
			value                   float64
			at                      time.Time
			kind                    fsm.Kind
		}{
			{"web", "cpu", "", math.NaN(), now, fsm.Invalid},
			{"web", "cpu", "", math.Inf(-1), now, fsm.Invalid},
			{"web", "no such name", "", 1, now, fsm.Invalid},
			{"WEB", "cpu", "", 1, now, fsm.Invalid},
			{"web", "cpu", "", 1, now.Add(-time.Hour), fsm.Invalid},
			{"web", "cpu", "i1", 1, now, ""},
			{"web", "memory", "i1", 1, now, ""},
			{"web", "queue", "i1", 1, now, fsm.Exhausted}, // metrics of a group
			{"api", "cpu", "", 1, now, ""},
			{"db", "cpu", "", 1, now, fsm.Exhausted}, // groups
			{"web", "cpu", "i2", 1, now, ""},
			{"web", "cpu", "i3", 1, now, fsm.Exhausted}, // series
		} {
			if err := s.Push(k.group, k.metric, k.instance, k.value, k.at); fsm.KindOf(err) != k.kind {
				t.Errorf("%s %s %s %v: got %v, want %q", k.group, k.metric, k.instance, k.value, err, k.kind)
			}
		}
		if s.Len() != 4 {
			t.Errorf("%d series, want 4", s.Len())
		}
		// What nobody pushes any more makes room.
		elapse(3 * time.Minute)
		if err := s.Push("db", "cpu", "", 1, time.Now()); err != nil || s.Len() != 1 {
			t.Errorf("after 3 minutes: %v with %d series, want room and 1", err, s.Len())
		}
	})
}

func TestStorePutsTheFutureIntoThePresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := scaling.NewStore("n1", scaling.StoreLimits{})
		if err := s.Push("web", "cpu", "", 1, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		elapse(time.Minute)
		if got := s.Since(time.Now().Add(-30 * time.Second)); len(got) != 0 {
			t.Errorf("a sample of a minute ago is still new: %v", got)
		}
	})
}

func TestStoreConcurrently(t *testing.T) {
	s := scaling.NewStore("n1", scaling.StoreLimits{Series: 50})
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for k := range 500 {
				_ = s.Push("web", "cpu", fmt.Sprintf("i%d", (k*7+w)%80), float64(k), time.Now())
				if k%50 == 0 {
					s.Since(time.Now().Add(-time.Second))
				}
			}
		})
	}
	wg.Wait()
	if s.Len() > 50 {
		t.Errorf("%d series, above the limit of 50", s.Len())
	}
}

func BenchmarkStorePush(b *testing.B) {
	s := scaling.NewStore("n1", scaling.StoreLimits{})
	now := time.Now()
	b.ReportAllocs()
	for b.Loop() {
		_ = s.Push("web", "cpu", "", 1, now)
	}
}
