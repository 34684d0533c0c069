//go:build linux

package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/fsm"
)

// cgroups says where limits can be set on this machine. An instance's groups
// stand directly below these, and only while it runs with limits: a node that
// is killed leaves nothing behind but those, which its next process removes.
type cgroups struct {
	// unified is the parent of the instances' groups in version 2; otherwise
	// cpu and memory are those of version 1. All are empty where there are no
	// rights, and why says so.
	unified, cpu, memory string
	why                  string
}

const (
	// cpuPeriod is the period of CPU quotas, in microseconds.
	cpuPeriod = 100_000
	// minQuota is the least quota that the kernel accepts.
	minQuota = 1_000
	// groupPrefix says in the hierarchy whose a group is.
	groupPrefix = "paceline-"
)

// findCgroups looks for a place where this process may limit others.
func findCgroups(config string) *cgroups {
	if config == "off" {
		return &cgroups{why: "switched off in the node's configuration"}
	}
	if config != "" {
		if delegated(config) {
			return &cgroups{unified: config}
		}
		return &cgroups{why: "no rights on " + config}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return &cgroups{why: "cgroups are not mounted"}
	}
	self, _ := os.ReadFile("/proc/self/cgroup")
	return chooseCgroups(cgroupDirs(string(mounts), string(self)))
}

// chooseCgroups prefers version 2, in the node's own group or, where the
// service manager has put the node into a leaf, in the parent of that.
func chooseCgroups(dirs map[string]string) *cgroups {
	if own := dirs[""]; own != "" {
		for _, base := range []string{own, filepath.Dir(own)} {
			if delegated(base) {
				return &cgroups{unified: base}
			}
		}
	}
	c := &cgroups{cpu: writable(dirs["cpu"]), memory: writable(dirs["memory"])}
	if c.cpu == "" && c.memory == "" {
		c.why = "no rights on cgroups"
	}
	return c
}

// cgroupDirs finds the directories of this process's own groups: by
// controller, and "" for version 2.
func cgroupDirs(mountinfo, self string) map[string]string {
	own := map[string]string{}
	for line := range strings.Lines(self) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		for controller := range strings.SplitSeq(f[1], ",") {
			own[controller] = f[2]
		}
	}
	dirs := map[string]string{}
	for line := range strings.Lines(mountinfo) {
		head, tail, ok := strings.Cut(line, " - ")
		h, t := strings.Fields(head), strings.Fields(tail)
		if !ok || len(h) < 5 || len(t) < 3 {
			continue
		}
		switch t[0] {
		case "cgroup2":
			dirs[""] = underMount(h[4], h[3], own[""])
		case "cgroup":
			for option := range strings.SplitSeq(t[2], ",") {
				if option == "cpu" || option == "memory" {
					dirs[option] = underMount(h[4], h[3], own[option])
				}
			}
		}
	}
	return dirs
}

// underMount is the directory of a group in a mount that may show a part of
// the hierarchy only, as in a container.
func underMount(mount, root, group string) string {
	rel := strings.TrimPrefix(group, strings.TrimSuffix(root, "/"))
	dir := filepath.Join(mount, rel)
	if info, err := os.Stat(dir); err == nil && info.IsDir() {
		return dir
	}
	return mount
}

// delegated makes a group of version 2 the parent of instances' groups, if both
// controllers can be had there.
func delegated(base string) bool {
	return hasControllers(base) && setControl(base, "cgroup.subtree_control", "+cpu +memory") == nil
}

func hasControllers(dir string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	f := strings.Fields(string(b))
	has := map[string]bool{}
	for _, c := range f {
		has[c] = true
	}
	return err == nil && has["cpu"] && has["memory"]
}

// writable returns a group of version 1 if groups can be made below it.
func writable(base string) string {
	if base == "" || unix.Access(base, unix.W_OK) != nil {
		return ""
	}
	return base
}

// create makes the groups of an instance and says how it is limited. An
// instance runs without limits rather than not at all; the status says so.
func (c *cgroups) create(id string, r fsm.Resources) (dirs []string, limits string) {
	if r.CPU == 0 && r.MemoryMiB == 0 {
		return nil, "none asked for"
	}
	if c.why != "" {
		return nil, "none: " + c.why
	}
	dirs, err := c.limit(id, r)
	if err != nil {
		removeCgroups(dirs)
		return nil, "none: " + err.Error()
	}
	if c.unified != "" {
		return dirs, "cgroup v2"
	}
	return dirs, "cgroup v1"
}

