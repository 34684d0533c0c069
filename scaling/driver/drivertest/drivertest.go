// Package drivertest is the suite that every driver passes. A driver's test
// calls [Run] with a function that opens the driver and describes instances.
package drivertest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// patience bounds how long the suite waits for anything. It is generous: the
// suite never asserts how fast a driver is.
const patience = 30 * time.Second

// Behaviour is what an instance of the suite does.
type Behaviour int

// The behaviours that the suite asks for.
const (
	// Serves runs until it is told to stop, after it wrote "hello" as a line.
	Serves Behaviour = iota
	// Exits ends by itself, soon, with exit status 3.
	Exits
	// IgnoresStop ends by KILL only, once it has written "hello".
	IgnoresStop
	// Forbidden is a command that the node does not allow.
	Forbidden
	// Missing is a command that is allowed and does not exist.
	Missing
)

// Harness is one driver under test.
type Harness struct {
	Driver driver.Driver
	// Spec describes an instance. It may skip the test.
	Spec func(t *testing.T, id string, b Behaviour) driver.Spec
	// Reopen is a restart of the node: it closes Driver and returns the one of
	// the next process.
	Reopen func(t *testing.T) driver.Driver
}

// Run tests a driver. open is called for each test and cleans up with t.
func Run(t *testing.T, open func(t *testing.T) *Harness) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(*testing.T, *Harness)
	}{
		{"start, list and stop", startListStop},
		{"the same intent is done once", startsOnce},
		{"concurrent starts are one start", startsOnceAtOnce},
		{"an ended instance is not started again", endedStaysEnded},
		{"orders of an older term are refused", fences},
		{"an exit is noticed", noticesExit},
		{"an instance that ignores its signal is killed", kills},
		{"a stop of an ended instance is its status", stopsTwice},
		{"a restarted node adopts what runs", adopts},
		{"a restarted node knows what has ended", remembersEnd},
		{"a command that is not allowed is forbidden", forbids},
		{"a missing command is said to be missing", missing},
		{"an unknown instance is not found", unknown},
		{"an id that is no file name is refused", badID},
		{"a running instance is not removed", removes},
		{"logs can be read", logs},
		{"stats are of the instance", stats},
		{"a wait can be given up", waitEnds},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, open(t)) })
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func (h *Harness) start(t *testing.T, id string, b Behaviour) driver.Status {
	t.Helper()
	st, err := h.Driver.Start(within(t), h.Spec(t, id, b))
	if err != nil {
		t.Fatalf("start %s: %v", id, err)
	}
	if st.ID != id || st.Phase != driver.Running || st.Exit != nil {
		t.Fatalf("start %s: got %+v", id, st)
	}
	return st
}

func (h *Harness) find(t *testing.T, id string) (driver.Status, bool) {
	t.Helper()
	st, ok, err := driver.Find(within(t), h.Driver, id)
	if err != nil {
		t.Fatal(err)
	}
	return st, ok
}

func (h *Harness) stop(t *testing.T, id string) driver.Status {
	t.Helper()
	st, err := h.Driver.Stop(within(t), id, driver.StopSpec{Term: 1 << 40, Signal: "TERM", Timeout: patience})
	if err != nil {
		t.Fatalf("stop %s: %v", id, err)
	}
	return st
}

func wantKind(t *testing.T, err error, kind fsm.Kind) {
	t.Helper()
	if fsm.KindOf(err) != kind {
		t.Errorf("got error %v (%q), want a %q", err, fsm.KindOf(err), kind)
	}
}

func startListStop(t *testing.T, h *Harness) {
	st := h.start(t, "a1", Serves)
	if st.Address == "" || st.Limits == "" || st.StartedAt.IsZero() {
		t.Errorf("the status lacks something: %+v", st)
	}
	h.start(t, "a2", Serves)
	if list, err := h.Driver.List(within(t)); err != nil || len(list) != 2 {
		t.Errorf("list: got %v, %v", list, err)
	}
	end := h.stop(t, "a1")
	if end.Phase != driver.Ended || end.Exit == nil || !end.Exit.Known {
		t.Errorf("after stop: got %+v", end)
	}
	if st, _ := h.find(t, "a2"); st.Phase != driver.Running {
		t.Errorf("the other instance is %+v", st)
	}
}

func startsOnce(t *testing.T, h *Harness) {
	first := h.start(t, "a", Serves)
	again := h.start(t, "a", Serves)
	if again.PID != first.PID || again.Address != first.Address {
		t.Errorf("started twice: %+v, then %+v", first, again)
	}
}

