//go:build linux

package process

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// clockTick is the unit of times in /proc: USER_HZ, which Linux fixes at 100
// for user space on every architecture that Go supports.
const clockTick = 10 * time.Millisecond

// errNoProc is a process that is not there (any more).
var errNoProc = errors.New("no such process")

// procStat is what this package reads of /proc/<pid>/stat.
type procStat struct {
	pid     int
	state   byte
	ppid    int
	pgrp    int
	session int
	// cpu includes the children that the process has waited for.
	cpu time.Duration
	// start is in ticks since boot; with the pid and the boot it identifies a
	// process for ever.
	start uint64
	rss   int64
}

// alive reports whether the process executes, as a zombie does not.
func (p procStat) alive() bool { return p.state != 'Z' && p.state != 'X' }

// readStat reads one process's stat.
func readStat(pid int) (procStat, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return procStat{}, errNoProc
	}
	return parseStat(pid, b)
}

// parseStat reads the fields after the command name, which may itself contain
// spaces and parentheses.
func parseStat(pid int, b []byte) (procStat, error) {
	at := bytes.LastIndexByte(b, ')')
	if at < 0 {
		return procStat{}, errNoProc
	}
	f := strings.Fields(string(b[at+1:]))
	if len(f) < 22 {
		return procStat{}, errNoProc
	}
	num := func(k int) int64 { n, _ := strconv.ParseInt(f[k], 10, 64); return n }
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return procStat{}, errNoProc
	}
	ticks := num(11) + num(12) + num(13) + num(14)
	return procStat{
		pid: pid, state: f[0][0], ppid: int(num(1)), pgrp: int(num(2)), session: int(num(3)),
		cpu: time.Duration(ticks) * clockTick, start: start, rss: num(21) * int64(os.Getpagesize()),
	}, nil
}

// pids lists the processes of this PID namespace.
func pids() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close() //nolint:errcheck // only read
	names, _ := dir.Readdirnames(-1)
	var list []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			list = append(list, pid)
		}
	}
	return list
}

// processes reads the stat of every process.
func processes() []procStat {
	var list []procStat
	for _, pid := range pids() {
		if st, err := readStat(pid); err == nil {
			list = append(list, st)
		}
	}
	return list
}

// hasEnv reports whether a process was started with all of some environment
// entries.
func hasEnv(pid int, entries []string) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	found := 0
	for kv := range bytes.SplitSeq(b, []byte{0}) {
		if slices.Contains(entries, string(kv)) {
			found++
		}
	}
	return found >= len(entries)
}

// writesTo reports whether a process has a file as its output. It finds those
// that have overwritten their environment, as some servers do to show a title.
func writesTo(pid int, file string) bool {
	for _, fd := range []string{"1", "2"} {
		to, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/fd/" + fd)
		if err == nil && to == file {
			return true
		}
	}
	return false
}

// bootID identifies what gives out pids: the run of the kernel and, for
// containers, the PID namespace. A pid of another one means nothing.
func bootID() string {
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	ns, _ := os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(boot)) + " " + ns
}

// machineMemory is the memory of the machine in bytes, 0 when not known.
func machineMemory() int64 {
	b, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "MemTotal:" {
			kib, _ := strconv.ParseInt(f[1], 10, 64)
			return kib << 10
		}
	}
	return 0
}
