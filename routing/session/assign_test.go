package session_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/session"
)

// Requests that come while commands are under way share the next ones, and
// each gets its own answer.
func TestAssignBatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 3)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		const n = 2500
		got := make([]fsm.Assignment, n)
		var wg sync.WaitGroup
		for k := range n {
			if k <= 2 {
				synctest.Wait() // the first two have commands of their own
			}
			wg.Go(func() {
				var err error
				if got[k], err = a.Assign(t.Context(), "web", key(k)); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // the rest waits
		if len(f.commands()) != 2 {
			t.Error("more than two commands are under way")
		}
		close(f.gate)
		wg.Wait()
		a.Close()
		rest := f.commands()
		if len(rest) < 3 || len(rest) > 4 { // 1024 sessions each
			t.Errorf("%d sessions took %d more commands", n, len(rest))
		}
		for _, c := range rest {
			if size := len(c.(fsm.AssignSessions).Keys) / 16; size > 1024 {
				t.Errorf("a command assigns %d sessions", size)
			}
		}
		for k := range n {
			v, ok := f.State().Session("web", key(k))
			if !ok || v.Instance != got[k].Instance || v.Slot != got[k].Slot || !got[k].Created {
				t.Fatalf("session %d: told %+v, is %+v", k, got[k], v)
			}
		}
	})
}

func TestAssignAnswers(t *testing.T) {
	f := newFake()
	f.group("web", fsm.StickyTable, 0, 1)
	f.group("hash", fsm.StickyHash, 0, 1)
	a := session.NewAssigner(f)
	first, err := a.Assign(t.Context(), "web", key(1))
	if err != nil || !first.Created || first.Instance != instance("web", 0) {
		t.Fatalf("%+v, %v", first, err)
	}
	for group, kind := range map[string]fsm.Kind{"none": fsm.NotFound, "hash": fsm.Conflict} {
		if _, err := a.Assign(t.Context(), group, key(1)); fsm.KindOf(err) != kind {
			t.Errorf("%s: %v", group, err)
		}
	}
	// What the cluster remembers of a command it has applied has no value.
	f.set(func(f *fake) { f.forgets = true })
	again, err := a.Assign(t.Context(), "web", key(1))
	if err != nil || again.Instance != first.Instance || again.Slot != first.Slot || again.Incarnation != first.Incarnation {
		t.Errorf("replayed: %+v, %v", again, err)
	}
	f.set(func(f *fake) { f.forgets = false })

	// Without an instance for new sessions the old ones stay where they are.
	f.Report(instance("web", 0), fsm.Running, fsm.Unhealthy)
	if _, err := a.Assign(t.Context(), "web", key(2)); fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("no instance takes sessions: %v", err)
	}
	f.Report(instance("web", 0), fsm.Failed, "")
	if _, err := a.Assign(t.Context(), "web", key(1)); fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("its instance has ended: %v", err)
	}
	a.Close()
	if _, err := a.Assign(t.Context(), "web", key(1)); fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

// A session that was placed without the cluster stays there, also in one
// command with others, and whoever asks second gets the same answer.
func TestAssignAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 3)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		last := session.Place{Instance: instance("web", 2), Incarnation: 1}
		asks := []struct {
			key int
			at  session.Place
		}{{1, last}, {2, last}, {3, session.Place{}}, {4, last}, {4, session.Place{Instance: instance("web", 0), Incarnation: 1}}, {5, session.Place{}}}
		got := make([]fsm.Assignment, len(asks))
		errs := make([]error, len(asks))
		var wg sync.WaitGroup
		for k, ask := range asks {
			wg.Go(func() { got[k], errs[k] = a.AssignAt(t.Context(), "web", key(ask.key), ask.at) })
			synctest.Wait()
		}
		close(f.gate)
		wg.Wait()
		a.Close()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		for k, want := range []string{last.Instance, last.Instance, instance("web", 0), last.Instance, last.Instance, instance("web", 1)} {
			if got[k].Instance != want {
				t.Errorf("request %d went to %s, want %s", k, got[k].Instance, want)
			}
		}
		if names := f.names(); len(names) != 3 {
			t.Errorf("commands: %v", names)
		}
	})
}

