package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cpuLayout gives the proxy a processor of its own, the first one, and the
// rest to everybody else. With a single one there is nothing to divide.
type cpuLayout struct {
	proxy, load []int
}

// divide lays out the processors that this process may use.
func divide(allowed []int) (cpuLayout, bool) {
	if len(allowed) < 2 {
		return cpuLayout{}, false
	}
	return cpuLayout{proxy: allowed[:1], load: allowed[1:]}, true
}

// allowedCPUs lists the processors that this process may use.
func allowedCPUs() ([]int, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, fmt.Errorf("read the CPU affinity: %w", err)
	}
	var list []int
	for cpu := 0; len(list) < set.Count(); cpu++ {
		if set.IsSet(cpu) {
			list = append(list, cpu)
		}
	}
	return list, nil
}

// pin moves every thread of the processes to some processors. A thread that
// is born meanwhile may have its parent's old place, so it looks again until
// there is no new one.
func pin(pids, cpus []int) error {
	if len(cpus) == 0 {
		return nil
	}
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	done := map[int]bool{}
	for range maxPinPasses {
		fresh := 0
		for _, pid := range pids {
			tids, err := threads(pid)
			if err != nil {
				return err
			}
			for _, tid := range tids {
				if done[tid] {
					continue
				}
				if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("pin thread %d of process %d: %w", tid, pid, err)
				}
				done[tid] = true
				fresh++
			}
		}
		if fresh == 0 {
			return nil
		}
	}
	return fmt.Errorf("processes %v make new threads faster than they can be pinned", pids)
}

// threads lists the threads of a process.
func threads(pid int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	return numbers(entries), nil
}

func numbers(entries []os.DirEntry) []int {
	var list []int
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// withChildren is a process and those that it started itself.
func withChildren(pid int) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	list := []int{pid}
	for _, n := range numbers(entries) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
		if err != nil {
			continue // it ended
		}
		if st, err := parseStat(string(text)); err == nil && st.parent == pid {
			list = append(list, n)
		}
	}
	return list, nil
}

// marked lists the processes whose environment has an entry that begins with
// a prefix: how instances say whose they are.
func marked(prefix string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var list []int
	for _, n := range numbers(entries) {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", n))
		if err == nil && slices.ContainsFunc(strings.Split(string(text), "\x00"),
			func(e string) bool { return strings.HasPrefix(e, prefix) }) {
			list = append(list, n)
		}
	}
	return list
}

// procStat is what is needed of /proc/<pid>/stat.
type procStat struct {
	parent int
	cpu    time.Duration // user and system time
}

// tick is the unit of times in /proc/<pid>/stat, the same on every Linux.
const tick = 10 * time.Millisecond

// parseStat reads /proc/<pid>/stat. The name in it may hold anything, so
// fields are counted from its last parenthesis.
func parseStat(text string) (procStat, error) {
	_, rest, ok := cutLast(text, ")")
	f := strings.Fields(rest)
	if !ok || len(f) < 13 {
		return procStat{}, fmt.Errorf("%q is not the status of a process", text)
	}
	parent, err1 := strconv.Atoi(f[1])
	user, err2 := strconv.ParseInt(f[11], 10, 64)
	system, err3 := strconv.ParseInt(f[12], 10, 64)
	return procStat{parent, time.Duration(user+system) * tick}, errors.Join(err1, err2, err3)
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// parseSchedstat reads the time on a processor, in nanoseconds, from
// /proc/<pid>/task/<tid>/schedstat.
func parseSchedstat(text string) (time.Duration, error) {
	f := strings.Fields(text)
	if len(f) < 3 {
		return 0, fmt.Errorf("%q is not a schedstat", text)
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	return time.Duration(n), err
}

// cpuTime is the processor time that the processes have used. The scheduler's
// own count is exact; where a kernel does not keep it, ticks have to do.
// Threads that ended are missing from the first: servers keep theirs.
func cpuTime(pids []int) (time.Duration, error) {
	total := time.Duration(0)
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		sum := time.Duration(0)
		for _, name := range files {
			text, err := os.ReadFile(name)
			if err != nil {
				continue // the thread ended
			}
			d, err := parseSchedstat(string(text))
			if err != nil {
				return 0, err
			}
			sum += d
		}
		if sum == 0 {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil {
				return 0, err
			}
			st, err := parseStat(string(text))
			if err != nil {
				return 0, err
			}
			sum = st.cpu
		}
		total += sum
	}
	return total, nil
}

// raiseFiles lets this process and those it starts open as many files as they
// may, and returns how many that is.
func raiseFiles(wanted uint64) (uint64, error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	// Only root may raise the hard limit; the present one has to do then. An
	// explicit call is needed in any case: Go gives children the old limit.
	if l.Max < wanted {
		if syscall.Setrlimit(syscall.RLIMIT_NOFILE, &syscall.Rlimit{Cur: wanted, Max: wanted}) == nil {
			return wanted, nil
		}
	}
	l.Cur = l.Max
	return l.Cur, syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l)
}

// adoptOrphans makes this process the parent of what its children leave behind,
// so that it can wait for the origins of a node that has ended.
func adoptOrphans() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	return nil
}
