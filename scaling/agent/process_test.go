//go:build linux

package agent_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/agent"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/drivertest"
	"github.com/pacelinehq/paceline/scaling/driver/process"
)

var errSick = errors.New("sick")

// instanceArg makes this test binary an instance.
const instanceArg = "paceline-test-instance"

// beInstance runs the instance if this process was started as one.
func beInstance() bool {
	if len(os.Args) < 2 || os.Args[1] != instanceArg {
		return false
	}
	if len(os.Args) > 2 && os.Args[2] == "crash" {
		fmt.Println("no configuration")
		os.Exit(4)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/broken", http.StatusFound) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/endless", func(w http.ResponseWriter, _ *http.Request) {
		for range 64 << 20 / 4096 { // far more than the buffers of a socket
			if _, err := w.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
		fmt.Println("somebody read all of it")
		os.Exit(5)
	})
	s := &http.Server{Addr: os.Getenv("PACELINE_ADDRESS") + ":" + os.Getenv("PORT"), Handler: mux, ReadHeaderTimeout: time.Second}
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	go func() {
		select {
		case <-term:
		case <-time.After(2 * time.Minute):
		}
		_ = s.Close()
	}()
	_ = s.ListenAndServe()
	return true
}

// real is a node with the process driver, in real time.
type real struct {
	*cluster
	name   string
	driver *process.Driver
	agent  *agent.Agent
	cfg    process.Config
	epoch  uint64
	cancel context.CancelFunc
	done   chan error
	ended  bool
}

func startReal(t testing.TB, c *cluster, name string) *real {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	n := &real{cluster: c, name: name, epoch: epoch, cfg: process.Config{
		Dir: filepath.Join(t.TempDir(), "instances"), SelfPath: self, SelfArgs: []string{instanceArg},
		PortMin: 26000, PortMax: 29999, Cgroup: "off", Allow: []string{"/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false"},
	}}
	n.start(t)
	t.Cleanup(func() { n.end(t) })
	return n
}

func (n *real) start(t testing.TB) {
	t.Helper()
	d, err := process.New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.driver = d
	n.epoch++
	n.Must(fsm.RegisterNode{Node: fsm.Node{Name: n.name, Incarnation: n.epoch, Drivers: []string{"process"}}})
	a := agent.New(agent.Config{Node: n.name, Incarnation: n.epoch, Cluster: n.cluster, Drivers: []driver.Driver{d}})
	n.agent = a
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan error, 1)
	go func() { n.done <- a.Run(ctx) }()
}

func (n *real) stop(t testing.TB) {
	t.Helper()
	n.cancel()
	<-n.done
	if err := n.driver.Close(); err != nil {
		t.Error(err)
	}
}

func (n *real) end(t testing.TB) {
	if n.ended {
		return
	}
	n.ended = true
	n.cancel()
	<-n.done
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 30*time.Second)
	defer cancel()
	list, _ := n.driver.List(ctx)
	var wg sync.WaitGroup
	for _, s := range list {
		wg.Go(func() { _, _ = n.driver.Stop(ctx, s.ID, driver.StopSpec{Term: 1 << 62, Signal: "KILL"}) })
	}
	wg.Wait()
	if err := n.driver.Close(); err != nil {
		t.Error(err)
	}
}

// withTemplate makes a cluster whose group "web" has a template.
func withTemplate(t testing.TB, change func(*fsm.Template)) *cluster {
	t.Helper()
	tpl := fsm.Template{
		Name: "app", Driver: "process", Command: fsm.SampleCommand,
		HealthCheck: &fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/healthz", Grace: fsm.Duration(20 * time.Second)},
	}
	change(&tpl)
	c := newCluster()
	c.Must(fsm.InitCluster{ID: "c1"})
	c.Must(fsm.PutTemplate{Template: tpl})
	c.Must(fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "app", MaxSize: 500}})
	return c
}

// becomes waits for an instance's state and health.
func (c *cluster) becomes(t testing.TB, id string, state fsm.InstanceState, health fsm.Health) *fsm.Instance {
	t.Helper()
	drivertest.Eventually(t, fmt.Sprintf("%s becomes %s and %s", id, state, health), func() bool {
		row := c.row(t, id)
		return row.State == state && row.Health == health
	})
	return c.row(t, id)
}

