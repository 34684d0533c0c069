package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// setup is how a section wants its proxy.
type setup struct {
	// sticky: a cookie that the proxy inserts keeps clients to an origin.
	sticky bool
	// retry: a request that an origin broke is tried again on another one.
	retry bool
	// dynamic: origins come and go while requests run.
	dynamic bool
	// clients is how many connections it has to hold.
	clients int
}

// proxy is a kind of proxy that can be measured.
type proxy interface {
	name() string
	// version runs the program; an error says that it can not be measured.
	version() (string, error)
	// lacks says what of a setup it can not do, or nothing.
	lacks(s setup) string
	// fronts reports whether the node that runs the origins is the proxy.
	fronts() bool
	// start runs it in front of the fleet's origins.
	start(ctx context.Context, dir string, f *fleet, s setup) (*front, error)
}

// front is a running proxy.
type front struct {
	addr string
	proc *proc // nil when it is the fleet's node
	pids []int
	// follow tells the proxy which origins there are now; nil when it knows.
	follow func([]instance) error
}

// stage is one proxy in front of fresh origins, for one measurement.
type stage struct {
	*front
	name  string
	fleet *fleet
	dir   string
}

// openStage starts the origins and the proxy, and gives each its processors.
func openStage(ctx context.Context, o *routeOptions, p proxy, s setup) (*stage, error) {
	dir, err := os.MkdirTemp(o.dir, p.name()+"-")
	if err != nil {
		return nil, err
	}
	st := &stage{name: p.name(), dir: dir}
	if st.fleet, err = launchFleet(ctx, o, dir, p.fronts()); err != nil {
		return nil, err
	}
	if st.front, err = p.start(ctx, dir, st.fleet, s); err != nil {
		st.close()
		return nil, err
	}
	if err := st.ready(ctx); err != nil {
		defer st.close()
		if st.proc == nil {
			return nil, fmt.Errorf("%w\n%s", err, st.fleet.agent.lastLog())
		}
		return nil, fmt.Errorf("%w\n%s", err, st.proc.lastLog())
	}
	// The origins' node stays with the load unless it is the proxy: one that
	// only runs origins takes less than a hundredth of a processor.
	if err := pin(st.pids, o.cpus.proxy); err != nil {
		st.close()
		return nil, err
	}
	return st, nil
}

// ready waits until the proxy answers with an origin's answer, and finds its
// processes.
func (st *stage) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, proxyDeadline)
	defer cancel()
	if err := poll(ctx, 5*time.Millisecond, func() bool { return answersOK("http://" + st.addr + "/") }); err != nil {
		return fmt.Errorf("%s does not answer at %s: %w", st.name, st.addr, err)
	}
	if st.proc == nil {
		st.pids = []int{st.fleet.agent.cmd.Process.Pid}
		return nil
	}
	var err error
	st.pids, err = withChildren(st.proc.cmd.Process.Pid)
	return err
}

// rssMB is the proxy's resident memory, in millions of bytes.
func (st *stage) rssMB() (float64, error) {
	sum := 0.0
	for _, pid := range st.pids {
		m, err := residentMiB(pid)
		if err != nil {
			return 0, err
		}
		sum += m * (1 << 20) / 1e6
	}
	return sum, nil
}

func (st *stage) close() {
	if st.front != nil && st.proc != nil {
		st.proc.stop()
	}
	st.fleet.stop()
	_ = os.RemoveAll(st.dir)
}

// runProxy starts a peer's process; the caller waits until it answers.
func runProxy(dir, name, binary, addr string, args ...string) (*front, error) {
	p := &proc{
		binary: binary, args: args, log: filepath.Join(dir, name+".log"),
		// Caddy keeps its own files below these; Go is to use one thread.
		env: []string{"HOME=" + dir, "XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir, "GOMAXPROCS=1"},
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	return &front{addr: addr, proc: p}, nil
}

// versionOf runs a program for the first line that it prints.
func versionOf(binary string, args ...string) (string, error) {
	text, err := outputOf(binary, args...)
	first, _, _ := strings.Cut(text, "\n")
	return strings.TrimSpace(first), err
}

func outputOf(binary string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), attemptDeadline)
	defer cancel()
	text, err := exec.CommandContext(ctx, binary, args...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", binary, strings.Join(args, " "), err)
	}
	return string(text), nil
}

// loopback is a free address for a proxy to listen on.
func loopback() (string, error) {
	ports, err := freePorts(1)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("127.0.0.1:%d", ports[0]), nil
}

// paceProxy is the proxy of this repository: the node that runs the origins,
// with its traffic listener on, and a service in the group.
type paceProxy struct{ path string }

func (p *paceProxy) name() string       { return ours }
func (p *paceProxy) fronts() bool       { return true }
func (p *paceProxy) lacks(setup) string { return "" }

func (p *paceProxy) version() (string, error) {
	help, err := outputOf(p.path, "agent", "--help")
	if err != nil {
		return "", err
	}
	if !strings.Contains(help, "--traffic-addr") {
		return "", errors.New("this binary has no proxy (its agent knows no --traffic-addr)")
	}
	return versionOf(p.path, "version")
}

func (p *paceProxy) start(ctx context.Context, _ string, f *fleet, s setup) (*front, error) {
	service := map[string]any{"balancer": map[string]any{"policy": "round_robin"}}
	if s.sticky {
		service["stickiness"] = map[string]any{"strategy": "sticky"}
	}
	return &front{addr: f.traffic}, f.put(ctx, service)
}

// cookieOf asks for a page and returns the cookie that came with it.
func cookieOf(cli *http.Client, url string) (string, error) {
	res, err := cli.Get(url)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	cookies := res.Cookies()
	if res.StatusCode != http.StatusOK || len(cookies) != 1 {
		return "", fmt.Errorf("%s: status %d with %d cookies, want one", url, res.StatusCode, len(cookies))
	}
	return cookies[0].Name + "=" + cookies[0].Value, nil
}
