//go:build linux

package process_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/drivertest"
	"github.com/pacelinehq/paceline/scaling/driver/process"
)

// script makes an executable.
func script(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\necho \"$0\"\nexec sleep 60\n"), mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func link(t *testing.T, to, at string) string {
	t.Helper()
	if err := os.Symlink(to, at); err != nil {
		t.Fatal(err)
	}
	return at
}

func TestOnlyAllowedExecutablesRun(t *testing.T) {
	base, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(rel string) string { return filepath.Join(base, rel) }
	app := script(t, at("apps/app"), 0o755)
	deep := script(t, at("apps/sub/deep"), 0o755)
	single := script(t, at("single/tool"), 0o755)
	outside := script(t, at("outside/tool"), 0o755)
	neighbour := script(t, at("apps-evil/tool"), 0o755)
	inside := link(t, app, at("apps/inside"))
	escape := link(t, outside, at("apps/escape"))
	escapeDir := link(t, at("outside"), at("apps/away"))
	foreign := link(t, app, at("outside/into"))
	applet := link(t, single, at("single/sh"))
	alias := link(t, at("single"), at("alias"))
	plain := script(t, at("apps/plain"), 0o644)
	fifo := at("apps/sub")
	n := open(t, func(c *process.Config) { c.Allow = []string{at("apps") + "/", single, "relative/", at("nowhere")} })

	for _, c := range []struct {
		name, command string
		want          fsm.Kind
		says          string
	}{
		{"a file in an allowed directory", app, "", ""},
		{"a file below an allowed directory", deep, "", ""},
		{"an allowed file", single, "", ""},
		{"a link that stays inside", inside, "", ""},
		{"an allowed file by another way to its directory", filepath.Join(alias, "tool"), "", ""},
		{"a file outside", outside, fsm.Forbidden, "is not on this node's list"},
		{"a directory whose name begins alike", neighbour, fsm.Forbidden, "is not on this node's list"},
		{"a link that leads out", escape, fsm.Forbidden, "is not on this node's list"},
		{"a linked directory that leads out", filepath.Join(escapeDir, "tool"), fsm.Forbidden, "is not on this node's list"},
		{"a link from outside that leads in", foreign, fsm.Forbidden, "is not on this node's list"},
		{"another name of an allowed file", applet, fsm.Forbidden, "is not on this node's list"},
		{"dots", at("apps") + "/../outside/tool", fsm.Forbidden, "is not on this node's list"},
		{"dots that stay inside", at("apps") + "/sub/../app", fsm.Forbidden, "is not on this node's list"},
		{"a relative path", "apps/app", fsm.Forbidden, "is not on this node's list"},
		{"a bare name", "sh", fsm.Forbidden, "is not on this node's list"},
		{"nothing", "", fsm.Forbidden, "is not on this node's list"},
		{"the directory itself", at("apps"), fsm.Forbidden, "is not on this node's list"},
		{"a directory inside", fifo, fsm.Invalid, "is not a regular file"},
		{"a file without the x bit", plain, fsm.Invalid, "is not executable"},
		{"a missing file that is allowed", at("apps/nothing"), fsm.NotFound, "does not exist on this node"},
		{"a missing file that is on the list", at("nowhere"), fsm.NotFound, "does not exist on this node"},
		{"a missing file outside, which is not told", at("outside/nothing"), fsm.Forbidden, "is not on this node's list"},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := strings.ReplaceAll(filepath.Base(t.Name()), ",", "")
			if len(id) > 60 {
				id = id[:60]
			}
			st, err := n.Start(t.Context(), driver.Spec{ID: id, Term: 1, Command: c.command})
			if fsm.KindOf(err) != c.want {
				t.Errorf("%s: got %+v, %v, want kind %q", c.command, st, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: got %q, want %q in it", c.command, err, c.says)
			}
			if err != nil {
				if _, statErr := os.Stat(filepath.Join(n.cfg.Dir, id)); !os.IsNotExist(statErr) {
					t.Errorf("a directory is left behind: %v", statErr)
				}
			}
		})
	}
}

