package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/agent"
)

// TestDamper walks through stories of "after this long it is healthy (+) or
// unhealthy (-)", and compares what others see: the time and sign of each
// change, with the hold that it begins.
func TestDamper(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		interval time.Duration
		held     bool
		story    string
		want     string
	}{
		{"an outage", 0, false, "1m- 1m+ 8h- 1h+", "1m- 2m+ 8h2m- 9h2m+"},
		{"two falls are no flapping", 0, false, "1m- 1m+ 1m- 1m+", "1m- 2m+ 3m- 4m+"},
		{"three falls far apart", 0, false, "6m- 1m+ 6m- 1m+ 6m- 1m+", "6m- 7m+ 13m- 14m+ 20m- 21m+"},
		{
			"the third fall begins a hold", 0, false, "1m- 1m+ 1m- 1m+ 1m- 10s+ 30s+ 29s+ 1s+",
			"1m- 2m+ 3m- 4m+ 5m-(1m) 6m10s+",
		},
		{
			"a fall within the hold begins its time anew, and is not seen", 0, false, "1s- 1s+ 1s- 1s+ 1s- 1s+ 59s- 1s+ 59s- 1s+ 1m+",
			"1s- 2s+ 3s- 4s+ 5s-(1m) 3m6s+",
		},
		{
			"a return doubles the hold, up to a limit", 0, false,
			"1s- 1s+ 1s- 1s+ 1s- 1s+ 1m+ 1s- 1s+ 2m+ 1s- 1s+ 4m+ 1s- 1s+ 8m+ 1s- 1s+ 16m+ 1s- 1s+ 16m+",
			"1s- 2s+ 3s- 4s+ 5s-(1m) 1m6s+ 1m7s-(2m) 3m8s+ 3m9s-(4m) 7m10s+ 7m11s-(8m) 15m12s+ 15m13s-(16m) 31m14s+ 31m15s-(16m) 47m16s+",
		},
		{
			"a steady time makes all good", 0, false, "1s- 1s+ 1s- 1s+ 1s- 1s+ 1m+ 11m- 1s+ 1s- 1s+",
			"1s- 2s+ 3s- 4s+ 5s-(1m) 1m6s+ 12m6s- 12m7s+ 12m8s- 12m9s+",
		},
		{"the hold outlives a restart", 0, true, "1s+ 59s+ 1s+", "1m1s+"},
		{
			"rare checks have a longer window", time.Hour, false, "3h- 1h+ 3h- 1h+ 3h- 1h+ 1h+ 1h+",
			"3h- 4h+ 7h- 8h+ 11h-(2h) 14h+",
		},
	} {
		now := time.Unix(1e9, 0)
		begun, before := now, fsm.Healthy
		if c.held {
			before = fsm.Unhealthy
		}
		d := agent.NewDamper(before, c.held, c.interval)
		var got []string
		for step := range strings.FieldsSeq(c.story) {
			span, err := time.ParseDuration(step[:len(step)-1])
			if err != nil {
				t.Fatal(err)
			}
			now = now.Add(span)
			raw := map[byte]fsm.Health{'+': fsm.Healthy, '-': fsm.Unhealthy}[step[len(step)-1]]
			changed, shown, held := d.See(now, raw)
			if !changed {
				continue
			}
			text := short(now.Sub(begun)) + map[fsm.Health]string{fsm.Healthy: "+", fsm.Unhealthy: "-"}[shown]
			if held > 0 {
				text += "(" + short(held) + ")"
			}
			got = append(got, text)
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, text, c.want)
		}
	}
}

// short writes 1h0m0s as 1h.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

// TestDampedChangesAreFew: whatever an instance does, others see few changes
// in any window; a healthy one is never held for longer than the longest hold;
// and changes alternate.
func TestDampedChangesAreFew(t *testing.T) {
	t.Parallel()
	const window, most, longest = 10 * time.Minute, 14, 16 * time.Minute
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(1e9, 0)
		d := agent.NewDamper(fsm.Healthy, false, 0)
		shown, raw, good := fsm.Healthy, fsm.Healthy, now
		var changes []time.Time
		// Steps that end just when a hold does are the worst.
		spans := []time.Duration{0, time.Second, time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, longest}
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			now = now.Add(rapid.SampledFrom(spans).Draw(t, "span"))
			next := rapid.SampledFrom([]fsm.Health{fsm.Healthy, fsm.Unhealthy}).Draw(t, "raw")
			if next == fsm.Healthy && raw != fsm.Healthy {
				good = now
			}
			raw = next
			changed, got, held := d.See(now, raw)
			switch {
			case changed != (got != shown):
				t.Fatalf("it says changed %v from %s to %s", changed, shown, got)
			case raw == fsm.Unhealthy && got != fsm.Unhealthy:
				t.Fatal("an unhealthy instance is shown as healthy")
			case raw == fsm.Healthy && got != fsm.Healthy && (now.Sub(good) >= longest || held == 0):
				t.Fatalf("it is healthy since %s, and shown as %s with a hold of %s", now.Sub(good), got, held)
			}
			shown = got
			if changed {
				changes = append(changes, now)
			}
		}
		for k, at := range changes {
			if k >= most && at.Sub(changes[k-most]) < window {
				t.Fatalf("%d changes within %s", most+1, at.Sub(changes[k-most]))
			}
		}
	})
}

