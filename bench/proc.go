package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// proc is one server process of a cluster, which can be started again with
// the same arguments after it was ended.
type proc struct {
	binary string
	args   []string
	env    []string // beside the environment of this process
	log    string

	cmd    *exec.Cmd
	exited chan struct{}
}

// start runs the process; its output goes to the end of the log file.
func (p *proc) start() error {
	out, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // the child has its own descriptor
	cmd := exec.Command(p.binary, p.args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.Env = append(os.Environ(), p.env...)
	// A group of its own keeps the terminal's interrupt from it: we end it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		_ = cmd.Wait() // the status does not matter: we end it ourselves
		close(exited)
	}()
	return nil
}

// signal sends a signal to the process, if it runs.
func (p *proc) signal(s syscall.Signal) error {
	if p.cmd == nil {
		return errors.New("the process was never started")
	}
	return p.cmd.Process.Signal(s)
}

// running reports whether the process has not exited.
func (p *proc) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// stop ends the process, gently first.
func (p *proc) stop() {
	if !p.running() {
		return
	}
	_ = p.signal(syscall.SIGCONT)
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.exited:
	case <-time.After(stopDeadline):
		_ = p.signal(syscall.SIGKILL)
		<-p.exited
	}
}

// lastLog is the end of the process's output, for an error message.
func (p *proc) lastLog() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-2000):])
}

// rssMiB is the resident memory of the process.
func (p *proc) rssMiB() (float64, error) { return residentMiB(p.cmd.Process.Pid) }

func residentMiB(pid int) (float64, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024, err
		}
	}
	return 0, fmt.Errorf("no VmRSS in the status of process %d", pid)
}

// freePorts asks the system for ports that nobody uses.
func freePorts(n int) ([]int, error) {
	ports := make([]int, 0, n)
	for range n {
		// All stay open until the last is known, or one could come twice.
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = l.Close() }()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// poll asks ok every few milliseconds until it agrees or ctx ends.
func poll(ctx context.Context, every time.Duration, ok func() bool) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