func startsOnceAtOnce(t *testing.T, h *Harness) {
	spec := h.Spec(t, "a", Serves)
	ctx := within(t)
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := map[int]bool{}
	for range 12 {
		wg.Go(func() {
			st, err := h.Driver.Start(ctx, spec)
			if err != nil {
				t.Errorf("start: %v", err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			seen[st.PID] = true
		})
	}
	wg.Wait()
	if len(seen) != 1 {
		t.Errorf("started as %v", seen)
	}
}

func endedStaysEnded(t *testing.T, h *Harness) {
	h.start(t, "a", Serves)
	h.stop(t, "a")
	spec := h.Spec(t, "a", Serves)
	spec.Term = 1 << 41
	_, err := h.Driver.Start(within(t), spec)
	wantKind(t, err, fsm.Conflict)
	if st, _ := h.find(t, "a"); st.Phase != driver.Ended {
		t.Errorf("it runs again: %+v", st)
	}
}

func fences(t *testing.T, h *Harness) {
	spec := h.Spec(t, "a", Serves)
	spec.Term = 5
	if _, err := h.Driver.Start(within(t), spec); err != nil {
		t.Fatal(err)
	}
	spec.Term = 4
	_, err := h.Driver.Start(within(t), spec)
	wantKind(t, err, fsm.Conflict)
	_, err = h.Driver.Stop(within(t), "a", driver.StopSpec{Term: 4, Signal: "TERM", Timeout: patience})
	wantKind(t, err, fsm.Conflict)
	spec.Term = 9
	if _, err = h.Driver.Start(within(t), spec); err != nil {
		t.Errorf("a newer term: %v", err)
	}
	h.Driver = h.Reopen(t)
	_, err = h.Driver.Stop(within(t), "a", driver.StopSpec{Term: 8, Signal: "TERM", Timeout: patience})
	wantKind(t, err, fsm.Conflict)
	if st, _ := h.find(t, "a"); st.Phase != driver.Running {
		t.Errorf("a deposed leader stopped it: %+v", st)
	}
}

func noticesExit(t *testing.T, h *Harness) {
	h.start(t, "a", Exits)
	st, err := h.Driver.Wait(within(t), "a")
	if err != nil {
		t.Fatal(err)
	}
	if st.Phase != driver.Ended || st.Exit == nil || !st.Exit.Known || st.Exit.Code != 3 {
		t.Errorf("got %+v, exit %+v", st, st.Exit)
	}
	if !strings.HasPrefix(st.Reason(), "exit status 3 after ") {
		t.Errorf("got the reason %q", st.Reason())
	}
}

func kills(t *testing.T, h *Harness) {
	h.start(t, "a", IgnoresStop)
	Eventually(t, "the instance ignores its signal", func() bool {
		c, err := h.Driver.Logs(within(t), "a", driver.LogQuery{})
		return err == nil && len(c.Data) > 0
	})
	st, err := h.Driver.Stop(within(t), "a", driver.StopSpec{Term: 1, Signal: "TERM", Timeout: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if st.Exit == nil || st.Exit.Signal != "KILL" {
		t.Errorf("got %+v, exit %+v", st, st.Exit)
	}
}

func stopsTwice(t *testing.T, h *Harness) {
	h.start(t, "a", Serves)
	first := h.stop(t, "a")
	again := h.stop(t, "a")
	if again.Phase != driver.Ended || !again.Exit.At.Equal(first.Exit.At) {
		t.Errorf("got %+v, then %+v", first, again)
	}
}

func adopts(t *testing.T, h *Harness) {
	first := h.start(t, "a", Serves)
	h.Driver = h.Reopen(t)
	st, ok := h.find(t, "a")
	if !ok || st.Phase != driver.Running || !st.Adopted {
		t.Fatalf("not adopted: %+v", st)
	}
	if st.PID != first.PID || st.Address != first.Address || st.Term != first.Term || st.Group != first.Group {
		t.Errorf("adopted as another: %+v, was %+v", st, first)
	}
	if again := h.start(t, "a", Serves); again.PID != first.PID {
		t.Errorf("started again as %+v", again)
	}
	if end := h.stop(t, "a"); end.Phase != driver.Ended {
		t.Errorf("not stopped: %+v", end)
	}
}

func remembersEnd(t *testing.T, h *Harness) {
	h.start(t, "a", Exits)
	if _, err := h.Driver.Wait(within(t), "a"); err != nil {
		t.Fatal(err)
	}
	h.Driver = h.Reopen(t)
	st, ok := h.find(t, "a")
	if !ok || st.Phase != driver.Ended || st.Exit == nil || st.Exit.Code != 3 {
		t.Errorf("got %+v", st)
	}
	_, err := h.Driver.Start(within(t), h.Spec(t, "a", Serves))
	wantKind(t, err, fsm.Conflict)
}

func forbids(t *testing.T, h *Harness) {
	_, err := h.Driver.Start(within(t), h.Spec(t, "a", Forbidden))
	wantKind(t, err, fsm.Forbidden)
	if st, ok := h.find(t, "a"); ok {
		t.Errorf("something is left: %+v", st)
	}
}

func missing(t *testing.T, h *Harness) {
	_, err := h.Driver.Start(within(t), h.Spec(t, "a", Missing))
	wantKind(t, err, fsm.NotFound)
	if st, ok := h.find(t, "a"); ok {
		t.Errorf("something is left: %+v", st)
	}
	h.start(t, "b", Serves)
}

func unknown(t *testing.T, h *Harness) {
	ctx := within(t)
	_, err := h.Driver.Stop(ctx, "nobody", driver.StopSpec{Signal: "TERM"})
	wantKind(t, err, fsm.NotFound)
	_, err = h.Driver.Wait(ctx, "nobody")
	wantKind(t, err, fsm.NotFound)
	_, err = h.Driver.Stats(ctx, "nobody")
	wantKind(t, err, fsm.NotFound)
	_, err = h.Driver.Logs(ctx, "nobody", driver.LogQuery{})
	wantKind(t, err, fsm.NotFound)
	wantKind(t, h.Driver.Exec(ctx, "nobody", []string{"/bin/true"}), fsm.NotFound)
	wantKind(t, h.Driver.Remove(ctx, "nobody"), fsm.NotFound)
}

func badID(t *testing.T, h *Harness) {
	for _, id := range []string{"", "..", "../up", "a/b", "a\nb"} {
		_, err := h.Driver.Start(within(t), h.Spec(t, id, Serves))
		wantKind(t, err, fsm.Invalid)
	}
}

func removes(t *testing.T, h *Harness) {
	h.start(t, "a", Serves)
	wantKind(t, h.Driver.Remove(within(t), "a"), fsm.Conflict)
	h.stop(t, "a")
	if err := h.Driver.Remove(within(t), "a"); err != nil {
		t.Fatal(err)
	}
	if st, ok := h.find(t, "a"); ok {
		t.Errorf("still there: %+v", st)
	}
	h.Driver = h.Reopen(t)
	if st, ok := h.find(t, "a"); ok {
		t.Errorf("back after a restart: %+v", st)
	}
}

func logs(t *testing.T, h *Harness) {
	h.start(t, "a", Serves)
	Eventually(t, "the instance has written a line", func() bool {
		c, err := h.Driver.Logs(within(t), "a", driver.LogQuery{})
		return err == nil && strings.HasPrefix(string(c.Data), "hello\n") && c.Offset == 0 && c.Next == int64(len(c.Data))
	})
	tail, err := h.Driver.Logs(within(t), "a", driver.LogQuery{Offset: -1, TailLines: 1})
	if err != nil || len(tail.Data) == 0 {
		t.Errorf("tail: got %q, %v", tail.Data, err)
	}
	rest, err := h.Driver.Logs(within(t), "a", driver.LogQuery{Offset: 2, Limit: 3})
	if err != nil || string(rest.Data) != "llo" || rest.Next != 5 {
		t.Errorf("from 2: got %q, next %d, %v", rest.Data, rest.Next, err)
	}
	h.stop(t, "a")
	if c, err := h.Driver.Logs(within(t), "a", driver.LogQuery{}); err != nil || len(c.Data) == 0 {
		t.Errorf("after the end: got %q, %v", c.Data, err)
	}
}

func stats(t *testing.T, h *Harness) {
	h.start(t, "a", Serves)
	Eventually(t, "the instance uses memory and has a CPU rate", func() bool {
		u, err := h.Driver.Stats(within(t), "a")
		return err == nil && u.RSSBytes > 0 && u.MemoryPercent > 0 && u.Processes > 0 && u.HasCPU && u.CPUPercent >= 0
	})
	h.stop(t, "a")
	_, err := h.Driver.Stats(within(t), "a")
	wantKind(t, err, fsm.Conflict)
}

func waitEnds(t *testing.T, h *Harness) {
	h.start(t, "a", Serves)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := h.Driver.Wait(ctx, "a")
		done <- err
	}()
	cancel()
	select {
	case err := <-done:
		if err == nil {
			t.Error("the wait ended without the instance")
		}
	case <-time.After(patience):
		t.Fatal("the wait did not end with its context")
	}
}

// Eventually polls a condition until it holds, and fails the test when it
// never does.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if err := poll(holds); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func poll(holds func() bool) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			return fmt.Errorf("did not happen within %s", patience)
		}
	}
	return nil
}
