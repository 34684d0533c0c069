package driver_test

import (
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

func TestReasonReadsLikeASentence(t *testing.T) {
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		exit driver.Exit
		want string
	}{
		{driver.Exit{Known: true, Code: 1, At: begin.Add(3214 * time.Millisecond)}, "exit status 1 after 3.2s"},
		{driver.Exit{Known: true, At: begin.Add(12345 * time.Microsecond)}, "exit status 0 after 12ms"},
		{driver.Exit{Known: true, Signal: "KILL", Note: "out of memory", At: begin.Add(90*time.Second + 1)}, "was killed by signal KILL after 1m30s (out of memory)"},
		{driver.Exit{At: begin.Add(time.Second)}, "ended, how is not known, after 1s"},
	} {
		s := driver.Status{StartedAt: begin, Exit: &c.exit}
		if got := s.Reason(); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	if got := (driver.Status{}).Reason(); got != "" {
		t.Errorf("a running instance has the reason %q", got)
	}
}

func TestCleanIsOnlyExitStatusZero(t *testing.T) {
	for _, c := range []struct {
		exit driver.Exit
		want bool
	}{
		{driver.Exit{Known: true}, true},
		{driver.Exit{Known: true, Code: 2}, false},
		{driver.Exit{Known: true, Signal: "TERM"}, false},
		{driver.Exit{}, false},
	} {
		if got := c.exit.Clean(); got != c.want {
			t.Errorf("%+v: got %v", c.exit, got)
		}
	}
}

func TestCheckIDRefusesWhatIsNotAFileName(t *testing.T) {
	for _, id := range []string{"", ".", "..", "../x", "a/b", "-a", "a b", "a\x00b", string(make([]byte, 65))} {
		if err := driver.CheckID(id); fsm.KindOf(err) != fsm.Invalid {
			t.Errorf("%q: got %v", id, err)
		}
	}
	if err := driver.CheckID("01JBCDEFGHJKMNPQRSTVWXYZ00"); err != nil {
		t.Error(err)
	}
}

func TestFenceRefusesOnlyOlderTerms(t *testing.T) {
	if err := driver.Fence("i", 3, 3); err != nil {
		t.Error(err)
	}
	if err := driver.Fence("i", 4, 3); err != nil {
		t.Error(err)
	}
	if err := driver.Fence("i", 2, 3); fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("got %v", err)
	}
}

func TestSpecOfTakesPlacementAndTemplate(t *testing.T) {
	i := &fsm.Instance{ID: "i1", Group: "g", Node: "n", Zone: "z", Term: 7}
	tpl := &fsm.Template{Command: "/bin/x", Args: []string{"a"}, Networking: &fsm.Networking{Port: 81}}
	s := driver.SpecOf(i, tpl)
	if s.ID != "i1" || s.Term != 7 || s.Zone != "z" || s.Command != "/bin/x" || s.Port != 81 || len(s.Args) != 1 {
		t.Errorf("got %+v", s)
	}
	if s := driver.SpecOf(i, &fsm.Template{}); s.Port != 0 {
		t.Errorf("got port %d", s.Port)
	}
}
