package agent_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

func TestAnInstanceIsLaunchedCheckedAndEnded(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		row := w.want(t, "i1", fsm.Running, fsm.Healthy)
		if row.Address == "" || row.PID == 0 || row.Incarnation != 1 {
			t.Errorf("the row lacks something: %+v", row)
		}
		w.Must(fsm.StopInstances{Instances: []string{"i1"}, Cause: "scale-in"})
		w.pass(2 * time.Second)
		w.want(t, "i1", fsm.Draining, fsm.Unknown)
		if !w.runs("i1") {
			t.Error("it was ended before its grace was over")
		}
		w.pass(2 * time.Second)
		w.want(t, "i1", fsm.Stopped, fsm.Unknown)
		if w.runs("i1") {
			t.Error("it still runs")
		}
		w.Must(fsm.ForgetInstances{Instances: []string{"i1"}})
		w.pass(15 * time.Second)
		if list, _ := w.driver.List(t.Context()); len(list) != 0 {
			t.Errorf("the driver still has %v", list)
		}
		w.onceEach()
	})
}

func TestAnInstanceWithoutCheckIsHealthyWhenItRuns(t *testing.T) {
	inBubble(t, func(t *fsm.Template) { t.HealthCheck = nil }, func(w *world) {
		w.launch("i1")
		w.pass(time.Millisecond)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.pass(time.Minute)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
	})
}

func TestOnlyEdgesOfHealthAreReported(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		before := w.State().Index()
		w.pass(10 * time.Minute)
		if n := w.State().Index() - before; n != 0 {
			t.Errorf("%d entries were written while nothing changed", n)
		}
		w.setSick("i1", errors.New("no database"))
		w.pass(3500 * time.Millisecond) // two checks of three, at most
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.pass(3500 * time.Millisecond)
		row := w.want(t, "i1", fsm.Running, fsm.Unhealthy)
		if row.Reason != "3 health checks in a row failed: no database" {
			t.Errorf("got the reason %q", row.Reason)
		}
		w.setSick("i1", nil)
		w.pass(3 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		if n := w.State().Index() - before; n != 2 {
			t.Errorf("two edges made %d entries", n)
		}
	})
}

func TestAnInstanceThatIsNeverHealthyFails(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.setSick("i1", errors.New("answered 500"))
		w.launch("i1")
		w.pass(29 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Unknown)
		w.pass(2 * time.Second)
		row := w.want(t, "i1", fsm.Failed, fsm.Unknown)
		if row.Reason != "was not healthy within 30s of its start: answered 500" || w.runs("i1") {
			t.Errorf("runs: %v, reason %q", w.runs("i1"), row.Reason)
		}
	})
}

func TestAnExitIsReportedWithItsLastLine(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(3200 * time.Millisecond)
		w.driver.End("i1", driver.Exit{Known: true, Code: 1}, "panic: no such table: users")
		w.pass(time.Second)
		row := w.want(t, "i1", fsm.Failed, fsm.Unknown)
		if row.Reason != "exit status 1 after 3.2s: panic: no such table: users" {
			t.Errorf("got the reason %q", row.Reason)
		}
		if acts := w.State().Activities.Len(); acts == 0 {
			t.Error("no activity tells of it")
		}
	})
}

func TestReasonsAreCutBetweenCharacters(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.driver.End("i1", driver.Exit{Known: true, Code: 1}, strings.Repeat("ä", 500)+"\xff")
		w.pass(time.Second)
		row := w.want(t, "i1", fsm.Failed, fsm.Unknown)
		if len(row.Reason) > 256 || !utf8.ValidString(row.Reason) || !strings.HasSuffix(row.Reason, "ä…") {
			t.Errorf("got %d bytes: %q", len(row.Reason), row.Reason)
		}
	})
}

func TestALaunchThatIsRefusedFails(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.refuse = fsm.Errorf(fsm.Forbidden, "command", "/bin/sh", "is not on this node's list of allowed executables")
		w.launch("i1")
		w.pass(time.Second)
		row := w.want(t, "i1", fsm.Failed, fsm.Unknown)
		if !strings.Contains(row.Reason, `command "/bin/sh": is not on this node's list`) {
			t.Errorf("got the reason %q", row.Reason)
		}
	})
}

func TestAnUnknownDriverFails(t *testing.T) {
	inBubble(t, func(t *fsm.Template) { t.Driver = "docker" }, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		if row := w.want(t, "i1", fsm.Failed, fsm.Unknown); !strings.Contains(row.Reason, "is not on node n1") {
			t.Errorf("got the reason %q", row.Reason)
		}
	})
}

func TestAnInstanceThatEndsWhileItDrainsHasStopped(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.Must(fsm.StopInstances{Instances: []string{"i1"}})
		w.pass(time.Second)
		w.driver.End("i1", driver.Exit{Known: true}, "")
		w.pass(time.Millisecond)
		w.want(t, "i1", fsm.Stopped, fsm.Unknown)
	})
}

func TestAPlacementThatIsTakenBackIsNotLaunched(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.set(func(c *cluster) { c.cut = fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader") })
		w.launch("i1", "i2")
		w.pass(time.Second)
		w.Must(fsm.StopInstances{Instances: []string{"i1"}})
		w.set(func(c *cluster) { c.cut = nil })
		w.pass(10 * time.Second)
		w.want(t, "i1", fsm.Stopped, fsm.Unknown)
		w.want(t, "i2", fsm.Running, fsm.Healthy)
		if n := w.driver.Launches()["i1"]; n != 0 {
			t.Errorf("launched %d times", n)
		}
	})
}

