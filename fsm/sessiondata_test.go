package fsm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// TestSessionDataQuota: a group may have so many entries and so many bytes,
// and room that was given back can be used again.
func TestSessionDataQuota(t *testing.T) {
	t.Run("entries", func(t *testing.T) {
		m := sticky(t, 0, fsm.StickyShared)
		var list []fsm.Command
		for k := range fsm.MaxSessionDataEntries {
			list = append(list, fsm.PutSessionData{Group: "web", Session: fmt.Sprint(k)})
		}
		for from := 0; from < len(list); from += 2000 {
			apply(t, m, []fsm.LogEntry{entryOf(t, m.State().Index()+1, list[from:from+2000]...)})
		}
		quota(t, m, nil)
	})
	t.Run("bytes", func(t *testing.T) {
		m := sticky(t, 0, fsm.StickyShared)
		data := make([]byte, fsm.MaxSessionDataBytes)
		n := 0
		for size := 0; size+len(data)+1 <= fsm.MaxSessionDataTotal; n++ {
			id := fmt.Sprint(n)
			if _, err := try(t, m, 0, fsm.PutSessionData{Group: "web", Session: id, Data: data}); err != nil {
				break
			}
			size += len(id) + len(data)
		}
		if n < fsm.MaxSessionDataTotal/len(data)-10 {
			t.Fatalf("only %d entries were taken", n)
		}
		quota(t, m, data)
	})
}

// quota expects that a group is full, for data like this, until it gives room
// back.
func quota(t *testing.T, m *fsm.Machine, data []byte) {
	t.Helper()
	more := fsm.PutSessionData{Group: "web", Session: "one more", Data: data}
	digest := m.State().Digest()
	if _, err := try(t, m, 0, more); fsm.KindOf(err) != fsm.Exhausted || m.State().Digest() != digest {
		t.Fatalf("got %v", err)
	}
	step(t, m, 0, fsm.PutSessionData{Group: "web", Session: "7", Data: data}) // replaces one
	step(t, m, 0, fsm.DeleteSessionData{Group: "web", Session: "7"})
	if _, err := try(t, m, 0, more); err != nil && data == nil {
		t.Fatal(err)
	}
	// The time is over for all; each command does a bounded part.
	n, left := 0, m.State().SessionData.Len()
	for scan := (fsm.SessionScan{}); !scan.Done; n++ {
		scan = step(t, m, 60, fsm.ExpireSessionData{Group: "web", Limit: 1 << 30}).(fsm.SessionScan)
		if scan.Changed > fsm.MaxSessionDataExpiries {
			t.Fatalf("%d were removed by one command", scan.Changed)
		}
	}
	if s := m.State(); n < left/fsm.MaxSessionDataExpiries || s.SessionData.Len()+s.SessionDataEnds.Len()+s.SessionUsages.Len() != 0 || !s.VerifyDigest() {
		t.Fatalf("%d entries are left", s.SessionData.Len())
	}
}

// TestSessionLimits: what is too large is refused with one clear error.
func TestSessionLimits(t *testing.T) {
	m := sticky(t, 1, fsm.StickyShared)
	for name, c := range map[string]struct {
		do   fsm.Command
		want fsm.Kind
	}{
		"data":         {fsm.PutSessionData{Group: "web", Session: "a", Data: make([]byte, fsm.MaxSessionDataBytes+1)}, fsm.TooLarge},
		"id":           {fsm.PutSessionData{Group: "web", Session: strings.Repeat("a", 257)}, fsm.Invalid},
		"content type": {fsm.PutSessionData{Group: "web", Session: "a", ContentType: strings.Repeat("a", 129)}, fsm.Invalid},
		"ttl":          {fsm.PutSessionData{Group: "web", Session: "a", TTL: 1 << 62}, fsm.Invalid},
	} {
		if _, err := try(t, m, 0, c.do); fsm.KindOf(err) != c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
	m = sticky(t, 1, fsm.StickyTable)
	step(t, m, 0, fsm.AssignSessions{Group: "web", Keys: make([]byte, 16*fsm.MaxSessionKeys)})
	if _, err := try(t, m, 0, fsm.AssignSessions{Group: "web", Keys: make([]byte, 16*fsm.MaxSessionKeys+16)}); fsm.KindOf(err) != fsm.Invalid {
		t.Error(err)
	}
	for more, want := range map[int]fsm.Kind{0: "", 1: "", 2: fsm.Exhausted} {
		if err := fsm.CheckRoom("web", fsm.MaxSessions-1, more); fsm.KindOf(err) != want {
			t.Errorf("room for %d: %v", more, err)
		}
	}
	if err := fsm.CheckRoom("web", fsm.MaxSessions+5, 0); err != nil {
		t.Errorf("sessions that are there: %v", err)
	}
}

// TestSecretsAreHidden: no way to print or encode a key shows it, and changes
// show no row of sessions, their data or keys.
func TestSecretsAreHidden(t *testing.T) {
	m := sticky(t, 1, fsm.StickyTable)
	secret := "sixteen secret b"
	rotate := fsm.RotateSessionKeys{ID: 1, Secret: []byte(secret)}
	k := fsm.SessionKey("alice")
	list := []fsm.Command{rotate, fsm.AssignSessions{Group: "web", Keys: k[:]}, fsm.DeleteSessions{Group: "web", Keys: k[:]}}
	out := apply(t, m, []fsm.LogEntry{entryOf(t, m.State().Index()+1, list...)})
	keys := m.State().CookieKeys()
	if len(keys) != 1 || string(keys[0].Secret[:]) != secret || m.State().NextCookieKey() != 2 {
		t.Fatalf("%d keys", len(keys))
	}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		slog.New(h).Info("keys", "keys", keys, "one", keys[0], "secret", keys[0].Secret, "results", out[0].Results)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%b", "%o"} {
		fmt.Fprintf(&log, verb+verb+verb+"\n", keys, keys[0].Secret, rotate)
	}
	raw, err := json.Marshal(keys)
	if err != nil {
		t.Fatal(err)
	}
	log.Write(raw)
	for _, as := range []string{"%s", "%x", "%X", "%d", "%o", "%b"} {
		shown := strings.Trim(fmt.Sprintf(as, []byte(secret)), "[]")
		if strings.Contains(log.String(), shown) {
			t.Errorf("the secret is shown by way of %s: %s", as, log.String())
		}
	}
	if b := log.String(); strings.Contains(b, "c2l4dGVlbiBzZWNyZXQgYg") {
		t.Errorf("the secret is shown in base64: %s", b)
	}
	withheld := 0
	for _, c := range out[0].Changes {
		switch c.Table {
		case "sessions", "sessionKeys":
			withheld++
			if !c.Withheld() || c.Old() != nil || c.New() != nil || c.Removed() {
				t.Errorf("change %+v", c)
			}
		default:
			if c.Withheld() {
				t.Errorf("a change of %s is withheld", c.Table)
			}
		}
	}
	if withheld != 3 {
		t.Errorf("%d changes", withheld)
	}
	if c := out[0].Changes[0]; !c.Created() {
		t.Errorf("the first change of %s creates nothing", c.Table)
	}
}

