//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// These tests do what docs/operations.md says, with its commands.

// cli runs a command against the nodes that run, and wants it to succeed.
func (f *fleet) cli(args ...string) string {
	f.t.Helper()
	for _, n := range alive(f.nodes) {
		args = append(args, "--endpoint", n.api())
	}
	out, code := paceline(f.t.Context(), args...)
	if code != 0 {
		f.t.Fatalf("paceline %s: exit status %d: %s", strings.Join(args, " "), code, out)
	}
	return out
}

// members waits until the cluster has exactly these members.
func (f *fleet) members(names ...string) {
	f.t.Helper()
	eventually(f.t, settleDeadline, fmt.Sprintf("the members %v", names), func() error {
		st, err := f.client(alive(f.nodes)...).Cluster(f.t.Context())
		if err != nil {
			return err
		}
		var have []string
		for _, m := range st.Members {
			have = append(have, m.Name)
		}
		if fmt.Sprint(have) != fmt.Sprint(names) {
			return fmt.Errorf("it has %v", have)
		}
		return nil
	})
}

// TestReplaceNode adds a node to a running cluster, moves the work off an old
// one, and has that one leave; under load.
func TestReplaceNode(t *testing.T) {
	quick(t)
	f := running(t, 3)
	group(t, f, "web", 6, 9, sample())
	l := begin(t, f)
	n4 := f.add("n4", "a")
	n4.start()
	f.whole()
	l.adopt(n4)
	f.members("n1", "n2", "n3", "n4")
	old := f.leader() // the hardest one
	f.cli("node", "drain", old.name, "--reason", "replaced")
	eventually(t, settleDeadline, "an empty node", func() error {
		for _, i := range f.active("web") {
			if i.Node == old.name {
				return fmt.Errorf("%s is still there", i.ID)
			}
		}
		return nil
	})
	f.converged("web")
	l.leave(old)
	f.cli("node", "leave", old.name)
	code := old.gone()
	t.Logf("the node that left ended with status %d: %s", code, old.tail(2))
	f.nodes = f.others(old)
	var names []string
	for _, n := range f.nodes {
		names = append(names, n.name)
	}
	f.members(names...)
	f.whole()
	l.finish(true)
	f.converged("web")

	// Its data directory must not come back as it is.
	old.refuses("left its cluster")
	must(t, os.RemoveAll(old.dir))
	f.nodes = append(f.nodes, old)
	old.start()
	f.whole()
}

// TestRemoveDead removes a node that will never come back.
func TestRemoveDead(t *testing.T) {
	quick(t)
	f := running(t, 4)
	dead := f.others(f.leader())[0]
	dead.kill()
	eventually(t, settleDeadline, "the node seen as down", func() error {
		row, err := f.client(alive(f.nodes)...).GetNode(t.Context(), dead.name)
		if err == nil && row.State != fsm.NodeStateDown {
			err = fmt.Errorf("it is %s", row.State)
		}
		return err
	})
	f.cli("node", "remove", dead.name, "--wait")
	f.nodes = f.others(dead)
	var names []string
	for _, n := range f.nodes {
		names = append(names, n.name)
	}
	f.members(names...)
	f.whole()
}

// TestBackup saves a snapshot and restores it: in the cluster that it is of,
// which has moved on; in a new one; and in a new one of nodes with other names.
func TestBackup(t *testing.T) {
	quick(t)
	file := filepath.Join(t.TempDir(), "paceline.snapshot")
	f := running(t, 3)
	group(t, f, "web", 3, 6, sample())
	f.cli("cluster", "snapshot", "save", file)
	_, err := f.any().ScaleGroup(t.Context(), "web", client.ScaleRequest{Desired: 6})
	must(t, err)
	f.converged("web")

	t.Run("same cluster", func(t *testing.T) { restored(t, f, file) })
	t.Run("new cluster", func(t *testing.T) { restored(t, running(t, 3), file) })
	t.Run("new cluster of other names", func(t *testing.T) {
		full(t) // nodes that nobody has ever heard of are given a minute
		renamed := newFleet(t, 3)
		for i, n := range renamed.nodes {
			n.name = fmt.Sprintf("b%d", i+1)
		}
		renamed.startAll()
		renamed.whole()
		restored(t, renamed, file)
		for _, n := range f.nodes {
			renamed.cli("node", "remove", n.name, "--wait")
		}
	})
}

// restored restores a snapshot and looks at what has come of it.
func restored(t *testing.T, f *fleet, file string) {
	t.Helper()
	_, err := put(t.Context(), f.any(), "later", "1")
	must(t, err)
	f.cli("cluster", "snapshot", "restore", file, "--yes")
	f.whole()
	g, err := f.any().GetGroup(t.Context(), "web", client.WithConsistency(client.Strong))
	must(t, err)
	if g.Desired != 3 {
		t.Errorf("the restored group wants %d", g.Desired)
	}
	if _, err := f.any().GetTemplate(t.Context(), "later", client.WithConsistency(client.Strong)); client.CodeOf(err) != fsm.NotFound {
		t.Errorf("what was not in the snapshot is still there: %v", err)
	}
	f.matches("web")
	f.twins()
}

