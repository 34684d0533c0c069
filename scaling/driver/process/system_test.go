//go:build linux

package process_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver/drivertest"
	"github.com/pacelinehq/paceline/scaling/driver/process"
)

func TestStatLinesWithOddNames(t *testing.T) {
	rest := " S 7 8 9 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 12345 1000 55 18446744073709551615 1 1"
	for _, name := range []string{"(sh)", "(a b)", "(a) S 1 (b)", "()"} {
		state, ppid, start, err := process.StatFields("1 " + name + rest)
		if err != nil || state != 'S' || ppid != 7 || start != 12345 {
			t.Errorf("%s: got %c, %d, %d, %v", name, state, ppid, start, err)
		}
	}
	for _, bad := range []string{"", "1 (sh", "1 (sh) S 1 2"} {
		if _, _, _, err := process.StatFields(bad); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func TestExitsAreNoticedWithoutPidfds(t *testing.T) {
	self, _ := os.Executable()
	c := exec.Command(self, helperArg, "exit")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := process.PollExit(t.Context(), c.Process.Pid, 0); err != nil {
		t.Error(err)
	}
	_ = c.Wait()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := process.PollExit(ctx, os.Getpid(), 0); err == nil {
		t.Error("this process has ended, it says")
	}
}

// TestOrphansOfAContainerAreReaped makes this process the one that the kernel
// gives orphans to, as the first process of a container is.
func TestOrphansOfAContainerAreReaped(t *testing.T) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Skipf("can not become a reaper: %v", err)
	}
	defer func() { _ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) }()
	n := open(t)
	n.run(t, sample("a", "family", "leave"))
	if _, err := n.Wait(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	pids := children(n.output(t, "a", "child"))
	if len(pids) != 3 {
		t.Fatalf("got the children %v", pids)
	}
	seen := map[int]uint64{}
	drivertest.Eventually(t, "all are zombies of this process", func() bool {
		seen = n.ReapRound(nil)
		return seen[pids[0]] != 0 && seen[pids[1]] != 0 && seen[pids[2]] != 0
	})
	n.ReapRound(seen)
	for _, pid := range pids {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			t.Errorf("%d is still a zombie", pid)
		}
	}
}

func TestOwnCgroupsAreFound(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"v1cpu/me", "v1mem", "v2/unit/leaf"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(at, hier, kind, options string) string {
		return "32 31 0:29 " + hier + " " + filepath.Join(root, at) + " rw,relatime - " + kind + " " + kind + " " + options + "\n"
	}
	mounts := mount("v1cpu", "/", "cgroup", "rw,cpu,cpuacct") + mount("v1mem", "/docker/x", "cgroup", "rw,memory") +
		mount("v2", "/", "cgroup2", "rw") + "garbage\n"
	dirs := process.CgroupDirs(mounts, "4:memory:/docker/x/gone\n1:cpu,cpuacct:/me\n0::/unit/leaf\nx\n")
	for controller, want := range map[string]string{"cpu": "v1cpu/me", "memory": "v1mem", "": "v2/unit/leaf"} {
		if dirs[controller] != filepath.Join(root, want) {
			t.Errorf("%q: got %s, want %s", controller, dirs[controller], want)
		}
	}
}

// TestUnifiedLimits writes limits into a directory that looks like a delegated
// group of version 2.
func TestUnifiedLimits(t *testing.T) {
	base := t.TempDir()
	if err := os.WriteFile(filepath.Join(base, "cgroup.controllers"), []byte("cpuset cpu io memory pids\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dirs, limits := process.LimitUnified(base, "i1", fsm.Resources{CPU: 1.5, MemoryMiB: 64})
	if limits != "cgroup v2" || len(dirs) != 1 {
		t.Fatalf("got %v, %q", dirs, limits)
	}
	for file, want := range map[string]string{"cpu.max": "150000 100000", "memory.max": "67108864", "memory.swap.max": "0"} {
		if b, err := os.ReadFile(filepath.Join(dirs[0], file)); err != nil || string(b) != want {
			t.Errorf("%s: got %q, %v", file, b, err)
		}
	}
	if b, _ := os.ReadFile(filepath.Join(base, "cgroup.subtree_control")); string(b) != "+cpu +memory" {
		t.Errorf("got %q", b)
	}
	if _, limits := process.LimitUnified(base, "i1", fsm.Resources{CPU: 1}); !strings.HasPrefix(limits, "none: ") {
		t.Errorf("a group that exists: got %q", limits)
	}
}
