package fake_test

import (
	"context"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/drivertest"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(*testing.T) *drivertest.Harness {
		d := newScripted()
		return &drivertest.Harness{
			Driver: d, Spec: spec,
			Reopen: func(*testing.T) driver.Driver { d.Reopen(); return d },
		}
	})
}

// scripted makes the fake's instances behave as the suite asks.
type scripted struct{ *fake.Driver }

func newScripted() scripted {
	return scripted{fake.New("fake", fake.Hooks{
		Start: func(_ context.Context, s driver.Spec) error {
			switch s.Command {
			case "forbidden":
				return fsm.Errorf(fsm.Forbidden, "command", s.Command, "is not allowed")
			case "missing":
				return fsm.Errorf(fsm.NotFound, "command", s.Command, "does not exist")
			}
			return nil
		},
		IgnoresStop: func(id string) bool { return strings.HasPrefix(id, "a") },
	})}
}

// Start lets the new instance do what its command says.
func (d scripted) Start(ctx context.Context, s driver.Spec) (driver.Status, error) {
	st, err := d.Driver.Start(ctx, s)
	if err != nil {
		return st, err
	}
	switch s.Command {
	case "exits":
		d.End(s.ID, driver.Exit{Known: true, Code: 3}, "bye")
	case "serves", "ignores":
		if c, err := d.Logs(ctx, s.ID, driver.LogQuery{}); err == nil && len(c.Data) == 0 {
			d.Say(s.ID, "hello")
		}
	}
	return st, nil
}

// Stop makes only the instances that ignore their signal wait for KILL.
func (d scripted) Stop(ctx context.Context, id string, s driver.StopSpec) (driver.Status, error) {
	if s.Timeout.Seconds() > 1 {
		s.Signal = "KILL"
	}
	return d.Driver.Stop(ctx, id, s)
}

func spec(_ *testing.T, id string, b drivertest.Behaviour) driver.Spec {
	command := map[drivertest.Behaviour]string{
		drivertest.Serves: "serves", drivertest.Exits: "exits", drivertest.IgnoresStop: "ignores",
		drivertest.Forbidden: "forbidden", drivertest.Missing: "missing",
	}[b]
	return driver.Spec{ID: id, Group: "g", Term: 1, Command: command}
}

func TestLaunchesAreCounted(t *testing.T) {
	d := fake.New("fake", fake.Hooks{})
	for range 2 {
		if _, err := d.Start(t.Context(), driver.Spec{ID: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	d.EndAll()
	if list, _ := d.List(t.Context()); len(list) != 0 {
		t.Errorf("after the crash of the machine: %v", list)
	}
	if _, err := d.Start(t.Context(), driver.Spec{ID: "a"}); err != nil {
		t.Fatal(err)
	}
	if n := d.Launches()["a"]; n != 2 {
		t.Errorf("got %d launches, want 2", n)
	}
}