// matches waits until a group has what it wants, and exactly these processes
// run: neither is an instance only said to run, nor does one run that nobody
// knows.
func (f *fleet) matches(name string) {
	f.t.Helper()
	eventually(f.t, 3*settleDeadline, "processes as the state says", func() error {
		st, err := f.any().GroupStatus(f.t.Context(), name)
		if err != nil || !st.Converged {
			return fmt.Errorf("%+v: %w", st, err)
		}
		said := map[string]bool{}
		for _, i := range st.Instances {
			if i.State.Active() {
				said[i.ID] = true
			}
		}
		for _, p := range processes(f.t) {
			id := p.env["PACELINE_INSTANCE"]
			if !f.owns(id) {
				continue
			}
			if !said[id] {
				return fmt.Errorf("pid %d is instance %s, which the state does not have running", p.pid, id)
			}
			delete(said, id)
		}
		if len(said) > 0 {
			return fmt.Errorf("said to run, and do not: %v", said)
		}
		return nil
	})
}

// TestRecover loses two nodes of three for good and goes on with the third.
func TestRecover(t *testing.T) {
	quick(t)
	f := running(t, 3)
	for i := range 10 {
		_, err := put(t.Context(), f.any(), fmt.Sprintf("kept-%d", i), "1")
		must(t, err)
	}
	last := f.others(f.leader())[0]
	_, err := put(t.Context(), last.cli(), "kept-last", "1")
	must(t, err)
	for _, n := range f.nodes {
		n.kill()
	}
	out, code := paceline(t.Context(), "recover", "--name", last.name, "--data-dir", last.dir)
	if code != 0 || !strings.Contains(out, "Nothing was changed") {
		t.Fatalf("exit status %d: %s", code, out)
	}
	t.Logf("%s", out)
	out, code = paceline(t.Context(), "recover", "--name", last.name, "--data-dir", last.dir, "--force")
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, out)
	}
	last.start()
	eventually(t, settleDeadline, "the last node leading", func() error {
		_, err := put(t.Context(), last.cli(), "after", "1", client.Once())
		return err
	})
	for i := range 10 {
		_, err := last.cli().GetTemplate(t.Context(), fmt.Sprintf("kept-%d", i), client.WithConsistency(client.Strong))
		must(t, err)
	}
	_, err = last.cli().GetTemplate(t.Context(), "kept-last", client.WithConsistency(client.Strong))
	must(t, err)
	for _, n := range f.others(last) {
		must(t, os.RemoveAll(n.dir))
		n.start()
	}
	f.whole()
	f.equalStates()
}

// TestUpgrade restarts the nodes one by one with another binary in the place
// of the old one, while instances and clients go on.
func TestUpgrade(t *testing.T) {
	quick(t)
	f := running(t, 3)
	group(t, f, "web", 6, 9, sample())
	before := f.pids("web")
	l := begin(t, f)
	for _, n := range f.nodes {
		l.leave(n)
		n.term()
		n.start()
		f.whole()
		l.heal(n)
		l.goesOn(20)
	}
	l.finish(true)
	f.converged("web")
	if after := f.pids("web"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("instances after: %v, before: %v", after, before)
	}
	f.twins()
}

// TestTokens serves with tokens, and changes them without a restart.
func TestTokens(t *testing.T) {
	quick(t)
	file := filepath.Join(t.TempDir(), "tokens")
	must(t, os.WriteFile(file, []byte("admin:first-admin-token\noperator:first-operator-token\nviewer:first-viewer-token\n"), 0o600))
	f := newFleet(t, 1, "--token-file", file)
	n := f.nodes[0]
	n.start()
	ask := func(token string, args ...string) int {
		_, code := paceline(t.Context(), append(args, "--endpoint", n.api(), "--token", token, "--timeout", "2s")...)
		return code
	}
	eventually(t, settleDeadline, "the admin being served", func() error {
		if code := ask("first-admin-token", "template", "put", "web", "--command", fsm.SampleCommand); code != 0 {
			return fmt.Errorf("exit status %d", code)
		}
		return nil
	})
	const denied = 7
	for _, k := range []struct {
		name, token string
		args        []string
		want        int
	}{
		{"no token", "", []string{"template", "list"}, denied},
		{"a wrong token", "first-admin-tokex", []string{"template", "list"}, denied},
		{"a viewer reads", "first-viewer-token", []string{"template", "list"}, 0},
		{"a viewer writes", "first-viewer-token", []string{"template", "put", "web", "--command", fsm.SampleCommand}, denied},
	} {
		if code := ask(k.token, k.args...); code != k.want {
			t.Errorf("%s: exit status %d, want %d", k.name, code, k.want)
		}
	}
	must(t, os.WriteFile(file, []byte("admin:second-admin-token\noperator:first-operator-token\nviewer:first-viewer-token\n"), 0o600))
	n.signal(syscall.SIGHUP)
	eventually(t, settleDeadline, "the new token", func() error {
		if code := ask("second-admin-token", "template", "list"); code != 0 {
			return fmt.Errorf("exit status %d", code)
		}
		return nil
	})
	if code := ask("first-admin-token", "template", "list"); code != denied {
		t.Errorf("the old token still serves: exit status %d", code)
	}
}
