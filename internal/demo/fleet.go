package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/pacelinehq/paceline/client"
)

const (
	nodeCount  = 3
	portStride = 10
	// portsPerNode are those of the API, peers, gossip and traffic.
	portsPerNode = 4
	basePort     = 7700
	portTries    = 50
)

// agent is one node of the demo: a real process of this binary.
type agent struct {
	name, dir     string
	api, gossip   string
	peer, traffic string
	zone          string
	cmd           *exec.Cmd
	exited        chan struct{}
	log           string
	binary, joins string
}

// fleet is the demo's nodes and a client for all of them.
type fleet struct {
	agents []*agent
	client *client.Client
}

// newFleet lays out nodes on free loopback ports below a directory.
func newFleet(binary, dir string) (*fleet, error) {
	base, err := freeBase()
	if err != nil {
		return nil, err
	}
	f := &fleet{}
	var endpoints, joins []string
	for i := range nodeCount {
		port := base + i*portStride
		a := &agent{
			name: fmt.Sprintf("n%d", i+1), zone: string(rune('a' + i)), binary: binary,
			api: local(port), peer: local(port + 1), gossip: local(port + 2), traffic: local(port + 3),
		}
		a.dir = filepath.Join(dir, a.name)
		a.log = filepath.Join(dir, a.name+".log")
		endpoints, joins = append(endpoints, a.api), append(joins, a.gossip)
		f.agents = append(f.agents, a)
	}
	for _, a := range f.agents {
		a.joins = strings.Join(joins, ",")
	}
	f.client, err = client.New(client.Config{Endpoints: endpoints, UserAgent: "paceline-demo"})
	return f, err
}

// proxies are the traffic addresses of all nodes.
func (f *fleet) proxies() []string {
	list := make([]string, len(f.agents))
	for k, a := range f.agents {
		list[k] = a.traffic
	}
	return list
}

func local(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

// freeBase finds a run of ports that nobody listens on, beginning with the
// usual one.
func freeBase() (int, error) {
	for try := range portTries {
		base := basePort + try*100
		if portsFree(base) {
			return base, nil
		}
	}
	return 0, errors.New("no free ports for three nodes between 7700 and 12700")
}

func portsFree(base int) bool {
	for i := range nodeCount {
		for k := range portsPerNode {
			l, err := net.Listen("tcp", local(base+i*portStride+k))
			if err != nil {
				return false
			}
			_ = l.Close()
		}
	}
	return true
}

// start runs the agent's process.
func (a *agent) start() error {
	if err := os.MkdirAll(a.dir, 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close() //nolint:errcheck // the child has its own copy
	cmd := exec.Command(a.binary, "agent",
		"--name", a.name, "--zone", a.zone, "--data-dir", a.dir,
		"--api-addr", a.api, "--peer-addr", a.peer, "--gossip-addr", a.gossip, "--traffic-addr", a.traffic,
		"--bootstrap-expect", fmt.Sprint(nodeCount), "--join", a.joins,
		"--evaluation-interval", "1s", "--log-format", "text")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which stops its nodes itself
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("node %s does not start: %w", a.name, err)
	}
	a.cmd, a.exited = cmd, make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(a.exited)
	}()
	return nil
}

// kill ends the process as a crash does.
func (a *agent) kill() error { return a.end(syscall.SIGKILL, 5*time.Second) }

// end sends a signal and waits until the process is gone.
func (a *agent) end(sig os.Signal, patience time.Duration) error {
	if !a.running() {
		return nil
	}
	if err := a.cmd.Process.Signal(sig); err != nil {
		return err
	}
	select {
	case <-a.exited:
		return nil
	case <-time.After(patience):
		_ = a.cmd.Process.Kill()
		<-a.exited
		return fmt.Errorf("node %s did not end within %s and was killed", a.name, patience)
	}
}

func (a *agent) running() bool {
	if a.cmd == nil {
		return false
	}
	select {
	case <-a.exited:
		return false
	default:
		return true
	}
}

// startAll runs every node.
func (f *fleet) startAll() error {
	for _, a := range f.agents {
		if err := a.start(); err != nil {
			return err
		}
	}
	return nil
}

// stopAll ends every node and what it ran.
func (f *fleet) stopAll() {
	for _, a := range f.agents {
		_ = a.end(syscall.SIGTERM, 15*time.Second)
	}
	f.client.Close()
}

func (f *fleet) byName(name string) *agent {
	for _, a := range f.agents {
		if a.name == name {
			return a
		}
	}
	return nil
}

// leader waits until the nodes agree on a leader other than one.
func (f *fleet) leader(ctx context.Context, not string) (*client.ClusterStatus, error) {
	var last error
	for ctx.Err() == nil {
		st, err := f.client.Cluster(ctx)
		if err == nil && st.Leader != "" && st.Leader != not {
			return st, nil
		}
		last = err
		if err := wait(ctx, 5*time.Millisecond); err != nil {
			break
		}
	}
	return nil, fmt.Errorf("no leader in time: %w", errors.Join(last, ctx.Err()))
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
