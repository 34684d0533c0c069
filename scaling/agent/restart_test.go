package agent_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// restart is a new process of the node: the state shows the old registration
// until registered is called.
func (w *world) restart() {
	w.stop()
	w.driver.Reopen()
	w.epoch++
}

func TestARestartedNodeAdoptsWhatRuns(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1", "i2", "i3")
		w.pass(time.Second)
		w.restart()
		w.driver.End("i2", driver.Exit{Known: true, Code: 2}, "")
		w.register()
		w.start()
		w.pass(time.Second)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		if row := w.want(t, "i2", fsm.Failed, fsm.Unknown); !strings.HasPrefix(row.Reason, "exit status 2 after ") {
			t.Errorf("got the reason %q", row.Reason)
		}
		w.want(t, "i3", fsm.Running, fsm.Healthy)
		w.driver.End("i3", driver.Exit{}, "")
		w.pass(time.Second)
		w.want(t, "i3", fsm.Failed, fsm.Unknown)
		w.onceEach()
	})
}

func TestAMachineThatCrashedHasLostItsProcesses(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1", "i2")
		w.pass(time.Second)
		w.Must(fsm.StopInstances{Instances: []string{"i2"}})
		w.restart()
		w.driver.EndAll()
		w.register()
		w.start()
		w.pass(time.Second)
		if row := w.want(t, "i1", fsm.Failed, fsm.Unknown); row.Reason != "its process was gone when the node came back" {
			t.Errorf("got the reason %q", row.Reason)
		}
		w.want(t, "i2", fsm.Stopped, fsm.Unknown)
		w.onceEach()
	})
}

func TestAClaimOfAnEarlierProcessIsNotLaunched(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.stop()
		w.launch("i1")
		w.Must(fsm.ReportInstances{Node: node, NodeIncarnation: w.epoch, Reports: []fsm.InstanceReport{{ID: "i1", State: fsm.Starting}}})
		w.epoch++
		w.register()
		w.start()
		w.pass(time.Second)
		w.want(t, "i1", fsm.Failed, fsm.Unknown)
		if n := len(w.driver.Launches()); n != 0 {
			t.Errorf("%d launches of what may have run before", n)
		}
	})
}

func TestADrainGoesOnAfterARestart(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1", "i2")
		w.pass(time.Second)
		w.Must(fsm.StopInstances{Instances: []string{"i1", "i2"}})
		w.pass(time.Second)
		w.restart()
		w.Must(fsm.ReportInstances{Node: node, NodeIncarnation: epoch, Reports: []fsm.InstanceReport{{ID: "i2", State: fsm.Stopping}}})
		w.register()
		w.start()
		w.pass(time.Second)
		w.want(t, "i1", fsm.Draining, fsm.Unknown)
		w.want(t, "i2", fsm.Stopped, fsm.Unknown)
		w.pass(5 * time.Second)
		w.want(t, "i1", fsm.Stopped, fsm.Unknown)
	})
}

// TestNothingIsDoneOnAnOldState is the guard against a state that can not be
// trusted: empty, or a replay of what an earlier process has done.
func TestNothingIsDoneOnAnOldState(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1", "i2")
		w.pass(time.Second)
		w.restart()
		whole := w.cluster
		for name, old := range map[string]func() *cluster{
			"an empty state": newCluster,
			"a state that does not know the node": func() *cluster {
				c := newCluster()
				c.SetTerm(9) // newer than what the driver has seen, so that its fence lets a stop pass
				c.Must(fsm.InitCluster{ID: "c1"})
				return c
			},
			"a state before the instances": func() *cluster {
				c := newCluster()
				c.Must(fsm.InitCluster{ID: "c1"})
				c.Must(fsm.RegisterNode{Node: fsm.Node{Name: node, Incarnation: epoch}})
				return c
			},
			"a state in which they were still planned": func() *cluster {
				c := newCluster()
				c.Must(fsm.InitCluster{ID: "c1"})
				c.Must(fsm.PutTemplate{Template: fsm.Template{Name: "app", Driver: "fake"}})
				c.Must(fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "app", MaxSize: 500}})
				c.Must(fsm.RegisterNode{Node: fsm.Node{Name: node, Incarnation: epoch}})
				c.Must(fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i3", Node: node}}})
				return c
			},
		} {
			w.cluster = old()
			w.start()
			w.pass(time.Minute)
			if !w.runs("i1") || !w.runs("i2") {
				t.Errorf("%s: ended what runs", name)
			}
			if n := len(w.driver.Launches()); n != 2 {
				t.Errorf("%s: launched", name)
			}
			w.stop()
		}
		w.cluster = whole
		w.register()
		w.start()
		w.pass(time.Second)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.onceEach()
	})
}