// TestDamagedSessionRows: rows that are cut short, twice there, without their
// head or with a slot that is not in it are refused; all others are taken as
// they are.
func TestDamagedSessionRows(t *testing.T) {
	m := sticky(t, 2, fsm.StickyTable)
	step(t, m, 0, fsm.AssignSessions{Group: "web", Keys: keysOf(fsm.SessionKey("a"), fsm.SessionKey("b"))})
	rows := fsm.SessionRows(m.State())
	if len(rows) != 2 {
		t.Fatalf("%d rows", len(rows))
	}
	head, pack := rows[0], rows[1]
	if taken, matches := fsm.ReadSessionRows(head, pack); !taken || !matches {
		t.Fatal("good rows are refused")
	}
	start := len(pack) - 2*28
	wrongSlot := bytes.Clone(pack)
	wrongSlot[start+16] = 99
	newer := bytes.Clone(head)
	newer[0] = 2
	for name, list := range map[string][][]byte{
		"no head": {pack}, "two heads": {head, head}, "twice": {head, pack, pack}, "another group": {head, append([]byte{1, 'p', 1, 'x'}, pack[start:]...)},
		"unknown slot": {head, wrongSlot}, "unknown kind": {head, {1, 'x', 3, 'w', 'e', 'b'}}, "newer": {newer}, "empty": {{}},
	} {
		if taken, _ := fsm.ReadSessionRows(list...); taken {
			t.Errorf("%s: the rows were taken", name)
		}
	}
	for n := range head {
		if taken, _ := fsm.ReadSessionRows(head[:n]); taken {
			t.Errorf("%d of %d bytes of the head were taken", n, len(head))
		}
	}
	for n := start + 1; n < len(pack); n++ {
		if taken, _ := fsm.ReadSessionRows(head, pack[:n]); taken && (n-start)%28 != 0 {
			t.Errorf("%d of %d bytes of the sessions were taken", n, len(pack))
		}
	}
}

func FuzzSessionRows(f *testing.F) {
	m := sticky(f, 2, fsm.StickyTable)
	step(f, m, 0, fsm.AssignSessions{Group: "web", Keys: make([]byte, 16)})
	rows := fsm.SessionRows(m.State())
	f.Add(rows[0], rows[1])
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if taken, matches := fsm.ReadSessionRows(a, b); taken && !matches {
			t.Fatal("the rolling digest differs from the rows")
		}
	})
}

// TestFailedSessionsLeaveNoTrace: what a command that fails has written on top
// of another command of the same entry is undone, down to the last page.
func TestFailedSessionsLeaveNoTrace(t *testing.T) {
	defer fsm.PlantCommands()()
	want, got := fsm.NewMachine(), fsm.NewMachine()
	good := []fsm.Command{fsm.AssignSessions{Group: "g1", Keys: keysOf(key{15: 1}, key{15: 7})}, fsm.TouchSessions{Group: "g1", Keys: keysOf(key{15: 1})}}
	apply(t, want, []fsm.LogEntry{prelude(t), entryOf(t, 2, good...)})
	for _, do := range []string{"assign fail", "assign panic"} {
		bad := fsm.Planted{Do: do}
		apply(t, got, []fsm.LogEntry{prelude(t), entryOf(t, 2, bad, good[0], bad, good[1], bad)})
		s, w := got.State(), want.State()
		if !s.VerifyDigest() || s.Sessions.Len() != 2 {
			t.Fatalf("%s: %d sessions", do, s.Sessions.Len())
		}
		for k, v := range w.SessionsFrom("g1", key{}) {
			if have, ok := s.Session("g1", k); !ok || have != v {
				t.Errorf("%s: session %x is %+v", do, k, have)
			}
		}
		got = fsm.NewMachine()
	}
}
