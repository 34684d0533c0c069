//go:build linux

package process_test

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/drivertest"
	"github.com/pacelinehq/paceline/scaling/driver/process"
)

// helperArg makes this test binary an instance instead of a test.
const helperArg = "paceline-test-instance"

// helperLife bounds an instance that a failed test has left behind.
const helperLife = 2 * time.Minute

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == helperArg {
		os.Exit(beInstance(os.Args[2], os.Args[3:]))
	}
	goleak.VerifyTestMain(m)
}

// beInstance is the main function of the instances of these tests.
func beInstance(mode string, args []string) int {
	switch mode {
	case "exit":
		fmt.Println("bye")
		return 3
	case "ignore":
		signal.Ignore(syscall.SIGTERM)
	case "env":
		for _, kv := range os.Environ() {
			fmt.Println(kv)
		}
		wd, _ := os.Getwd()
		fmt.Println("wd=" + wd)
	case "listen":
		l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("PACELINE_ADDRESS"), os.Getenv("PORT")))
		if err != nil {
			fmt.Println(err)
			return 1
		}
		defer l.Close() //nolint:errcheck // the process ends
	case "family":
		haveChildren(args)
	case "spam":
		spam(args)
	case "drip":
		for range 200 {
			fmt.Println("a drop")
			<-time.After(5 * time.Millisecond)
		}
	case "memory":
		eat()
	case "burn":
		go burn()
	}
	fmt.Println("hello")
	term := make(chan os.Signal, 1)
	if mode != "ignore" {
		signal.Notify(term, syscall.SIGTERM)
	}
	select {
	case <-term:
	case <-time.After(helperLife):
	}
	return 0
}

// haveChildren starts one child in this group, one that leaves the session, and
// one that leaves the group and takes no environment along.
func haveChildren(args []string) {
	self, _ := os.Executable()
	for _, c := range []struct {
		attr syscall.SysProcAttr
		env  []string
	}{
		{syscall.SysProcAttr{}, nil},
		{syscall.SysProcAttr{Setsid: true}, nil},
		{syscall.SysProcAttr{Setpgid: true}, []string{"A=B"}},
	} {
		cmd := exec.Command(self, helperArg, "ignore")
		cmd.SysProcAttr, cmd.Env = &c.attr, c.env
		if err := cmd.Start(); err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println("child", cmd.Process.Pid)
	}
	if slices.Contains(args, "leave") {
		os.Exit(3)
	}
}

// spam writes numbered lines, as many as asked for.
func spam(args []string) {
	n, _ := strconv.Atoi(args[0])
	w := bufio.NewWriter(os.Stdout)
	defer w.Flush() //nolint:errcheck // a test output
	for k := range n {
		_, _ = fmt.Fprintf(w, "line %06d\n", k)
	}
}

// eat uses memory until something ends the process; it stops at 256 MiB.
func eat() {
	var all [][]byte
	for range 256 {
		b := make([]byte, 1<<20)
		for k := 0; k < len(b); k += 4096 {
			b[k] = 1
		}
		all = append(all, b)
	}
	fmt.Println("ate", len(all))
}

// burn uses one core for a while.
func burn() {
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		for k := range 1 << 16 {
			_ = k
		}
	}
}

// node is a driver with what a test needs to open it again.
type node struct {
	*process.Driver
	cfg process.Config
}

func open(t *testing.T, change ...func(*process.Config)) *node {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := process.Config{
		Dir: filepath.Join(t.TempDir(), "instances"), SelfPath: self, SelfArgs: []string{helperArg},
		PortMin: 21000, PortMax: 25999, Cgroup: "off", LogEvery: time.Hour,
	}
	for _, f := range change {
		f(&cfg)
	}
	n := &node{cfg: cfg}
	n.reopen(t)
	t.Cleanup(func() { n.end(t) })
	return n
}

// reopen is a restart of the node process.
func (n *node) reopen(t *testing.T) *process.Driver {
	t.Helper()
	if n.Driver != nil {
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	d, err := process.New(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	n.Driver = d
	return d
}

// end kills what runs.
func (n *node) end(t *testing.T) {
	list, err := n.List(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, s := range list {
		if _, err := n.Stop(contextForCleanup(t), s.ID, driver.StopSpec{Term: 1 << 62, Signal: "KILL"}); err != nil {
			t.Errorf("clean up %s: %v", s.ID, err)
		}
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

func sample(id string, args ...string) driver.Spec {
	return driver.Spec{ID: id, Group: "web", Node: "n1", Zone: "a", Term: 1, Command: "@sample", Args: args}
}

func (n *node) run(t *testing.T, s driver.Spec) driver.Status {
	t.Helper()
	st, err := n.Start(t.Context(), s)
	if err != nil {
		t.Fatalf("start %s: %v", s.ID, err)
	}
	return st
}

// output returns the log of an instance once it contains some text.
func (n *node) output(t *testing.T, id, text string) string {
	t.Helper()
	var all string
	drivertest.Eventually(t, id+" writes "+text, func() bool {
		c, err := n.Logs(t.Context(), id, driver.LogQuery{})
		all = string(c.Data)
		return err == nil && strings.Contains(all, text)
	})
	return all
}

func TestConformance(t *testing.T) {
	drivertest.Run(t, func(t *testing.T) *drivertest.Harness {
		n := open(t, func(c *process.Config) { c.Allow = []string{filepath.Join(t.TempDir()) + "/"} })
		return &drivertest.Harness{
			Driver: n.Driver,
			Spec: func(_ *testing.T, id string, b drivertest.Behaviour) driver.Spec {
				switch b {
				case drivertest.Exits:
					return sample(id, "exit")
				case drivertest.IgnoresStop:
					return sample(id, "ignore")
				case drivertest.Forbidden:
					return driver.Spec{ID: id, Term: 1, Command: "/bin/sh"}
				case drivertest.Missing:
					return driver.Spec{ID: id, Term: 1, Command: n.cfg.Allow[0] + "nothing"}
				}
				return sample(id, "serve")
			},
			Reopen: func(t *testing.T) driver.Driver { return n.reopen(t) },
		}
	})
}