// TestFlappingIsHeldAndShown goes all the way: checks, state, and what is
// written meanwhile.
func TestFlappingIsHeldAndShown(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		flip := func() {
			w.setSick("i1", errors.New("no database"))
			w.pass(10 * time.Second)
			w.setSick("i1", nil)
			w.pass(10 * time.Second)
		}
		before := w.State().Index()
		flip()
		flip()
		if row := w.want(t, "i1", fsm.Running, fsm.Healthy); row.HealthReason != "" {
			t.Errorf("got the health reason %q", row.HealthReason)
		}
		for range 60 {
			flip()
		}
		row := w.want(t, "i1", fsm.Running, fsm.Unhealthy)
		if row.HealthReason != fsm.HealthFlapping ||
			row.Reason != "flapping: it counts as healthy again after 1m0s without a fall; 3 health checks in a row failed: no database" {
			t.Errorf("got %q and %q", row.HealthReason, row.Reason)
		}
		if n := w.State().Index() - before; n != 5 {
			t.Errorf("62 outages made %d entries, want 5", n)
		}
		w.stop() // the hold outlives the process
		w.epoch++
		w.register()
		w.start()
		w.pass(30 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unhealthy)
		w.pass(time.Minute)
		if row = w.want(t, "i1", fsm.Running, fsm.Healthy); row.HealthReason != "" || row.Reason != "its health check passes" {
			t.Errorf("got %q and %q", row.HealthReason, row.Reason)
		}
	})
}

var errQueue = errors.New("the queue is stuck")

func ttl(t *fsm.Template) {
	t.HealthCheck = &fsm.HealthCheck{Type: fsm.CheckTTL, TTL: fsm.Duration(10 * time.Second)}
}

// beat sends a heartbeat, which must be taken.
func (w *world) beat(id string, failure error) {
	w.t.Helper()
	span, err := w.agent.Heartbeat(w.t.Context(), id, failure)
	if err != nil || span != 10*time.Second {
		w.t.Errorf("a heartbeat gave %s and %v", span, err)
	}
}

func TestHeartbeatsKeepAnInstanceHealthy(t *testing.T) {
	inBubble(t, ttl, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unknown)
		w.beat("i1", nil)
		w.pass(time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		before := w.State().Index()
		for range 100 {
			w.pass(9 * time.Second)
			w.beat("i1", nil)
		}
		if n := w.State().Index() - before; n != 0 {
			t.Errorf("100 heartbeats wrote %d entries", n)
		}
		w.pass(9900 * time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.pass(200 * time.Millisecond)
		if row := w.want(t, "i1", fsm.Running, fsm.Unhealthy); row.Reason != "its health check failed: no heartbeat for 10s" {
			t.Errorf("got the reason %q", row.Reason)
		}
		w.beat("i1", nil)
		w.pass(time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.beat("i1", errQueue)
		w.pass(time.Millisecond)
		if row := w.want(t, "i1", fsm.Running, fsm.Unhealthy); row.Reason != "its health check failed: the queue is stuck" {
			t.Errorf("got the reason %q", row.Reason)
		}
	})
}

func TestHeartbeatsMayBeMissed(t *testing.T) {
	thrice := func(t *fsm.Template) { ttl(t); t.HealthCheck.Fall = 3 }
	inBubble(t, thrice, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.beat("i1", nil)
		w.pass(29 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.pass(2 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unhealthy)
	})
}

// TestARestartGivesAFullTTL: heartbeats can not arrive while a node is away.
func TestARestartGivesAFullTTL(t *testing.T) {
	inBubble(t, ttl, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.beat("i1", nil)
		w.pass(5 * time.Second)
		w.stop()
		w.pass(time.Minute)
		w.epoch++
		w.register()
		w.start()
		w.pass(9900 * time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.beat("i1", nil)
		w.pass(9900 * time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.pass(time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unhealthy)
	})
	inBubble(t, ttl, func(w *world) { // and no more than that
		w.launch("i1")
		w.pass(time.Second)
		w.beat("i1", nil)
		w.pass(time.Millisecond)
		w.stop()
		w.epoch++
		w.register()
		w.start()
		w.pass(9900 * time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.pass(time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unhealthy)
	})
}

func TestAnInstanceThatNeverSendsAHeartbeatFails(t *testing.T) {
	inBubble(t, ttl, func(w *world) {
		w.launch("i1")
		w.pass(29 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unknown)
		w.pass(2 * time.Second)
		if row := w.want(t, "i1", fsm.Failed, fsm.Unknown); row.Reason != "was not healthy within 30s of its start: no heartbeat for 10s" {
			t.Errorf("got the reason %q", row.Reason)
		}
	})
}

func TestHeartbeatsThatAreNotTaken(t *testing.T) {
	refused := func(w *world, id string, kind fsm.Kind, text string) {
		w.t.Helper()
		_, err := w.agent.Heartbeat(w.t.Context(), id, nil)
		if fsm.KindOf(err) != kind || !strings.Contains(fmt.Sprint(err), text) {
			w.t.Errorf("%s: got %v (%s), want %s with %q", id, err, fsm.KindOf(err), kind, text)
		}
	}
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		refused(w, "i1", fsm.Conflict, `has a health check of type "exec"`)
		refused(w, "i2", fsm.NotFound, "does not exist")
	})
	inBubble(t, ttl, func(w *world) {
		w.setDelay(time.Minute)
		w.launch("i1")
		w.pass(time.Second)
		refused(w, "i1", fsm.Unavailable, "is starting and not checked at present")
		w.pass(time.Minute)
		w.beat("i1", nil)
		w.Must(fsm.StopInstances{Instances: []string{"i1"}})
		w.pass(time.Second)
		refused(w, "i1", fsm.Unavailable, "is draining")
		w.pass(10 * time.Second)
		refused(w, "i1", fsm.Conflict, "is stopped and takes no heartbeats")
	})
}