func TestABrokenExecutableIsAnErrorAndNotACrash(t *testing.T) {
	base := t.TempDir()
	bad := filepath.Join(base, "bad")
	if err := os.WriteFile(bad, []byte("#!/no/such/interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n := open(t, func(c *process.Config) { c.Allow = []string{base + "/"} })
	if _, err := n.Start(t.Context(), driver.Spec{ID: "a", Term: 1, Command: bad}); err == nil {
		t.Error("started")
	}
	if list, _ := n.List(t.Context()); len(list) != 0 {
		t.Errorf("something is left: %v", list)
	}
	n.run(t, sample("b", "serve"))
}

func TestTheEnvironmentIsClean(t *testing.T) {
	t.Setenv("SECRET_OF_THE_NODE", "x")
	n := open(t, func(c *process.Config) { c.API = "http://127.0.0.1:7700" })
	s := sample("a", "env")
	s.Environment = map[string]string{"LANG": "de_DE", "APP": "1", "PACELINE_INSTANCE": "another", "PORT": "1"}
	s.UserData = "hi"
	st := n.run(t, s)
	out := n.output(t, "a", "hello")
	_, port, _ := strings.Cut(st.Address, ":")
	for _, want := range []string{
		"PACELINE_INSTANCE=a\n", "PACELINE_GROUP=web\n", "PACELINE_ZONE=a\n", "PACELINE_NODE=n1\n", "PACELINE_USER_DATA=hi\n", "PACELINE_API=http://127.0.0.1:7700\n",
		"PORT=" + port + "\n", "PACELINE_ADDRESS=127.0.0.1\n", "LANG=de_DE\n", "APP=1\n", "PATH=/", "TZ=",
		"PACELINE_DIR=" + filepath.Join(n.cfg.Dir, "a", "work") + "\n", "HOME=" + filepath.Join(n.cfg.Dir, "a", "work") + "\n", "wd=" + filepath.Join(n.cfg.Dir, "a", "work") + "\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if strings.Contains(out, "SECRET_OF_THE_NODE") {
		t.Error("the node's environment leaks")
	}
	rec, err := os.ReadFile(filepath.Join(n.cfg.Dir, "a", "state.json"))
	if err != nil || strings.Contains(string(rec), "de_DE") {
		t.Errorf("the environment, which may hold secrets, is on disk: %s, %v", rec, err)
	}
}

func TestOpenFilesAreLimited(t *testing.T) {
	n := open(t, func(c *process.Config) { c.OpenFiles = 123 })
	n.run(t, sample("a", "serve"))
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", n.pid(t, "a")))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.HasPrefix(line, "Max open files") && strings.Fields(line)[3] != "123" {
			t.Errorf("got %q", line)
		}
	}
}

func (n *node) pid(t *testing.T, id string) int {
	t.Helper()
	st, _, err := driver.Find(t.Context(), n, id)
	if err != nil {
		t.Fatal(err)
	}
	return st.PID
}

func TestInstancesRunAsAnotherUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root to become another user")
	}
	dir, err := os.MkdirTemp("/tmp", "paceline-uid")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := open(t, func(c *process.Config) {
		c.Dir, c.UID, c.GID = filepath.Join(dir, "instances"), 65532, 65532
		c.Allow, c.SelfPath = []string{"/usr/bin/id", "/bin/id"}, ""
	})
	if _, err := n.Start(t.Context(), driver.Spec{ID: "a", Term: 1, Command: "/usr/bin/id"}); err != nil {
		t.Fatal(err)
	}
	if out := n.output(t, "a", "uid="); !strings.Contains(out, "uid=65532") || !strings.Contains(out, "gid=65532") {
		t.Errorf("got %q", out)
	}
	if _, err := n.Wait(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
}

func TestLogsRotate(t *testing.T) {
	n := open(t, func(c *process.Config) { c.LogBytes, c.LogFiles, c.LogEvery = 1000, 2, 20*time.Millisecond })
	n.run(t, sample("a", "spam", "300")) // 12 bytes a line
	n.output(t, "a", "hello")
	log := filepath.Join(n.cfg.Dir, "a", "log")
	drivertest.Eventually(t, "the log is put away", func() bool {
		a, errA := os.Stat(log)
		b, errB := os.Stat(log + ".1")
		return errA == nil && errB == nil && a.Size() < 1000 && b.Size() > 0 && b.Size() <= 2000
	})
	c, err := n.Logs(t.Context(), "a", driver.LogQuery{Offset: -1, TailLines: 2})
	if err != nil || string(c.Data) != "line 000299\nhello\n" {
		t.Errorf("the end across files: got %q, %v", c.Data, err)
	}
	if want := int64(300*12 + 6); c.Next != want {
		t.Errorf("the log has %d bytes, want %d", c.Next, want)
	}
	c, err = n.Logs(t.Context(), "a", driver.LogQuery{Offset: 0, Limit: 100})
	if err != nil || c.Offset == 0 || len(c.Data) != 100 {
		t.Errorf("the beginning was dropped: got %d bytes at %d, %v", len(c.Data), c.Offset, err)
	}
	n.reopen(t)
	if again, err := n.Logs(t.Context(), "a", driver.LogQuery{Offset: -1}); err != nil || again.Next != 300*12+6 {
		t.Errorf("offsets changed by a restart: %d, %v", again.Next, err)
	}
}