func (c *cgroups) limit(id string, r fsm.Resources) ([]string, error) {
	quota := strconv.FormatInt(max(minQuota, int64(r.CPU*cpuPeriod)), 10)
	period := strconv.Itoa(cpuPeriod)
	bytes := strconv.FormatInt(r.MemoryMiB<<20, 10)
	if c.unified != "" {
		dir := filepath.Join(c.unified, groupPrefix+id)
		var w controls
		w.dir(dir)
		if r.CPU > 0 {
			w.set(dir, "cpu.max", quota+" "+period)
		}
		if r.MemoryMiB > 0 {
			w.set(dir, "memory.max", bytes)
			// Optional: swap accounting and group kills are not everywhere.
			_ = setControl(dir, "memory.swap.max", "0")
			_ = setControl(dir, "memory.oom.group", "1")
		}
		return w.dirs, w.err
	}
	var w controls
	if r.CPU > 0 {
		if c.cpu == "" {
			return nil, errors.New("no rights on the cpu cgroup")
		}
		dir := filepath.Join(c.cpu, groupPrefix+id)
		w.dir(dir)
		w.set(dir, "cpu.cfs_period_us", period)
		w.set(dir, "cpu.cfs_quota_us", quota)
	}
	if r.MemoryMiB > 0 {
		if c.memory == "" {
			return w.dirs, errors.New("no rights on the memory cgroup")
		}
		dir := filepath.Join(c.memory, groupPrefix+id)
		w.dir(dir)
		w.set(dir, "memory.limit_in_bytes", bytes)
	}
	return w.dirs, w.err
}

// controls writes control files until one fails.
type controls struct {
	dirs []string
	err  error
}

func (w *controls) dir(dir string) {
	if w.err == nil {
		w.err = os.Mkdir(dir, 0o755)
		w.dirs = append(w.dirs, dir)
	}
}

func (w *controls) set(dir, file, value string) {
	if w.err == nil {
		w.err = setControl(dir, file, value)
	}
}

func setControl(dir, file, value string) error {
	return os.WriteFile(filepath.Join(dir, file), []byte(value), 0o644)
}

// isUnified reports whether a group is of version 2.
func isUnified(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cgroup.controllers"))
	return err == nil
}

// joinAtClone makes a process begin its life in its group, where the kernel
// can do that: in version 2.
func joinAtClone(attr *syscall.SysProcAttr, dirs []string) (leave func(), err error) {
	if len(dirs) != 1 || !isUnified(dirs[0]) {
		return func() {}, nil
	}
	fd, err := unix.Open(dirs[0], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	attr.UseCgroupFD, attr.CgroupFD = true, fd
	return func() { _ = unix.Close(fd) }, nil
}

// joinAfter moves a process into its groups of version 1. What it has forked
// in the moment since its start stays outside, and is found by its session.
func joinAfter(dirs []string, pid int) {
	for _, dir := range dirs {
		if !isUnified(dir) {
			_ = setControl(dir, "cgroup.procs", strconv.Itoa(pid))
		}
	}
}

// killCgroups kills every process in some groups.
func killCgroups(dirs []string) {
	for _, dir := range dirs {
		if setExisting(dir, "cgroup.kill", "1") == nil {
			continue
		}
		for range sweepRounds {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			list := bytes.Fields(b)
			if err != nil || len(list) == 0 {
				break
			}
			for _, f := range list {
				if pid, err := strconv.Atoi(string(f)); err == nil && pid > 1 {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	}
}

// setExisting writes a control file that may not be there.
func setExisting(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// removeCgroups removes the groups of an ended instance. The kernel takes a
// moment to see that they are empty.
func removeCgroups(dirs []string) {
	for _, dir := range dirs {
		for range sweepRounds {
			if err := unix.Rmdir(dir); err == nil || !errors.Is(err, unix.EBUSY) {
				break
			}
			pause := time.NewTimer(5 * time.Millisecond)
			<-pause.C
		}
	}
}

// outOfMemory reports whether the kernel has killed a process of a group
// because of its memory limit.
func outOfMemory(dirs []string) bool {
	for _, dir := range dirs {
		for _, file := range []string{"memory.events", "memory.oom_control"} {
			b, _ := os.ReadFile(filepath.Join(dir, file))
			for line := range strings.Lines(string(b)) {
				if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok && n != "0" {
					return true
				}
			}
		}
	}
	return false
}
