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

// lead runs a keeper under virtual time and returns how to end it.
func lead(t testing.TB, f *fake) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	k := session.NewKeeper(f, nil)
	go func() {
		defer close(done)
		if err := k.Run(ctx, 1); err == nil {
			t.Error("the keeper has ended by itself")
		}
	}()
	synctest.Wait()
	return func() {
		cancel()
		<-done
	}
}

// pass lets virtual time pass, and then what began in it end.
func pass(d time.Duration) {
	time.Sleep(d) //archtest:ok virtual time
	synctest.Wait()
}

// keep runs a test with a keeper of a cluster that has its first key.
func keep(t *testing.T, test func(f *fake)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		end := lead(t, f)
		if names := f.names(); !slices.Equal(names, []string{"RotateSessionKeys"}) {
			t.Errorf("at the start of a cluster: %v", names)
		}
		test(f)
		end()
	})
}

func ids(f *fake) (list []uint8) {
	for _, k := range f.State().CookieKeys() {
		list = append(list, k.ID)
	}
	return list
}

// skip lets a long time pass without a leader, and then one lead for a moment:
// a keeper that looks every second takes too long for days.
func skip(t testing.TB, f *fake, d time.Duration) {
	pass(d)
	end := lead(t, f)
	pass(10 * time.Millisecond)
	end()
}

func TestKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		skip(t, f, 0)
		skip(t, f, 49*time.Hour)
		if names := f.names(); !slices.Equal(names, []string{"RotateSessionKeys"}) {
			t.Errorf("without sticky sessions: %v", names)
		}
		f.group("web", fsm.StickyTable, 0, 1)
		skip(t, f, time.Second)
		if got := ids(f); !slices.Equal(got, []uint8{2, 1}) {
			t.Errorf("the first key was 49 h old: %v", got)
		}
		skip(t, f, 24*time.Hour-time.Second)
		if got := ids(f); !slices.Equal(got, []uint8{2, 1}) {
			t.Errorf("before a day is over: %v", got)
		}
		skip(t, f, time.Second)
		if got := ids(f); !slices.Equal(got, []uint8{3, 2}) {
			t.Errorf("after a day: %v", got)
		}
		keys := f.State().CookieKeys()
		if keys[0].Secret == keys[1].Secret || keys[0].Secret == (fsm.SessionSecret{}) {
			t.Error("the secrets are not random")
		}
	})
}

// A cookie opens for as long as its session lives, also one that is sealed
// just before the keys rotate.
func TestKeysOutliveCookies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const ttl = 48 * time.Hour
		const sealed = 47 // hours: just before the keys rotate
		f := newFake()
		f.group("web", fsm.StickyTable, ttl, 1)
		m := session.NewManager(f, nil)
		var last []byte
		for hour := range 24 * 5 {
			skip(t, f, time.Hour)
			m.Use(f.State())
			cookie := m.Keys().Append(nil, "web", &session.Ticket{Expires: ^uint32(0)})
			if hour == sealed {
				last = cookie
			}
			if last != nil && hour < sealed+48 {
				if _, err := m.Keys().Open("web", last, 0); err != nil {
					t.Fatalf("%d hours after it was sealed: %v", hour-sealed, err)
				}
			}
		}
		if got := ids(f); got[0] < 3 {
			t.Errorf("the keys are not rotated: %v", got)
		}
		m.Close()
	})
}

// Sessions of an instance that ends are moved at once, evenly, in as many
// commands as it takes; the others stay.
func TestRehome(t *testing.T) {
	keep(t, func(f *fake) {
		f.group("web", fsm.StickyTable, 0, 4)
		f.sessions("web", 0, 12_000)
		pass(1400 * time.Millisecond) // between two rounds: the end itself must wake the keeper
		f.commands()
		before := f.State()
		f.Report(instance("web", 2), fsm.Failed, "")
		pass(100 * time.Millisecond)
		if names := f.names(); len(names) < 3 || slices.ContainsFunc(names, func(n string) bool { return n != "RehomeSessions" }) {
			t.Errorf("3000 sessions, 1024 a command: %v", names)
		}
		now := f.State()
		stats := now.SessionStats("web")
		if stats.Homeless != 0 || stats.Moved != 3000 {
			t.Errorf("%+v", stats)
		}
		for _, slot := range stats.Slots {
			if slot.Lives && slot.Sessions != 4000 {
				t.Errorf("%+v", slot)
			}
		}
		for at, was := range before.SessionsFrom("web", [16]byte{}) {
			is, _ := now.Session("web", at)
			if was.Instance != instance("web", 2) && is.Instance != was.Instance {
				t.Fatalf("a session went from %s to %s", was.Instance, is.Instance)
			}
		}
		pass(time.Minute)
		if names := f.names(); len(names) != 0 {
			t.Errorf("afterwards: %v", names)
		}
	})
}

