//go:build linux

package e2e_test

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// TestBadInstances declares groups whose instances can not work, each in its
// own way. Every one must be tried a few times and no more, and say why; the
// nodes and a healthy group beside them live on.
func TestBadInstances(t *testing.T) {
	quick(t)
	f := running(t, 3, "--allow", "/bin/false", "--allow", "/nonexistent/program", "--allow", "/etc/hostname", "--allow", "/bin/sleep")
	sick := sample()
	sick.HealthCheck.Path, sick.HealthCheck.Grace = "/nothing-here", fsm.Duration(500*time.Millisecond)
	busy := sample()
	busy.Networking = &fsm.Networking{Port: 25000}
	for _, n := range f.nodes {
		l, err := net.Listen("tcp", n.ip+":25000")
		must(t, err)
		t.Cleanup(func() { _ = l.Close() })
	}
	command := func(path string, args ...string) fsm.Template {
		return fsm.Template{Driver: "process", Command: path, Args: args}
	}
	cases := []struct {
		name  string
		tmpl  fsm.Template
		wants string // in the explanation or a reason, any of those between |
	}{
		{"exits", command("/bin/false"), "exit"},
		{"missing", command("/nonexistent/program"), "no such file|does not exist|not exist"},
		{"forbidden", command("/bin/true"), "allow"},
		{"not-executable", command("/etc/hostname"), "permission|executable|exec format"},
		{"never-healthy", sick, "health"},
		{"port-taken", busy, "port|address already in use|exit"},
		{"no-driver", fsm.Template{Driver: "submarine", Command: "/x"}, "driver"},
		{"too-large", fsm.Template{Driver: "process", Command: fsm.SampleCommand, Resources: fsm.Resources{CPU: 4000}}, "cores"},
	}
	group(t, f, "healthy", 3, 3, sample())
	before := f.pids("healthy")
	for _, k := range cases {
		declare(t, f, k.name, 2, 2, k.tmpl)
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			eventually(t, settleDeadline, "the group saying why", func() error {
				st, err := f.any().GroupStatus(t.Context(), k.name)
				if err != nil {
					return err
				}
				for want := range strings.SplitSeq(k.wants, "|") {
					if strings.Contains(st.Explanation, want) {
						return nil
					}
				}
				return fmt.Errorf("it says %q, want something with %q", st.Explanation, k.wants)
			})
			st, err := f.any().GroupStatus(t.Context(), k.name)
			must(t, err)
			t.Logf("%v: %s", st.States, st.Explanation)
			if st.Healthy > 0 && k.name != "exits" {
				t.Errorf("%d instances are healthy", st.Healthy)
			}
		})
	}
	t.Run("each backs off", func(t *testing.T) { f.backsOff(t, "exits") })
	f.whole()
	if after := f.pids("healthy"); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("the healthy group was disturbed: %v, before %v", after, before)
	}
	f.twins()
}

// backsOff waits for launches of a crashing group and looks at the pauses
// between them: they have to grow, by the times that the cluster recorded.
func (f *fleet) backsOff(t *testing.T, group string) {
	t.Helper()
	var pauses []time.Duration
	eventually(t, time.Minute, "several launches", func() error {
		pauses = pauses[:0]
		list, err := f.any().Activities(t.Context(), group, client.WithLimit(100))
		if err != nil {
			return err
		}
		var last time.Time
		for _, a := range slices.Backward(list.Items) {
			if a.Type != fsm.ActivityLaunched && a.Type != fsm.ActivityReplaced {
				continue
			}
			// Both instances of one attempt are a moment apart.
			if pause := a.At.Sub(last); !last.IsZero() && pause > 500*time.Millisecond {
				pauses = append(pauses, pause)
			}
			last = a.At
		}
		if len(pauses) < 3 {
			return fmt.Errorf("pauses so far: %v", pauses)
		}
		return nil
	})
	t.Logf("pauses between launches: %v", pauses)
	if !slices.IsSorted(pauses) {
		t.Errorf("the pauses do not grow: %v", pauses)
	}
}
