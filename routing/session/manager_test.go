package session_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/session"
)

// manage runs a manager under virtual time.
func manage(t *testing.T, test func(f *fake, m *session.Manager, end func())) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.group("web", fsm.StickyTable, time.Hour, 2)
		m := session.NewManager(f, nil)
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			m.Run(ctx)
		}()
		synctest.Wait()
		end := func() {
			cancel()
			<-done
		}
		test(f, m, end)
		end()
	})
}

func touched(f *fake) (keys int, sizes []int) {
	for _, c := range f.commands() {
		if touch, ok := c.(fsm.TouchSessions); ok {
			sizes = append(sizes, len(touch.Keys)/16)
			keys += len(touch.Keys) / 16
		}
	}
	return keys, sizes
}

// Uses are recorded in few commands, each session once.
func TestTouch(t *testing.T) {
	manage(t, func(f *fake, m *session.Manager, _ func()) {
		f.group("app", fsm.StickyTable, time.Hour, 1)
		f.sessions("web", 0, 10_000)
		pass(time.Minute)
		for range 3 {
			for _, k := range keysOf(0, 10_000) {
				m.Touch("web", k)
			}
		}
		m.Touch("app", key(1))
		if n, _ := touched(f); n != 0 {
			t.Errorf("%d uses were recorded at once", n)
		}
		pass(2 * time.Second)
		n, sizes := touched(f)
		slices.Sort(sizes)
		if n != 10_001 || !slices.Equal(sizes, []int{1, 10_000 - 2*fsm.MaxSessionKeys, fsm.MaxSessionKeys, fsm.MaxSessionKeys}) {
			t.Errorf("%d uses in %v", n, sizes)
		}
		if v, _ := f.State().Session("web", key(7)); time.Since(v.Seen) > 3*time.Second {
			t.Errorf("seen at %s", v.Seen)
		}
		pass(time.Minute)
		if n, _ := touched(f); n != 0 {
			t.Errorf("%d uses were recorded again", n)
		}
	})
}

// A use is recorded later when the cluster can not agree now, and never when
// the group is gone or not sticky any more.
func TestTouchAgain(t *testing.T) {
	manage(t, func(f *fake, m *session.Manager, _ func()) {
		f.group("hash", fsm.StickyHash, time.Hour, 1)
		f.sessions("web", 0, 5000)
		f.set(func(f *fake) { f.refuse = fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader") })
		for _, k := range keysOf(0, 5000) {
			m.Touch("web", k)
		}
		pass(10 * time.Second)
		f.set(func(f *fake) { f.refuse = nil })
		f.commands()
		pass(2 * time.Second)
		if n, _ := touched(f); n != 5000 {
			t.Errorf("%d of 5000 uses were recorded", n)
		}
		m.Touch("hash", key(1))
		m.Touch("none", key(1))
		pass(2 * time.Second)
		f.commands()
		pass(time.Minute)
		if n, _ := touched(f); n != 0 {
			t.Errorf("%d uses are tried for ever", n)
		}
	})
}

// A node that stops records what it has; without a quorum it does not wait.
func TestTouchAtTheEnd(t *testing.T) {
	manage(t, func(f *fake, m *session.Manager, end func()) {
		f.sessions("web", 0, 10)
		m.Touch("web", key(3))
		end()
		if n, _ := touched(f); n != 1 {
			t.Errorf("%d uses were recorded", n)
		}
	})
	manage(t, func(f *fake, m *session.Manager, end func()) {
		f.set(func(f *fake) { f.gate = make(chan struct{}) })
		m.Touch("web", key(3))
		m.Touch("app", key(3))
		began := time.Now()
		end()
		if took := time.Since(began); took > time.Second {
			t.Errorf("the end took %s", took)
		}
	})
}

// Uses that are not recorded yet are bounded.
func TestTouchedIsBounded(t *testing.T) {
	manage(t, func(f *fake, m *session.Manager, _ func()) {
		var k [16]byte
		for n := range 1<<18 + 1000 {
			k[0], k[1], k[2] = byte(n), byte(n>>8), byte(n>>16)
			m.Touch("web", k)
		}
		pass(2 * time.Second)
		if n, _ := touched(f); n != 1<<18 {
			t.Errorf("%d uses were kept", n)
		}
	})
}

// The manager has the keys of the state that it was given last.
func TestManagerKeys(t *testing.T) {
	f := newFake()
	m := session.NewManager(f, nil)
	defer m.Close()
	m.Use(f.State())
	if m.Keys() != nil {
		t.Fatal("there are keys before there are any")
	}
	rotate := func() {
		f.Must(fsm.RotateSessionKeys{ID: f.State().NextCookieKey(), Secret: make([]byte, 16)})
		m.Use(f.State())
	}
	rotate()
	first := m.Keys()
	cookie := first.Append(nil, "web", &ticket)
	m.Use(f.State())
	if m.Keys() != first {
		t.Error("the same keys were made anew: their nonces begin again")
	}
	rotate()
	if got, err := m.Keys().Open("web", cookie, 1); err != nil || got != ticket {
		t.Errorf("after one rotation: %v", err)
	}
	rotate()
	if _, err := m.Keys().Open("web", cookie, 1); err == nil {
		t.Error("a key opens cookies after two rotations")
	}
}
