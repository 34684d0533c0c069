//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pacelinehq/paceline/client"
)

// node is one agent: where it listens, where its data is, and its process.
type node struct {
	f          *fleet
	name, zone string
	ip, dir    string
	ns         string   // network namespace, "" for the one of the test
	public     string   // address of the API where it is not on ip
	flags      []string // in addition to the fleet's

	cmd    *exec.Cmd
	exited chan struct{}
	http   *http.Client
	conn   atomic.Pointer[client.Client] // the load goes on while a node moves
}

func (n *node) api() string {
	if n.public != "" {
		return n.public
	}
	return n.ip + ":7700"
}
func (n *node) peer() string    { return n.ip + ":7701" }
func (n *node) gossip() string  { return n.ip + ":7702" }
func (n *node) traffic() string { return n.ip + ":7780" }
func (n *node) log() string     { return filepath.Join(n.f.dir, n.name+".log") }

func (n *node) args() []string {
	args := []string{
		"agent", "--name", n.name, "--zone", n.zone, "--data-dir", n.dir,
		"--api-addr", n.api(), "--peer-addr", n.peer(), "--gossip-addr", n.gossip(), "--traffic-addr", n.traffic(),
		"--bootstrap-expect", fmt.Sprint(n.f.expect), "--join", n.f.joins(),
		"--evaluation-interval", "1s", "--log-format", "text", "--log-level", "info",
		"--raft-log-store", n.store(),
	}
	return append(append(args, n.f.flags...), n.flags...)
}

// store is the store of the node's Raft log: that of the fleet's flags, or both
// side by side, so that every fault meets both.
func (n *node) store() string {
	for i, flag := range n.f.flags {
		if flag == "--raft-log-store" {
			return n.f.flags[i+1]
		}
	}
	if n.name == "n2" || n.name == "n4" {
		return "wal"
	}
	return "boltdb"
}

// start runs the node's process.
func (n *node) start() {
	n.f.t.Helper()
	must(n.f.t, n.launch())
}