func TestRotatedLogsAreBounded(t *testing.T) {
	n := open(t, func(c *process.Config) { c.LogBytes, c.LogFiles, c.LogEvery = 500, 2, 5*time.Millisecond })
	n.run(t, sample("a", "spam", "20000"))
	drivertest.Eventually(t, "little is left of 240 kB", func() bool {
		var size int64
		files, _ := filepath.Glob(filepath.Join(n.cfg.Dir, "a", "log*"))
		for _, f := range files {
			if info, err := os.Stat(f); err == nil {
				size += info.Size()
			}
		}
		c, err := n.Logs(t.Context(), "a", driver.LogQuery{Offset: -1})
		return err == nil && c.Offset > 0 && size < 2600 && len(files) <= 4
	})
}

// TestALogGoesOnAfterItsRotation writes on after the file was cut: a process
// that did not append would leave a hole of zeros.
func TestALogGoesOnAfterItsRotation(t *testing.T) {
	n := open(t, func(c *process.Config) { c.LogBytes, c.LogFiles, c.LogEvery = 200, 1, 5*time.Millisecond })
	n.run(t, sample("a", "drip"))
	drivertest.Eventually(t, "the log was cut twice and written on", func() bool {
		c, err := n.Logs(t.Context(), "a", driver.LogQuery{})
		if strings.Contains(string(c.Data), "\x00") {
			t.Fatalf("the log has a hole: %q", c.Data)
		}
		return err == nil && c.Offset > 600
	})
}

func TestStatsSeeABurningCore(t *testing.T) {
	n := open(t)
	s := sample("a", "burn")
	s.Resources = fsm.Resources{CPU: 0.5, MemoryMiB: 100}
	n.run(t, s)
	drivertest.Eventually(t, "the CPU shows", func() bool {
		u, err := n.Stats(t.Context(), "a")
		if err == nil && u.MemoryPercent != float64(u.RSSBytes)/(100<<20)*100 {
			t.Errorf("memory is %v%% with %d bytes of 100 MiB", u.MemoryPercent, u.RSSBytes)
		}
		return err == nil && u.HasCPU && u.CPUPercent > 20
	})
}

