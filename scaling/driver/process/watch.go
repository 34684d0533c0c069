//go:build linux

package process

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/scaling/driver"
)

// watch waits for the end of a process, and clears up after it.
func (d *Driver) watch(i *instance) {
	r := i.record()
	if awaitExit(d.ctx, r.PID, r.Start) != nil {
		return // the driver is closing; the next one adopts the process
	}
	d.conclude(i, reap(r.PID))
}

// awaitExit returns nil when the process has ended, as a zombie or for good.
func awaitExit(ctx context.Context, pid int, start uint64) error {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return pollExit(ctx, pid, start)
	}
	// A pidfd joins the runtime's poller: a waiting goroutine costs no thread.
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close() //nolint:errcheck // nothing is written
	if !runs(pid, start) {
		return nil // the pid is another process's by now
	}
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn, err := f.SyscallConn()
	if err != nil {
		return pollExit(ctx, pid, start)
	}
	err = conn.Read(func(fd uintptr) bool { return readable(int(fd)) })
	if err != nil && ctx.Err() == nil {
		return pollExit(ctx, pid, start)
	}
	return ctx.Err()
}

// readable reports whether the process of a pidfd has ended.
func readable(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0
}

// pollExit is awaitExit for kernels and sandboxes without pidfds.
func pollExit(ctx context.Context, pid int, start uint64) error {
	tick := time.NewTicker(exitPoll)
	defer tick.Stop()
	for runs(pid, start) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// runs reports whether a pid is still the process that it was, and executes.
func runs(pid int, start uint64) bool {
	st, err := readStat(pid)
	return err == nil && st.alive() && (start == 0 || st.start == start)
}

// reap takes the exit status of an ended child, after it has killed what is
// left of its group: as long as the child is not reaped, nobody else can have
// its number. The status of a process that is not a child is not known.
func reap(pid int) driver.Exit {
	e := driver.Exit{At: now()}
	st, err := readStat(pid)
	if err != nil || st.ppid != os.Getpid() {
		return e
	}
	_ = unix.Kill(-pid, unix.SIGKILL)
	var ws unix.WaitStatus
	for {
		got, err := unix.Wait4(pid, &ws, 0, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || got != pid {
			return e
		}
		break
	}
	e.Known = true
	if ws.Signaled() {
		e.Signal = signalName(ws.Signal())
	} else {
		e.Code = ws.ExitStatus()
	}
	return e
}

// conclude kills what the process left behind, notes its end, and tells those
// who wait.
func (d *Driver) conclude(i *instance, e driver.Exit) {
	r := i.record()
	if outOfMemory(r.Cgroup) {
		e.Note = "it used more memory than its limit"
	}
	d.killLeftovers(i.dir, &r)
	removeCgroups(r.Cgroup)
	d.ports.release(r.Port)
	i.mu.Lock()
	i.rec.Step, i.rec.Exit = ended, &e
	if err := i.rec.save(i.dir, false); err != nil {
		d.log.Warn("the end of an instance can not be written", "instance", i.id, "error", err)
	}
	i.mu.Unlock()
	close(i.ended)
}

// reapOrphans takes the exit status of processes that the kernel has given to
// this one because it is the first of its PID namespace, as in a container:
// grandchildren of instances that have lost their parent. It touches only
// zombies that it saw on an earlier round too, which nobody waits for.
func (d *Driver) reapOrphans() {
	tick := time.NewTicker(reapEvery)
	defer tick.Stop()
	seen := map[int]uint64{}
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-tick.C:
			seen = d.reapRound(seen)
		}
	}
}

// reapRound reaps the zombies of the last round and returns those of this one.
func (d *Driver) reapRound(last map[int]uint64) map[int]uint64 {
	mine := map[int]bool{}
	for _, i := range d.live() {
		mine[i.record().PID] = true
	}
	seen := map[int]uint64{}
	for _, p := range processes() {
		if p.ppid != os.Getpid() || p.alive() || mine[p.pid] {
			continue
		}
		if last[p.pid] == p.start {
			_, _ = unix.Wait4(p.pid, nil, unix.WNOHANG, nil)
			continue
		}
		seen[p.pid] = p.start
	}
	return seen
}