func (n *node) launch() error {
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.log(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own copy
	argv := append([]string{os.Getenv(binEnv)}, n.args()...)
	if n.ns != "" { // "ip netns exec" becomes the agent, with the same pid
		argv = append([]string{"ip", "netns", "exec", n.ns}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdout, cmd.Stderr, cmd.Env = log, log, environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	exited := make(chan struct{})
	n.cmd, n.exited = cmd, exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	return n.connect()
}

// environment is that of the tests without settings of Paceline.
func environment() []string {
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "PACELINE_") {
			env = append(env, e)
		}
	}
	return env
}

// connect makes a client for this node alone.
func (n *node) connect() error {
	if n.http == nil {
		n.http = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	}
	c, err := client.New(client.Config{Endpoints: []string{n.api()}, HTTP: n.http, UserAgent: "paceline-e2e"})
	n.conn.Store(c)
	return err
}

// cli is the client for this node alone.
func (n *node) cli() *client.Client { return n.conn.Load() }

func (n *node) runs() bool {
	if n.cmd == nil {
		return false
	}
	select {
	case <-n.exited:
		return false
	default:
		return true
	}
}

func (n *node) signal(sig syscall.Signal) {
	n.f.t.Helper()
	must(n.f.t, n.cmd.Process.Signal(sig))
}

// stop sends a signal and waits until the process is gone.
func (n *node) stop(sig syscall.Signal) {
	n.f.t.Helper()
	n.signal(sig)
	n.gone()
}

func (n *node) kill() { n.f.t.Helper(); n.stop(syscall.SIGKILL) }
func (n *node) term() { n.f.t.Helper(); n.stop(syscall.SIGTERM) }

// gone waits until the process has ended by itself, and returns its status.
func (n *node) gone() int {
	n.f.t.Helper()
	select {
	case <-n.exited:
	case <-time.After(exitDeadline):
		n.f.t.Fatalf("%s did not end within %s", n.name, exitDeadline)
	}
	return n.cmd.ProcessState.ExitCode()
}

// end ends the process for good, in whatever state it is.
func (n *node) end() {
	if n.http != nil {
		n.http.CloseIdleConnections()
	}
	if !n.runs() {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGCONT)
	_ = n.cmd.Process.Kill()
	select {
	case <-n.exited:
	case <-time.After(exitDeadline):
		n.f.t.Errorf("%s (pid %d) can not be killed", n.name, n.cmd.Process.Pid)
	}
}

// ctx bounds one request.
func (n *node) ctx(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(n.f.t.Context(), d)
}

func (n *node) status() (*client.ClusterStatus, error) {
	ctx, cancel := n.ctx(2 * time.Second)
	defer cancel()
	return n.cli().Cluster(ctx, client.Once())
}

// ready asks the node whether it is, and why not.
func (n *node) ready() error {
	ctx, cancel := n.ctx(2 * time.Second)
	defer cancel()
	_, err := n.cli().Raw(ctx, http.MethodGet, "/readyz?verbose=true", nil, client.Once())
	return err
}

// fresh asks the node for a strong read: it must have all that is committed.
func (n *node) fresh() error {
	ctx, cancel := n.ctx(2 * time.Second)
	defer cancel()
	_, err := n.cli().ListTemplates(ctx, client.Once(), client.WithConsistency(client.Strong), client.WithLimit(1))
	return err
}

func (n *node) snapshot() ([]byte, error) {
	ctx, cancel := n.ctx(10 * time.Second)
	defer cancel()
	return readAll(n.cli().SaveSnapshot(ctx))
}

// tail returns the last lines of the node's log.
func (n *node) tail(lines int) string {
	b, err := os.ReadFile(n.log())
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// says waits until the node's log holds a text.
func (n *node) says(text string) {
	n.f.t.Helper()
	eventually(n.f.t, settleDeadline, fmt.Sprintf("%q in the log of %s", text, n.name), func() error {
		b, err := os.ReadFile(n.log())
		if err == nil && !strings.Contains(string(b), text) {
			err = errors.New("it is not there")
		}
		return err
	})
}

// anySays waits until some node has logged a text.
func (f *fleet) anySays(text string) {
	f.t.Helper()
	eventually(f.t, settleDeadline, fmt.Sprintf("%q in a log", text), func() error {
		for _, n := range f.nodes {
			if b, err := os.ReadFile(n.log()); err == nil && strings.Contains(string(b), text) {
				return nil
			}
		}
		return errors.New("it is not there")
	})
}

// record is what the process driver keeps of an instance.
type record struct {
	ID  string `json:"id"`
	PID int    `json:"pid"`
}

func (n *node) records() (list []record) {
	files, _ := filepath.Glob(filepath.Join(n.dir, "instances", "*", "state.json"))
	for _, file := range files {
		var r record
		if b, err := os.ReadFile(file); err == nil && json.Unmarshal(b, &r) == nil {
			list = append(list, r)
		}
	}
	return list
}

// isInstance reports whether a process is the given instance: pids are used
// again, the environment is not.
func isInstance(pid int, id string) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(env, []byte("PACELINE_INSTANCE="+id+"\x00"))
}

// endInstances kills what the node left running, each by its own pid.
func (n *node) endInstances() {
	for _, r := range n.records() {
		if r.PID > 0 && isInstance(r.PID, r.ID) {
			_ = syscall.Kill(r.PID, syscall.SIGKILL)
		}
	}
}

// paceline runs the binary to its end and returns what it printed.
func paceline(ctx context.Context, args ...string) (out string, code int) {
	ctx, cancel := context.WithTimeout(ctx, exitDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Getenv(binEnv), args...)
	cmd.Env = environment()
	b, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(b), cmd.ProcessState.ExitCode()
}