func TestOrphansAreEnded(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1", "i2", "i3")
		w.pass(time.Second)
		if _, err := w.driver.Start(t.Context(), driver.Spec{ID: nobodys}); err != nil {
			t.Fatal(err)
		}
		w.Must(fsm.NodeDown{Node: node, Incarnation: w.epoch, Term: 1, Reason: "cut off"})
		w.pass(20 * time.Second)
		for _, id := range []string{"i1", "i2", "i3", nobodys} {
			if w.runs(id) {
				t.Errorf("%s still runs although it was lost and replaced", id)
			}
		}
		w.want(t, "i1", fsm.Lost, fsm.Unknown)
	})
}

func TestARemovedNodeEndsWhatItRuns(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.Must(fsm.RemoveNode{Node: node})
		w.pass(20 * time.Second)
		if w.runs("i1") {
			t.Error("it still runs although its node was removed")
		}
	})
}

func TestReportsSurviveAFailover(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1", "i2")
		w.pass(time.Second)
		w.set(func(c *cluster) { c.cut = fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader") })
		w.driver.End("i1", driver.Exit{Known: true, Code: 1}, "")
		w.setSick("i2", errSick)
		w.pass(30 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
		w.set(func(c *cluster) { c.cut, c.lost = nil, 2 })
		w.pass(20 * time.Second)
		w.want(t, "i1", fsm.Failed, fsm.Unknown)
		w.want(t, "i2", fsm.Running, fsm.Unhealthy)
		w.set(func(c *cluster) {
			if c.strangers != 0 || c.lost != 0 {
				t.Errorf("%d requests came instead of the repetition of a lost one (%d left to lose)", c.strangers, c.lost)
			}
		})
		w.onceEach()
	})
}

func TestRefusedReportsAreKept(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.set(func(c *cluster) { c.cut = fsm.Errorf(fsm.Conflict, "node", node, "has restarted since this report") })
		w.launch("i1")
		w.pass(30 * time.Second)
		w.want(t, "i1", fsm.Planned, fsm.Unknown)
		w.set(func(c *cluster) { c.cut = nil })
		w.pass(10 * time.Second)
		w.want(t, "i1", fsm.Running, fsm.Healthy)
	})
}

func TestAHealthThatComesLateDoesNotTouchADrain(t *testing.T) {
	inBubble(t, nil, func(w *world) {
		w.launch("i1")
		w.pass(time.Second)
		w.set(func(c *cluster) { c.cut = fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader") })
		w.setSick("i1", errSick)
		w.pass(20 * time.Second)
		w.Must(fsm.StopInstances{Instances: []string{"i1"}, Cause: "scale-in"})
		w.set(func(c *cluster) { c.cut = nil })
		w.pass(2500 * time.Millisecond)
		if row := w.want(t, "i1", fsm.Draining, fsm.Unknown); row.Reason != "scale-in" {
			t.Errorf("got the reason %q", row.Reason)
		}
	})
}

func TestAWatchThatLagsOrReplaysLaunchesNothingTwice(t *testing.T) {
	for name, fault := range map[string]func(*cluster){
		"replays": func(c *cluster) { c.replay = true },
		"lags":    func(c *cluster) { c.lag = 3 },
		"both":    func(c *cluster) { c.replay, c.lag = true, 7 },
		"unknown": func(c *cluster) { c.lost = 5 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, nil, func(w *world) {
				w.set(fault)
				for k := range 10 {
					w.launch(many(10 * (k + 1))[10*k:]...)
					w.pass(300 * time.Millisecond)
				}
				w.pass(20 * time.Second)
				for k, id := range many(100) {
					w.want(t, id, fsm.Running, fsm.Healthy)
					if k%2 == 0 {
						w.Must(fsm.StopInstances{Instances: []string{id}})
					}
				}
				w.pass(30 * time.Second)
				for k, id := range many(100) {
					if want := k%2 != 0; w.runs(id) != want {
						t.Errorf("%s runs: %v, want %v (%s)", id, !want, want, w.row(t, id).State)
					}
				}
				w.onceEach()
			})
		})
	}
}