// A session that is there does not suffer from a new one in the same command.
func TestAssignRefusedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 1)
		f.sessions("web", 1, 1)
		f.Report(instance("web", 0), fsm.Running, fsm.Unhealthy)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		errs := make([]error, 6)
		var got fsm.Assignment
		var wg sync.WaitGroup
		for k := range errs {
			if k <= 2 {
				synctest.Wait() // the first two have commands of their own
			}
			wg.Go(func() {
				if k == 5 {
					got, errs[k] = a.Assign(t.Context(), "web", key(1))
					return
				}
				_, errs[k] = a.Assign(t.Context(), "web", key(10+k))
			})
		}
		synctest.Wait()
		close(f.gate)
		wg.Wait()
		a.Close()
		for k, err := range errs[:5] {
			if fsm.KindOf(err) != fsm.Unavailable {
				t.Errorf("new session %d: %v", k, err)
			}
		}
		if errs[5] != nil || got.Instance != instance("web", 0) {
			t.Errorf("old session: %+v, %v", got, errs[5])
		}
	})
}

// When the cluster can not agree in time, nobody waits for it for a second,
// unless it agrees again before.
func TestAssignWithoutQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 1)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		assign := func(k int, wait time.Duration) (time.Duration, error) {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			began := time.Now()
			_, err := a.Assign(ctx, "web", key(k))
			return time.Since(began), err
		}
		if took, err := assign(1, 2*time.Second); took != 2*time.Second || fsm.KindOf(err) != fsm.NoLeader {
			t.Errorf("first: %s, %v", took, err)
		}
		if took, err := assign(2, 2*time.Second); took != 0 || fsm.KindOf(err) != fsm.NoLeader {
			t.Errorf("while it is down: %s, %v", took, err)
		}
		time.Sleep(time.Second) //archtest:ok virtual time
		if took, err := assign(3, time.Second); took != time.Second || fsm.KindOf(err) != fsm.NoLeader {
			t.Errorf("after a second: %s, %v", took, err)
		}
		close(f.gate) // the commands that were under way are agreed on
		synctest.Wait()
		if took, err := assign(4, 2*time.Second); took != 0 || err != nil {
			t.Errorf("when it agrees again: %s, %v", took, err)
		}
		a.Close()
	})
}

// A client that goes away says nothing about the cluster.
func TestAssignCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 1)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		ctx, cancel := context.WithCancel(t.Context())
		gone := make(chan error)
		go func() {
			_, err := a.Assign(ctx, "web", key(1))
			gone <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-gone; fsm.KindOf(err) != fsm.NoLeader {
			t.Errorf("cancelled: %v", err)
		}
		close(f.gate)
		if _, err := a.Assign(t.Context(), "web", key(2)); err != nil {
			t.Errorf("the next one suffers: %v", err)
		}
		a.Close()
	})
}

// Close gives up what is under way, and everybody who waits gets an answer.
func TestAssignClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 1)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		var wg sync.WaitGroup
		for k := range 50 {
			wg.Go(func() {
				if _, err := a.Assign(t.Context(), "web", key(k)); fsm.KindOf(err) != fsm.NoLeader {
					t.Errorf("session %d: %v", k, err)
				}
			})
		}
		synctest.Wait()
		began := time.Now()
		a.Close()
		wg.Wait()
		if took := time.Since(began); took != 0 {
			t.Errorf("Close waited for %s", took)
		}
	})
}

// Too many that wait are refused, those that wait are not.
func TestAssignQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, 0, 1)
		f.gate = make(chan struct{})
		a := session.NewAssigner(f)
		const most = 65536
		var wg sync.WaitGroup
		ask := func(k int) {
			wg.Go(func() {
				if _, err := a.Assign(t.Context(), "web", key(k%7)); err != nil {
					t.Error(err)
				}
			})
		}
		for k := range 2 { // one command each, that the gate holds up
			ask(k)
			synctest.Wait()
		}
		for k := range most {
			ask(k)
		}
		synctest.Wait()
		if _, err := a.Assign(t.Context(), "web", key(1)); fsm.KindOf(err) != fsm.Exhausted {
			t.Errorf("one more than the limit: %v", err)
		}
		close(f.gate)
		wg.Wait()
		if _, err := a.Assign(t.Context(), "web", key(1)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		a.Close()
	})
}

func BenchmarkAssign(b *testing.B) {
	f := newFake()
	f.group("web", fsm.StickyTable, 0, 10)
	a := session.NewAssigner(f)
	b.SetParallelism(256)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for k := 0; pb.Next(); k++ {
			if _, err := a.Assign(context.Background(), "web", key(k%10000)); err != nil {
				b.Error(err)
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(b.N)/float64(max(1, len(f.commands()))), "sessions/command")
	a.Close()
}