// Nothing is proposed that would be refused: not while no instance takes
// sessions, nor for a group that is not sticky any more.
func TestRehomeWaits(t *testing.T) {
	keep(t, func(f *fake) {
		f.group("web", fsm.StickyTable, time.Hour, 2)
		f.sessions("web", 0, 10)
		pass(time.Second)
		f.Report(instance("web", 0), fsm.Failed, "")
		f.Report(instance("web", 1), fsm.Failed, "")
		f.commands()
		pass(time.Minute)
		if names := f.names(); len(names) != 0 {
			t.Errorf("without an instance: %v", names)
		}
		f.launch("web", instance("web", 5))
		pass(2 * time.Second)
		if stats := f.State().SessionStats("web"); stats.Homeless != 0 || stats.Moved != 10 {
			t.Errorf("with a new instance: %+v", stats)
		}
		f.commands()
		f.group("web", fsm.StickyStateless, time.Hour, 0)
		f.Report(instance("web", 5), fsm.Failed, "")
		pass(time.Minute)
		if names := f.names(); len(names) != 0 {
			t.Errorf("not sticky any more: %v", names)
		}
		pass(2 * time.Hour)
		if n := f.State().SessionStats("web").Sessions; n != 0 {
			t.Errorf("not sticky any more: %d sessions are left", n)
		}
	})
}

// What nobody uses ends, what is used stays, and nothing is proposed before
// something has expired.
func TestExpire(t *testing.T) {
	keep(t, func(f *fake) {
		f.group("web", fsm.StickyTable, 10*time.Minute, 2)
		f.sessions("web", 0, 40_000)
		f.commands()
		pass(9 * time.Minute)
		if names := f.names(); len(names) != 0 {
			t.Errorf("before anything has expired: %v", names)
		}
		// All but one of the last are used.
		keys := keysOf(0, 40_000)
		slices.SortFunc(keys, func(a, b [16]byte) int { return slices.Compare(a[:], b[:]) })
		unused := keys[39_000]
		for chunk := range slices.Chunk(slices.DeleteFunc(keys, func(k [16]byte) bool { return k == unused }), fsm.MaxSessionKeys) {
			f.Must(fsm.TouchSessions{Group: "web", Keys: flat(chunk)})
		}
		pass(4 * time.Minute)
		if _, ok := f.State().Session("web", unused); ok || f.State().SessionStats("web").Sessions != 39_999 {
			t.Errorf("%+v", f.State().SessionStats("web"))
		}
		if names := f.names(); len(names) != 1 {
			t.Errorf("one session has expired: %v", names)
		}
		pass(10 * time.Minute)
		if stats := f.State().SessionStats("web"); stats.Sessions != 0 || stats.Expired != 40_000 {
			t.Errorf("all have expired: %+v", stats)
		}
	})
}

// Session data ends when its own time is over: the whole of it, since it
// counts for the quota until then.
func TestExpireData(t *testing.T) {
	keep(t, func(f *fake) {
		f.group("web", fsm.StickyShared, time.Hour, 1)
		put := func(id string, ttl time.Duration) {
			f.Must(fsm.PutSessionData{Group: "web", Session: id, Data: []byte("x"), TTL: fsm.Duration(ttl)})
		}
		for k := range 600 {
			put(time.Duration(k).String(), time.Minute)
		}
		put("long", time.Hour)
		pass(55 * time.Second)
		if names := f.names(); len(names) != 0 {
			t.Errorf("before anything has expired: %v", names)
		}
		pass(7 * time.Second)
		if n := f.State().SessionData.Len(); n != 1 {
			t.Errorf("%d entries are left", n)
		}
		if names := f.names(); len(names) != 3 {
			t.Errorf("601 entries, 256 a command: %v", names)
		}
	})
}

// What fails is tried again, not at once.
func TestKeeperFails(t *testing.T) {
	keep(t, func(f *fake) {
		f.group("web", fsm.StickyTable, 0, 2)
		f.sessions("web", 0, 10)
		f.set(func(f *fake) { f.refuse = fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader") })
		f.Report(instance("web", 0), fsm.Failed, "")
		pass(10 * time.Second)
		if n := len(f.commands()); n < 5 || n > 15 {
			t.Errorf("%d commands in 10 s of failure", n)
		}
		f.set(func(f *fake) { f.refuse = nil })
		pass(2 * time.Second)
		if n := f.State().SessionStats("web").Homeless; n != 0 {
			t.Errorf("%d sessions are homeless", n)
		}
	})
}