func TestRealProcesses(t *testing.T) {
	c := withTemplate(t, func(*fsm.Template) {})
	n := startReal(t, c, node)
	c.Must(fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: node}, {ID: "i2", Node: node}}})
	first := c.becomes(t, "i1", fsm.Running, fsm.Healthy)
	c.becomes(t, "i2", fsm.Running, fsm.Healthy)

	n.stop(t)
	n.start(t)
	if err := syscall.Kill(first.PID, 0); err != nil {
		t.Errorf("the instance did not outlive the agent: %v", err)
	}
	c.Must(fsm.StopInstances{Instances: []string{"i1"}})
	row := c.becomes(t, "i1", fsm.Stopped, fsm.Unknown)
	if row.PID != first.PID || !strings.HasPrefix(row.Reason, "exit status 0 after ") {
		t.Errorf("got %+v", row)
	}
	second := c.row(t, "i2")
	if err := syscall.Kill(second.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if row := c.becomes(t, "i2", fsm.Failed, fsm.Unknown); !strings.Contains(row.Reason, "signal KILL") {
		t.Errorf("got the reason %q", row.Reason)
	}
}

func TestACrashAtTheStartIsReported(t *testing.T) {
	c := withTemplate(t, func(tpl *fsm.Template) { tpl.Args = []string{"crash"} })
	startReal(t, c, node)
	c.Must(fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: node}}})
	row := c.becomes(t, "i1", fsm.Failed, fsm.Unknown)
	if !strings.HasPrefix(row.Reason, "exit status 4 after ") || !strings.HasSuffix(row.Reason, ": no configuration") {
		t.Errorf("got the reason %q", row.Reason)
	}
}

func TestHealthChecksAsTheyAre(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := closed.Addr().(*net.TCPAddr).Port
	_ = closed.Close()
	for _, k := range []struct {
		name   string
		check  fsm.HealthCheck
		reason string
	}{
		{"http", fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/healthz"}, ""},
		{"http with a redirect, which is healthy and not followed", fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/moved"}, ""},
		{"http with an endless body", fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/endless", Rise: 3}, ""},
		{"tcp", fsm.HealthCheck{Type: fsm.CheckTCP}, ""},
		{"exec", fsm.HealthCheck{Type: fsm.CheckExec, Command: []string{"/bin/true"}}, ""},
		{"rise", fsm.HealthCheck{Type: fsm.CheckTCP, Rise: 3}, ""},
		{"http with an error", fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/broken"}, "answered 418 I'm a teapot"},
		{"http that is slow", fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/slow", Timeout: fsm.Duration(50 * time.Millisecond)}, "no answer in time"},
		{"http on another port", fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/healthz", Port: port}, "connection refused"},
		{"tcp on another port", fsm.HealthCheck{Type: fsm.CheckTCP, Port: port}, "connection refused"},
		{"exec that fails", fsm.HealthCheck{Type: fsm.CheckExec, Command: []string{"/bin/false"}}, "failed: exit status 1"},
		{"exec that is not allowed", fsm.HealthCheck{Type: fsm.CheckExec, Command: []string{"/bin/sh", "-c", "true"}}, "not on this node's list"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			k.check.Interval, k.check.Grace = fsm.Duration(100*time.Millisecond), fsm.Duration(20*time.Second)
			if k.reason != "" {
				k.check.Grace = fsm.Duration(2 * time.Second)
			}
			c := withTemplate(t, func(tpl *fsm.Template) { tpl.HealthCheck = &k.check })
			startReal(t, c, node)
			c.Must(fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: node}}})
			if k.reason == "" {
				c.becomes(t, "i1", fsm.Running, fsm.Healthy)
				return
			}
			row := c.becomes(t, "i1", fsm.Failed, fsm.Unknown)
			if !strings.Contains(row.Reason, k.reason) {
				t.Errorf("got the reason %q, want %q in it", row.Reason, k.reason)
			}
		})
	}
}

// BenchmarkHundredInstances is the time from the placement of 100 processes
// on three nodes of this machine until all are healthy.
func BenchmarkHundredInstances(b *testing.B) {
	for range b.N {
		b.StopTimer()
		c := withTemplate(b, func(*fsm.Template) {})
		nodes := []string{"n1", "n2", "n3"}
		var all []*real
		for _, name := range nodes {
			all = append(all, startReal(b, c, name))
		}
		launch := fsm.LaunchInstances{Group: "web", Term: 1}
		for k, id := range many(100) {
			launch.Launches = append(launch.Launches, fsm.Launch{ID: id, Node: nodes[k%len(nodes)]})
		}
		b.StartTimer()
		c.Must(launch)
		for _, id := range many(100) {
			c.becomes(b, id, fsm.Running, fsm.Healthy)
		}
		b.StopTimer()
		for _, n := range all {
			n.end(b)
		}
	}
}