func TestExecChecks(t *testing.T) {
	base := t.TempDir()
	ok := filepath.Join(base, "ok")
	if err := os.WriteFile(ok, []byte("#!/bin/sh\ntest -n \"$PACELINE_INSTANCE\" && test -n \"$APP\"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	bad := filepath.Join(base, "bad")
	if err := os.WriteFile(bad, []byte("#!/bin/sh\necho no database\nexit 4\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	slow := filepath.Join(base, "slow")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\nsleep 60 &\nwait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	n := open(t, func(c *process.Config) { c.Allow = []string{base + "/"} })
	s := sample("a", "serve")
	s.Environment = map[string]string{"APP": "1"}
	n.run(t, s)
	n.output(t, "a", "hello")
	if err := n.Exec(t.Context(), "a", []string{ok}); err != nil {
		t.Error(err)
	}
	n.reopen(t)
	if err := n.Exec(t.Context(), "a", []string{ok}); err != nil {
		t.Errorf("after an adoption: %v", err)
	}
	if err := n.Exec(t.Context(), "a", []string{bad}); err == nil || !strings.Contains(err.Error(), "exit status 4: no database") {
		t.Errorf("got %v", err)
	}
	if err := n.Exec(t.Context(), "a", []string{"/bin/sh", "-c", "true"}); fsm.KindOf(err) != fsm.Forbidden {
		t.Errorf("got %v", err)
	}
	if err := n.Exec(t.Context(), "a", nil); fsm.KindOf(err) != fsm.Invalid {
		t.Errorf("got %v", err)
	}
	ctx, cancel := contextWithLimit(t, 50*time.Millisecond)
	defer cancel()
	if err := n.Exec(ctx, "a", []string{slow}); err == nil || !strings.Contains(err.Error(), "did not end in time") {
		t.Errorf("got %v", err)
	}
}

func TestCgroups(t *testing.T) {
	n := open(t, func(c *process.Config) { c.Cgroup = "" })
	s := sample("a", "memory")
	s.Resources = fsm.Resources{CPU: 0.5, MemoryMiB: 64}
	st := n.run(t, s)
	if !strings.HasPrefix(st.Limits, "cgroup") {
		t.Skipf("no limits on this machine: %s", st.Limits)
	}
	t.Logf("limits: %s", st.Limits)
	ctx, cancel := contextWithLimit(t, 20*time.Second)
	defer cancel()
	end, err := n.Wait(ctx, "a")
	if err != nil {
		t.Fatalf("256 MiB fit into 64: %v", err)
	}
	if end.Exit.Signal != "KILL" || !strings.Contains(end.Reason(), "used more memory than its limit") {
		t.Errorf("got %s", end.Reason())
	}
	s = sample("b", "family")
	s.Resources = fsm.Resources{CPU: 1, MemoryMiB: 512}
	n.run(t, s)
	groups := n.groupsOf(t, "b")
	pids := children(n.output(t, "b", "hello"))
	if _, err := n.Stop(t.Context(), "b", driver.StopSpec{Term: 1, Timeout: 20 * time.Second}); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		if lives(pid) {
			t.Errorf("child %d still lives", pid)
		}
	}
	for _, dir := range groups {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("a group is left: %s", dir)
		}
	}
}

// groupsOf reads the groups of an instance from its record, and proves that its
// process is in them.
func (n *node) groupsOf(t *testing.T, id string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.cfg.Dir, id, "state.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rec struct{ Cgroup []string }
	if err := json.Unmarshal(b, &rec); err != nil || len(rec.Cgroup) == 0 {
		t.Fatalf("the record names no groups: %s, %v", b, err)
	}
	for _, dir := range rec.Cgroup {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || !slices.Contains(strings.Fields(string(procs)), strconv.Itoa(n.pid(t, id))) {
			t.Errorf("%s has the processes %q, %v", dir, procs, err)
		}
	}
	return rec.Cgroup
}

func TestNoCgroupIsSaid(t *testing.T) {
	n := open(t)
	s := sample("a", "serve")
	s.Resources.CPU = 1
	if st := n.run(t, s); st.Limits != "none: switched off in the node's configuration" {
		t.Errorf("got %q", st.Limits)
	}
	if st := n.run(t, sample("b", "serve")); st.Limits != "none asked for" {
		t.Errorf("got %q", st.Limits)
	}
	m := open(t, func(c *process.Config) { c.Cgroup = t.TempDir() })
	if st := m.run(t, s); !strings.HasPrefix(st.Limits, "none: no rights on ") {
		t.Errorf("got %q", st.Limits)
	}
}

func TestBadConfigurations(t *testing.T) {
	for name, change := range map[string]func(*process.Config){
		"a relative directory": func(c *process.Config) { c.Dir = "x" },
		"an empty range":       func(c *process.Config) { c.PortMin, c.PortMax = 9, 8 },
		"a port too high":      func(c *process.Config) { c.PortMax = 70000 },
		"a negative size":      func(c *process.Config) { c.LogBytes = -1 },
	} {
		cfg := process.Config{Dir: t.TempDir()}
		change(&cfg)
		if d, err := process.New(cfg); fsm.KindOf(err) != fsm.Invalid {
			t.Errorf("%s: got %v, %v", name, d, err)
		}
	}
	if _, err := process.New(process.Config{Dir: "/dev/null/x"}); fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("got %v", err)
	}
}

func TestABadSignalIsRefused(t *testing.T) {
	n := open(t)
	n.run(t, sample("a", "serve"))
	if _, err := n.Stop(t.Context(), "a", driver.StopSpec{Term: 1, Signal: "SEGV"}); fsm.KindOf(err) != fsm.Invalid {
		t.Errorf("got %v", err)
	}
}
