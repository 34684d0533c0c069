package screen_test

import (
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	tea "charm.land/bubbletea/v2"
	"github.com/charmbracelet/x/ansi"
	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/top"
	"github.com/pacelinehq/paceline/internal/top/screen"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "rewrite the golden screens")

// user is somebody at the screen. Commands that the model gives are counted
// and not run: the test says when a reading comes.
type user struct {
	*testing.T
	m        tea.Model
	commands int
	readings int
}

func start(t *testing.T, cfg screen.Config) *user {
	u := &user{T: t}
	cfg.Every = time.Second
	cfg.Read = func(context.Context) (*top.Reading, error) {
		u.readings++
		return take(u.readings), nil
	}
	u.m = screen.New(t.Context(), cfg)
	u.send(tea.WindowSizeMsg{Width: 116, Height: 14})
	return u
}

func (u *user) send(msg tea.Msg) tea.Cmd {
	m, cmd := u.m.Update(msg)
	u.m = m
	if cmd != nil {
		u.commands++
	}
	return cmd
}

// reads lets the model have its next reading.
func (u *user) reads(n int) {
	for range n {
		u.readings++
		u.send(screen.Took{Reading: take(u.readings)})
	}
}

// press presses keys, of which printable ones are told as they are.
func (u *user) press(keys ...string) tea.Cmd {
	var cmd tea.Cmd
	for _, k := range keys {
		cmd = u.send(keyOf(k))
	}
	return cmd
}

func keyOf(name string) tea.KeyPressMsg {
	special := map[string]tea.Key{
		"up": {Code: tea.KeyUp}, "down": {Code: tea.KeyDown}, "left": {Code: tea.KeyLeft}, "right": {Code: tea.KeyRight},
		"enter": {Code: tea.KeyEnter}, "esc": {Code: tea.KeyEscape}, "backspace": {Code: tea.KeyBackspace},
		"pgdown": {Code: tea.KeyPgDown}, "pgup": {Code: tea.KeyPgUp}, "ctrl+c": {Code: 'c', Mod: tea.ModCtrl},
	}
	if k, ok := special[name]; ok {
		return tea.KeyPressMsg(k)
	}
	return tea.KeyPressMsg{Code: []rune(name)[0], Text: name}
}

func (u *user) screen() string { return u.m.View().Content }

// golden compares the screen with a file.
func (u *user) golden(name string) {
	u.Helper()
	path := filepath.Join("testdata", name+".txt")
	got := u.screen() + "\n"
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			u.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		u.Fatal(err)
	}
	if got != string(want) {
		u.Errorf("%s: the screen is\n%s\nwant\n%s", name, got, want)
	}
}

// take makes the n-th reading: counters that grow, a node without an answer,
// an ejected instance and one that drains.
func take(n int) *top.Reading {
	at := time.Date(2026, 1, 2, 3, 4, n, 0, time.UTC)
	x := float64(n)
	if n > 5 { // busier than before
		x *= 3
	}
	sessions := 12.0
	sample := &top.Sample{
		At: at,
		Services: map[string]*top.ServiceCounters{
			"web": {
				Codes: map[string]float64{"2xx": 120 * x, "5xx": 1.5 * x}, InFlight: 3, Sessions: &sessions,
				Buckets: map[float64]float64{0.001: 100 * x, 0.01: 20 * x, 0.1: 1.5 * x},
			},
			"api": {Codes: map[string]float64{"2xx": 1500 * x}, Buckets: map[float64]float64{0.5: 1500 * x}},
		},
		Instances: map[top.InstanceKey]*top.InstanceCounters{
			{Group: "web", ID: "01K0AAAAAAAAAAAAAAAAAAAA1A"}: {Codes: map[string]float64{"2xx": 120 * x}, InFlight: 3},
			{Group: "web", ID: "01K0AAAAAAAAAAAAAAAAAAAA1B"}: {Codes: map[string]float64{"5xx": 1.5 * x}, Failures: 2 * x, Ejected: true},
			{Group: "api", ID: "01K0AAAAAAAAAAAAAAAAAAAA1D"}: {Codes: map[string]float64{"2xx": 1500 * x}},
		},
	}
	web := fsm.Group{Name: "web", Desired: 3, Service: &fsm.Service{}}
	return &top.Reading{
		At: at, Leader: "n1",
		Nodes: []top.NodeReading{
			{Name: "n1", State: "ready", Sample: sample},
			{Name: "n2", State: "down", Problem: "can not reach 10.0.0.2:7700:\x1b[2J connection refused"},
		},
		Groups: []fsm.Group{{Name: "api", Desired: 1, Service: &fsm.Service{}}, web, {Name: "batch"}},
		Instances: []fsm.Instance{
			{ID: "01K0AAAAAAAAAAAAAAAAAAAA1A", Group: "web", Node: "n1", State: fsm.Running, Health: fsm.Healthy},
			{ID: "01K0AAAAAAAAAAAAAAAAAAAA1B", Group: "web", Node: "n1", State: fsm.Running, Health: fsm.Unhealthy},
			{ID: "01K0AAAAAAAAAAAAAAAAAAAA1C", Group: "web", Node: "n2", State: fsm.Draining},
			{ID: "01K0AAAAAAAAAAAAAAAAAAAA1D", Group: "api", Node: "n1", State: fsm.Running, Health: fsm.Healthy},
		},
	}
}

