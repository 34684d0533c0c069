//go:build linux

package process

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// Stop implements [driver.Driver].
func (d *Driver) Stop(ctx context.Context, id string, s driver.StopSpec) (driver.Status, error) {
	i, err := d.get(id)
	if err != nil {
		return driver.Status{}, err
	}
	sig, err := signalOf(id, s.Signal)
	if err != nil {
		return driver.Status{}, err
	}
	if i.over() {
		return i.status(), nil
	}
	if err := i.fence(s.Term); err != nil {
		return driver.Status{}, err
	}
	d.signal(i, sig)
	if sig != unix.SIGKILL {
		done, err := d.within(ctx, i, s.Timeout)
		if done || err != nil {
			return i.status(), err
		}
		d.signal(i, unix.SIGKILL)
	}
	done, err := d.within(ctx, i, killWait)
	if !done && err == nil {
		err = fsm.Errorf(fsm.Unavailable, "instance", id, "did not end within %s of KILL", killWait).
			WithHint("its process is stuck in the kernel, usually on a disk or network file system")
	}
	return i.status(), err
}

// within waits for the end of an instance, for a time.
func (d *Driver) within(ctx context.Context, i *instance, limit time.Duration) (bool, error) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-i.ended:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	case <-d.ctx.Done():
		return false, closedError()
	}
}

// signal sends a signal to the process group, if its leader is still the
// process that was started.
func (d *Driver) signal(i *instance, sig syscall.Signal) {
	r := i.record()
	if !runs(r.PID, r.Start) {
		return
	}
	_ = unix.Kill(-r.PID, sig)
	if sig == unix.SIGKILL {
		killCgroups(r.Cgroup)
	}
}

// killLeftovers kills what an ended instance has started and left running,
// wherever it went: by cgroup, by session, and by the environment that
// children inherit.
func (d *Driver) killLeftovers(dir string, r *record) {
	killCgroups(r.Cgroup)
	for range sweepRounds {
		left := leftovers(dir, r)
		if len(left) == 0 {
			return
		}
		for _, p := range left {
			killExactly(p)
		}
		// A killed process takes a moment to become a zombie.
		pause := time.NewTimer(5 * time.Millisecond)
		<-pause.C
	}
	d.log.Warn("processes of an ended instance do not end", "instance", r.ID)
}

// leftovers lists the living processes of an instance whose first has ended.
func leftovers(dir string, r *record) []procStat {
	// Nobody gets the number of a session that still has members. A process
	// with this number and another start means that the session is gone.
	bySession := r.PID != 0
	if st, err := readStat(r.PID); err == nil && st.start != r.Start {
		bySession = false
	}
	marked := marks(dir, r.ID)
	var left []procStat
	for _, p := range processes() {
		if !p.alive() || p.pid == os.Getpid() {
			continue
		}
		if bySession && p.session == r.PID || hasEnv(p.pid, marked) {
			left = append(left, p)
		}
	}
	return left
}

// killExactly kills a process and not another one that got its number since.
func killExactly(p procStat) {
	fd, err := unix.PidfdOpen(p.pid, 0)
	if err != nil {
		if runs(p.pid, p.start) {
			_ = unix.Kill(p.pid, unix.SIGKILL)
		}
		return
	}
	defer unix.Close(fd) //nolint:errcheck // nothing is written
	if runs(p.pid, p.start) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	}
}

// findOrphan looks for the process of an intent whose pid was not written any
// more: the first process of a session, with the instance's environment or
// log.
func findOrphan(dir, id string) (procStat, bool) {
	log, marked := filepath.Join(dir, logFile), marks(dir, id)
	for _, p := range processes() {
		if p.session != p.pid || !p.alive() {
			continue
		}
		if hasEnv(p.pid, marked) || writesTo(p.pid, log) {
			return p, true
		}
	}
	return procStat{}, false
}

// signalOf reads the name of a signal that ends processes.
func signalOf(id, name string) (syscall.Signal, error) {
	switch name {
	case "", "TERM":
		return unix.SIGTERM, nil
	case "INT":
		return unix.SIGINT, nil
	case "QUIT":
		return unix.SIGQUIT, nil
	case "HUP":
		return unix.SIGHUP, nil
	case "KILL":
		return unix.SIGKILL, nil
	}
	return 0, fsm.Errorf(fsm.Invalid, "instance", id, "can not be stopped by the signal %q", name).
		WithHint("use TERM, INT, QUIT, HUP or KILL")
}

func signalName(s syscall.Signal) string {
	return strings.TrimPrefix(unix.SignalName(s), "SIG")
}
