//go:build linux

package e2e_test

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// sample is a template of the built-in application with quick checks.
func sample() fsm.Template {
	return fsm.Template{
		Driver: "process", Command: fsm.SampleCommand,
		HealthCheck: &fsm.HealthCheck{
			Type: fsm.CheckHTTP, Path: "/healthz", Interval: fsm.Duration(200 * time.Millisecond), Grace: fsm.Duration(10 * time.Second),
		},
		Stop: &fsm.Stop{Timeout: fsm.Duration(2 * time.Second)},
	}
}

// declare puts a template and a group of it, both with one name.
func declare(t testing.TB, f *fleet, name string, size, most int, tmpl fsm.Template) {
	t.Helper()
	tmpl.Name = name
	_, err := f.any().PutTemplate(t.Context(), tmpl)
	must(t, err)
	_, err = f.any().PutGroup(t.Context(), fsm.Group{Name: name, Template: name, MinSize: size, MaxSize: most, Desired: size})
	must(t, err)
}

// group declares a group and waits until all of it is healthy.
func group(t testing.TB, f *fleet, name string, size, most int, tmpl fsm.Template) {
	t.Helper()
	declare(t, f, name, size, most, tmpl)
	f.converged(name)
}

// converged waits until a group has what it wants.
func (f *fleet) converged(name string) {
	f.t.Helper()
	eventually(f.t, settleDeadline, "the group "+name+" as desired", func() error {
		st, err := f.any().GroupStatus(f.t.Context(), name)
		if err == nil && !st.Converged {
			err = fmt.Errorf("%d of %d healthy: %v: %s", st.Healthy, st.Desired, st.States, st.Explanation)
		}
		return err
	})
}

// active are a group's instances that are planned, starting or running.
func (f *fleet) active(name string) []fsm.Instance {
	f.t.Helper()
	st, err := f.client(alive(f.nodes)...).GroupStatus(f.t.Context(), name, client.WithConsistency(client.Strong))
	must(f.t, err)
	return slices.DeleteFunc(st.Instances, func(i fsm.Instance) bool { return !i.State.Active() })
}

func (f *fleet) ids(name string) []string {
	var list []string
	for _, i := range f.active(name) {
		list = append(list, i.ID)
	}
	slices.Sort(list)
	return list
}

// pids are the processes of a group's instances by instance.
func (f *fleet) pids(name string) map[string]int {
	pids := map[string]int{}
	for _, i := range f.active(name) {
		pids[i.ID] = i.PID
	}
	return pids
}

// twins looks for instances that two processes of this machine are.
func (f *fleet) twins() {
	f.t.Helper()
	seen := map[string]int{}
	for _, p := range processes(f.t) {
		if id := p.env["PACELINE_INSTANCE"]; id != "" && f.owns(id) {
			if other, twice := seen[id]; twice {
				f.t.Errorf("instance %s runs twice: pids %d and %d", id, other, p.pid)
			}
			seen[id] = p.pid
		}
	}
}

// TestReadopt stops and kills a node and starts it again: it finds its
// instances by their processes, and never makes another copy.
func TestReadopt(t *testing.T) {
	quick(t)
	f := running(t, 3)
	group(t, f, "web", 6, 9, sample())
	before := f.pids("web")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		n := f.leader()
		n.stop(sig)
		for _, r := range n.records() {
			if !isInstance(r.PID, r.ID) {
				t.Errorf("instance %s did not outlive its node after %v", r.ID, sig)
			}
		}
		n.start()
		f.whole()
		f.converged("web")
		f.twins()
	}
	// A node that was away for so short a time may have been seen as down or
	// not; what is there still must be the same processes.
	same := 0
	for id, pid := range f.pids("web") {
		if was, ok := before[id]; ok && was != pid {
			t.Errorf("instance %s had pid %d and now has %d", id, was, pid)
		} else if ok {
			same++
		}
	}
	if same == 0 {
		t.Error("no instance is left of those from before: the test has shown nothing")
	}
	t.Logf("%d of %d instances are the same processes as before", same, len(before))
}

// TestReadoptAll kills all nodes and starts them again: the instances have
// run on all the time and are the same.
func TestReadoptAll(t *testing.T) {
	quick(t)
	f := running(t, 3)
	group(t, f, "web", 6, 9, sample())
	before := f.pids("web")
	for _, n := range f.nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range f.nodes {
		n.gone()
	}
	f.startAll()
	f.whole()
	f.converged("web")
	f.twins()
	if after := f.pids("web"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("instances after the restart of all nodes: %v, before: %v", after, before)
	}
}

// TestNodeLost kills a node for longer: its instances are replaced elsewhere,
// and when it comes back, what it still ran is ended.
func TestNodeLost(t *testing.T) {
	quick(t)
	f := running(t, 3)
	group(t, f, "web", 6, 9, sample())
	lost := f.others(f.leader())[0]
	lost.kill()
	orphans := lost.records()
	if len(orphans) == 0 {
		t.Fatalf("%s ran nothing: instances are not spread", lost.name)
	}
	eventually(t, settleDeadline, "replacements on the other nodes", func() error {
		for _, i := range f.active("web") {
			if i.Node == lost.name {
				return fmt.Errorf("%s is still placed on %s", i.ID, i.Node)
			}
		}
		return nil
	})
	f.converged("web")
	lost.start()
	f.whole()
	eventually(t, settleDeadline, "the end of the orphans", func() error {
		for _, r := range orphans {
			if isInstance(r.PID, r.ID) {
				return fmt.Errorf("%s (pid %d) still runs", r.ID, r.PID)
			}
		}
		return nil
	})
	f.converged("web")
	f.twins()
}

// TestDrainNode moves instances away from a node, and never has fewer than
// the minimum that serve.
func TestDrainNode(t *testing.T) {
	quick(t)
	f := running(t, 3)
	const size = 6
	group(t, f, "web", size, 9, sample())
	n := f.others(f.leader())[0]
	done := make(chan struct{})
	least := make(chan int)
	go func() { least <- f.watchHealthy("web", done) }()
	_, err := f.any().DrainNode(t.Context(), n.name, client.DrainRequest{Reason: "test"})
	must(t, err)
	eventually(t, settleDeadline, "an empty node", func() error {
		for _, i := range f.active("web") {
			if i.Node == n.name {
				return fmt.Errorf("%s is %s on %s", i.ID, i.State, i.Node)
			}
		}
		return nil
	})
	f.converged("web")
	close(done)
	if low := <-least; low < size {
		t.Errorf("%d healthy instances during the drain, the minimum is %d", low, size)
	}
	eventually(t, settleDeadline, "no process on the drained node", func() error {
		for _, r := range n.records() {
			if isInstance(r.PID, r.ID) {
				return fmt.Errorf("%s still runs", r.ID)
			}
		}
		return nil
	})
	_, err = f.any().UndrainNode(t.Context(), n.name)
	must(t, err)
}

// watchHealthy follows a group's status and returns the fewest healthy
// instances that it ever saw.
func (f *fleet) watchHealthy(name string, done <-chan struct{}) int {
	least := 1 << 30
	c := f.client(f.leader())
	for {
		st, err := c.GroupStatus(f.t.Context(), name)
		if err == nil {
			least = min(least, st.Healthy)
		}
		select {
		case <-done:
			return least
		case <-time.After(pollPause):
		}
	}
}