func TestScreens(t *testing.T) {
	u := start(t, screen.Config{Plain: true})
	u.golden("empty")
	u.reads(1)
	u.golden("first")
	u.reads(1)
	u.golden("rates")
	u.press("s")
	u.golden("by-requests")
	u.press("down", "down", "down", "enter")
	u.golden("folded")
	u.press("/", "n", "2")
	u.golden("filter-typing")
	u.press("enter")
	u.golden("filter")
	u.press("esc", "/", "x", "y", "backspace", "enter")
	u.golden("filter-nothing")
	u.press("esc", "left")
	u.send(tea.WindowSizeMsg{Width: 60, Height: 8})
	u.golden("small")
	u.press("pgup", "up")
	u.golden("small-top")
	u.send(screen.Took{Err: errors.New("no node answers")})
	u.golden("error")
}

// The row under the cursor is in sight, however low the screen is.
func TestScrolls(t *testing.T) {
	u := start(t, screen.Config{Plain: true})
	u.reads(2)
	u.send(tea.WindowSizeMsg{Width: 80, Height: 7})
	var seen []string
	for range 6 {
		for _, l := range strings.Split(u.screen(), "\n") {
			if strings.HasPrefix(l, "> ") {
				name := strings.Join(strings.Fields(l)[1:3], "")
				seen = append(seen, strings.TrimLeft(name, "…A"))
			}
		}
		u.press("down")
	}
	if got := strings.Join(seen, " "); got != "-api 1Dn1 -web 1An1 1Bn1 1Cn2" {
		t.Errorf("under the cursor: %s", got)
	}
	u.press("pgup", "pgup", "pgup")
	if s := u.screen(); !strings.Contains(s, "\n> - api") {
		t.Errorf("at the top:\n%s", s)
	}
}

// The cursor stays on its row when the rows change places.
func TestCursorStaysOnItsRow(t *testing.T) {
	u := start(t, screen.Config{Plain: true})
	u.reads(2)
	u.press("down", "down")
	for range top.Orders() {
		u.press("right")
		if s := u.screen(); !strings.Contains(s, "\n> - web") {
			t.Errorf("the cursor has moved:\n%s", s)
		}
	}
}

func TestPause(t *testing.T) {
	u := start(t, screen.Config{Plain: true})
	u.reads(2)
	before := u.screen()
	u.press("p")
	u.readings += 5
	u.reads(1) // was under way
	paused := u.screen()
	if !strings.Contains(paused, "PAUSED") || strings.Split(paused, "\n")[4] != strings.Split(before, "\n")[4] {
		t.Errorf("while paused:\n%s", paused)
	}
	if u.send(screen.Due{}) != nil {
		t.Error("it reads while paused")
	}
	cmd := u.press("p")
	if cmd == nil {
		t.Fatal("it does not go on after the pause")
	}
	if took, ok := cmd().(screen.Took); !ok || took.Reading == nil {
		t.Error("the pause does not end with a reading")
	}
	// A pause that ends before the next reading is due must not start a
	// second chain of readings.
	u.reads(1)
	if u.press("p", "p") != nil {
		t.Error("a short pause starts another reading beside the one that is due")
	}
	if u.send(screen.Due{}) == nil {
		t.Error("the reading that is due is not taken")
	}
}

func TestKeysThatEnd(t *testing.T) {
	ends := func(cmd tea.Cmd) bool {
		if cmd == nil {
			return false
		}
		_, ok := cmd().(tea.QuitMsg)
		return ok
	}
	u := start(t, screen.Config{Plain: true})
	if !ends(u.press("q")) || !ends(u.press("ctrl+c")) {
		t.Error("q or ctrl+c does not end it")
	}
	u.press("/")
	if u.press("q") != nil || !ends(u.press("ctrl+c")) {
		t.Error("while typing, q is text and ctrl+c ends it")
	}
}

// Nothing is wider or higher than the terminal, whatever its size, and no
// control character of the data reaches it.
func TestFits(t *testing.T) {
	for _, plain := range []bool{true, false} {
		u := start(t, screen.Config{Plain: plain})
		u.reads(2)
		for width := range 140 {
			u.send(tea.WindowSizeMsg{Width: width, Height: 6 + width%20})
			lines := strings.Split(u.screen(), "\n")
			if len(lines) > 6+width%20 {
				t.Errorf("%d lines of %d", len(lines), 6+width%20)
			}
			for _, l := range lines {
				if w := ansi.StringWidth(l); w > width {
					t.Errorf("width %d: a line has %d: %q", width, w, l)
				}
			}
			if strings.Contains(u.screen(), "\x1b[2J") {
				t.Error("data drives the terminal")
			}
		}
		u.send(tea.WindowSizeMsg{Width: 110, Height: 20})
		if has := strings.Contains(u.screen(), "\x1b["); has == plain {
			t.Errorf("plain %v, and colours %v", plain, has)
		}
	}
}