func TestADrainBetweenClaimAndLaunchEndsIt(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.delay = time.Second
		ids := many(9)
		w.launch(ids...)
		w.pass(100 * time.Millisecond)
		last := ""
		for _, id := range ids {
			if w.row(t, id).State == fsm.Starting && w.driver.Launches()[id] == 0 {
				last = id
			}
		}
		w.Must(fsm.StopInstances{Instances: ids})
		w.pass(time.Minute)
		for _, id := range ids {
			w.want(t, id, fsm.Stopped, fsm.Unknown)
		}
		if n := len(w.driver.Launches()); n != 8 || last == "" {
			t.Errorf("%d instances were launched, want the 8 that had begun", n)
		}
	})
}

func TestLaunchesAtOnceAreBounded(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.delay = 100 * time.Millisecond
		w.launch(many(60)...)
		w.pass(5 * time.Second)
		for _, id := range many(60) {
			w.want(t, id, fsm.Running, fsm.Healthy)
		}
		if w.most != 8 {
			t.Errorf("%d launches at once, want 8", w.most)
		}
		w.onceEach()
	})
}

func many(n int) []string {
	ids := make([]string, n)
	for k := range ids {
		ids[k] = fmt.Sprintf("i%03d", k)
	}
	return ids
}

func TestMeasurementsReachTheSink(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(5 * time.Second)
		w.mu.Lock()
		if w.metrics["i1/cpu"] != 10 || w.metrics["i1/memory"] != 5 {
			t.Errorf("got %v", w.metrics)
		}
		clear(w.metrics)
		w.mu.Unlock()
		w.Must(fsm.StopInstances{Instances: []string{"i1"}})
		w.pass(10 * time.Second)
		w.mu.Lock()
		defer w.mu.Unlock()
		if len(w.metrics) != 0 {
			t.Errorf("measured after its end: %v", w.metrics)
		}
	})
}

// TestBatchesAreFew proves that reports travel together: the claims of 100
// instances are one entry or two, not a hundred.
func TestBatchesAreFew(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.set(func(c *cluster) { c.cut = fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader") })
		w.launch(many(100)...)
		w.pass(time.Second)
		w.setDelay(time.Minute)
		before := w.State().Index()
		w.set(func(c *cluster) { c.cut = nil })
		w.pass(3 * time.Second)
		for _, id := range many(100) {
			w.want(t, id, fsm.Starting, fsm.Unknown)
		}
		if n := w.State().Index() - before; n > 2 {
			t.Errorf("100 claims made %d entries", n)
		}
		w.setDelay(0)
		w.pass(15 * time.Minute)
	})
}

func TestAnInstanceThatIgnoresItsSignalIsStoppedInTheEnd(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		stubborn := fake.New("fake", fake.Hooks{IgnoresStop: func(string) bool { return true }})
		w.stop()
		w.driver = stubborn
		w.drivers = []driver.Driver{stubborn}
		w.start()
		w.launch("i1")
		w.pass(time.Second)
		w.Must(fsm.StopInstances{Instances: []string{"i1"}})
		w.pass(12 * time.Second)
		w.want(t, "i1", fsm.Stopping, fsm.Unknown)
		w.pass(2 * time.Second)
		if row := w.want(t, "i1", fsm.Stopped, fsm.Unknown); !strings.Contains(row.Reason, "KILL") {
			t.Errorf("got the reason %q", row.Reason)
		}
	})
}

// TestADrainLastsAsLongAsTheServiceNeeds: the proxies of all nodes have to hear
// of it, and sessions are waited for no longer than they last.
func TestADrainLastsAsLongAsTheServiceNeeds(t *testing.T) {
	short := func(t *fsm.Template) { t.Stop = &fsm.Stop{Grace: fsm.Duration(10 * time.Millisecond)} }
	long := func(t *fsm.Template) { t.Stop = &fsm.Stop{Grace: fsm.Duration(time.Minute)} }
	key := fsm.SessionKey("one")
	sticky := &fsm.Service{Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable}}
	for _, c := range []struct {
		name             string
		template         func(*fsm.Template)
		service          *fsm.Service
		session          bool
		runs, afterwards time.Duration // it runs still, and has ended later
	}{
		{"no service", short, nil, false, 0, 100 * time.Millisecond},
		{"a service", short, &fsm.Service{}, false, 900 * time.Millisecond, 300 * time.Millisecond},
		{"a service and a long grace", long, &fsm.Service{}, false, 59 * time.Second, 2 * time.Second},
		{"sessions that are none", long, sticky, false, 900 * time.Millisecond, 300 * time.Millisecond},
		{"a session that stays", long, sticky, true, 59 * time.Second, 2 * time.Second},
		{"a session that ends", long, sticky, true, 10 * time.Second, 2 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			inBubble(t, c.template, func(w *world) {
				g, _ := w.State().Groups.Get("web")
				changed := *g
				changed.Service = c.service
				w.Must(fsm.PutGroup{Group: changed})
				w.launch("i1")
				w.pass(time.Second)
				w.want(t, "i1", fsm.Running, fsm.Healthy)
				if c.session {
					w.Must(fsm.AssignSessions{Group: "web", Keys: key[:]})
				}
				w.Must(fsm.StopInstances{Instances: []string{"i1"}})
				w.pass(c.runs)
				w.want(t, "i1", fsm.Draining, fsm.Unknown)
				if c.name == "a session that ends" {
					w.Must(fsm.DeleteSessions{Group: "web", Keys: key[:]})
				}
				w.pass(c.afterwards)
				w.want(t, "i1", fsm.Stopped, fsm.Unknown)
			})
		})
	}
}
