//go:build linux

package process_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/drivertest"
	"github.com/pacelinehq/paceline/scaling/driver/process"
)

// intentOnly makes an instance's record look as it does when the node dies
// between the start and the note of the pid.
func (n *node) intentOnly(t *testing.T, id string) {
	t.Helper()
	path := filepath.Join(n.cfg.Dir, id, "state.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rec map[string]any
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	rec["step"] = "intent"
	delete(rec, "pid")
	delete(rec, "start")
	if b, err = json.Marshal(rec); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAnIntentWithoutPIDFindsItsProcess(t *testing.T) {
	n := open(t)
	first := n.run(t, sample("a", "serve"))
	n.output(t, "a", "hello")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.intentOnly(t, "a")
	n.reopen(t)
	st := n.run(t, sample("a", "serve"))
	if st.PID != first.PID || !st.Adopted || st.Address != first.Address {
		t.Errorf("got %+v, want the process %+v", st, first)
	}
	end, err := n.Stop(t.Context(), "a", driver.StopSpec{Term: 1, Timeout: 20 * time.Second})
	if err != nil || end.Phase != driver.Ended || lives(first.PID) {
		t.Errorf("not stopped: %+v, %v", end, err)
	}
}

func TestAnUnreadableRecordFindsItsProcess(t *testing.T) {
	n := open(t)
	first := n.run(t, sample("a", "serve"))
	n.output(t, "a", "hello")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(n.cfg.Dir, "a", "state.json"), 0); err != nil {
		t.Fatal(err)
	}
	n.reopen(t)
	if st, ok, _ := driver.Find(t.Context(), n, "a"); !ok || st.PID != first.PID || st.Phase != driver.Running {
		t.Errorf("got %+v, want the process %+v", st, first)
	}
}

func TestAnIntentWithoutProcessHasEnded(t *testing.T) {
	n := open(t)
	st := n.run(t, sample("a", "serve"))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	n.intentOnly(t, "a")
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	drivertest.Eventually(t, "the process is gone", func() bool { return !lives(st.PID) })
	n.reopen(t)
	end, err := n.Wait(t.Context(), "a")
	if err != nil || end.Phase != driver.Ended {
		t.Fatalf("got %+v, %v", end, err)
	}
	if !strings.Contains(end.Reason(), "gone when the node came back") {
		t.Errorf("got the reason %q", end.Reason())
	}
	_, err = n.Start(t.Context(), sample("a", "serve"))
	if fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("it may have run, and was started again: %v", err)
	}
}

func TestARecycledPIDIsNotAdoptedNorKilled(t *testing.T) {
	n := open(t)
	n.run(t, sample("a", "exit"))
	if _, err := n.Wait(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	other := exec.Command(self, helperArg, "serve")
	other.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Process.Kill(); _ = other.Wait() }()
	path := filepath.Join(n.cfg.Dir, "a", "state.json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rec map[string]any
	_ = json.Unmarshal(b, &rec)
	rec["step"], rec["pid"] = "started", other.Process.Pid
	b, _ = json.Marshal(rec)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.reopen(t)
	if st, _, _ := driver.Find(t.Context(), n, "a"); st.Phase != driver.Ended {
		t.Errorf("adopted a stranger: %+v", st)
	}
	if !lives(other.Process.Pid) {
		t.Error("killed a stranger")
	}
}

func TestAnotherBootHasNoProcesses(t *testing.T) {
	n := open(t)
	st := n.run(t, sample("a", "serve"))
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(n.cfg.Dir, "a", "state.json")
	b, _ := os.ReadFile(path)
	var rec map[string]any
	_ = json.Unmarshal(b, &rec)
	rec["boot"] = "another"
	b, _ = json.Marshal(rec)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	n.reopen(t)
	end, _, _ := driver.Find(t.Context(), n, "a")
	if end.Phase != driver.Ended || !strings.Contains(end.Reason(), "the machine or container was restarted") {
		t.Errorf("got %+v: %s", end, end.Reason())
	}
	// The pid of another boot is a stranger's; here it is still the child, by
	// construction, and the environment tells whose it is.
	drivertest.Eventually(t, "what carries the instance's name is gone", func() bool { return !lives(st.PID) })
}

func TestTheExitOfAnAdoptedProcessIsNoticed(t *testing.T) {
	n := open(t)
	st := n.run(t, sample("a", "serve"))
	n.output(t, "a", "hello")
	n.reopen(t)
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	end, err := n.Wait(t.Context(), "a")
	if err != nil || end.Phase != driver.Ended {
		t.Errorf("got %+v, %v", end, err)
	}
}

// TestAProcessOutlivesItsNode runs the driver in another process, kills that
// with KILL, and adopts what it has started: a real death of a node, after
// which the instance is nobody's child.
func TestAProcessOutlivesItsNode(t *testing.T) {
	n := open(t)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	self, _ := os.Executable()
	host := exec.Command(self, "-test.run=^TestHostForAnotherProcess$", "-test.v")
	host.Env = append(os.Environ(), "HOST_DIR="+n.cfg.Dir)
	out, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	for word := ""; word != "started"; {
		if _, err := fmt.Fscan(out, &word); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	_ = host.Process.Kill()
	_ = host.Wait()
	if !lives(pid) {
		t.Fatal("the instance died with its node")
	}
	n.reopen(t)
	st := n.run(t, sample("a", "serve"))
	if st.PID != pid || !st.Adopted {
		t.Errorf("got %+v, want an adopted process %d", st, pid)
	}
	end, err := n.Stop(t.Context(), "a", driver.StopSpec{Term: 1, Timeout: 20 * time.Second})
	if err != nil || end.Phase != driver.Ended || lives(pid) {
		t.Errorf("got %+v, %v", end, err)
	}
}

// TestHostForAnotherProcess is the node that TestAProcessOutlivesItsNode
// kills; by itself it does nothing.
func TestHostForAnotherProcess(t *testing.T) {
	dir := os.Getenv("HOST_DIR")
	if dir == "" {
		t.Skip("this is a part of TestAProcessOutlivesItsNode")
	}
	self, _ := os.Executable()
	d, err := process.New(process.Config{
		Dir: dir, SelfPath: self, SelfArgs: []string{helperArg}, PortMin: 21000, PortMax: 25999, Cgroup: "off",
	})
	if err != nil {
		t.Fatal(err)
	}
	st, err := d.Start(t.Context(), sample("a", "serve"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("started", st.PID)
	_, _ = d.Wait(t.Context(), "a")
}

func TestTwoDriversDoNotShareADirectory(t *testing.T) {
	n := open(t)
	d, err := process.New(n.cfg)
	if fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("got %v, %v", d, err)
	}
}

func TestAllThatAnInstanceStartedEndsWithIt(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		end  func(t *testing.T, n *node)
	}{
		{"when it is stopped", nil, func(t *testing.T, n *node) {
			if _, err := n.Stop(t.Context(), "a", driver.StopSpec{Term: 1, Timeout: 20 * time.Second}); err != nil {
				t.Fatal(err)
			}
		}},
		{"when it ends by itself", []string{"leave"}, func(*testing.T, *node) {}},
		{"when it is stopped after an adoption", nil, func(t *testing.T, n *node) {
			n.reopen(t)
			if _, err := n.Stop(t.Context(), "a", driver.StopSpec{Term: 1, Timeout: 20 * time.Second}); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := open(t)
			n.run(t, sample("a", append([]string{"family"}, c.args...)...))
			pids := children(n.output(t, "a", "child"))
			if len(c.args) == 0 {
				pids = children(n.output(t, "a", "hello"))
			}
			c.end(t, n)
			if _, err := n.Wait(t.Context(), "a"); err != nil {
				t.Fatal(err)
			}
			for _, pid := range children(n.output(t, "a", "child")) {
				// The kernel takes a moment to end what was killed.
				eventually(t, fmt.Sprintf("the end of child %d of %v", pid, pids), func() bool { return !lives(pid) })
			}
		})
	}
}

// TestAnotherDriversInstanceOfTheSameNameIsNotTouched has two drivers on one
// machine: what carries the name of an instance is not enough to end it.
func TestAnotherDriversInstanceOfTheSameNameIsNotTouched(t *testing.T) {
	a, b := open(t), open(t)
	other := a.run(t, sample("a", "serve"))
	a.output(t, "a", "hello")
	b.run(t, sample("a", "exit"))
	if _, err := b.Wait(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if !lives(other.PID) {
		t.Error("one driver ended an instance of the other")
	}
}

func TestTheNodeMayStopWhileInstancesRun(t *testing.T) {
	n := open(t)
	st := n.run(t, sample("a", "serve"))
	waited := make(chan error, 1)
	go func() {
		_, err := n.Wait(t.Context(), "a")
		waited <- err
	}()
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-waited; fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("the wait ended with %v", err)
	}
	if !lives(st.PID) {
		t.Error("the instance ended with the driver")
	}
	if _, err := n.Start(t.Context(), sample("b", "serve")); fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("started on a closed driver: %v", err)
	}
	n.reopen(t)
}

func TestPorts(t *testing.T) {
	busy := between(t)
	defer busy.Close() //nolint:errcheck // a test
	taken := busy.Addr().(*net.TCPAddr).Port
	n := open(t, func(c *process.Config) { c.PortMin, c.PortMax = taken-1, taken+1 })

	s := sample("fixed", "listen")
	s.Port = taken
	if _, err := n.Start(t.Context(), s); fsm.KindOf(err) != fsm.Conflict || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("a port in use: got %v", err)
	}
	seen := map[string]string{}
	for _, id := range []string{"a", "b", "c", "d"} {
		st, err := n.Start(t.Context(), sample(id, "listen"))
		if err != nil {
			if fsm.KindOf(err) != fsm.Exhausted {
				t.Errorf("%s: got %v", id, err)
			}
			continue
		}
		if other, twice := seen[st.Address]; twice || st.Address == busy.Addr().String() {
			t.Errorf("%s and %s both have %s", id, other, st.Address)
		}
		seen[st.Address] = id
	}
	if len(seen) == 0 || len(seen) > 2 {
		t.Errorf("3 ports, one in use: got %v", seen)
	}
}

func TestAPortIsKeptAndGivenBack(t *testing.T) {
	n := open(t, func(c *process.Config) {
		p := freePort(t)
		c.PortMin, c.PortMax = p, p
	})
	n.run(t, sample("a", "serve")) // does not listen: only the driver knows of its port
	refused := func(when string) {
		t.Helper()
		if _, err := n.Start(t.Context(), sample("b", "serve")); fsm.KindOf(err) != fsm.Exhausted {
			t.Errorf("%s: got %v", when, err)
		}
	}
	refused("while it runs")
	other := open(t, func(c *process.Config) { c.PortMin, c.PortMax = n.cfg.PortMin, n.cfg.PortMax })
	if _, err := other.Start(t.Context(), sample("x", "serve")); fsm.KindOf(err) != fsm.Exhausted {
		t.Errorf("another node on the machine: got %v", err)
	}
	n.reopen(t)
	refused("after an adoption")
	if _, err := n.Stop(t.Context(), "a", driver.StopSpec{Term: 1, Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	n.run(t, sample("c", "serve"))
}

// between listens on a port whose two neighbours are free, below the ports
// that the kernel gives out.
func between(t *testing.T) net.Listener {
	t.Helper()
	listen := func(port int) net.Listener {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return nil
		}
		return l
	}
	for port := 12001; port < 15000; port += 3 {
		all := []net.Listener{listen(port - 1), listen(port), listen(port + 1)}
		for k, l := range all {
			if l != nil && (k != 1 || slices.Contains(all, nil)) {
				_ = l.Close()
			}
		}
		if !slices.Contains(all, nil) {
			return all[1]
		}
	}
	t.Fatal("no three ports in a row are free")
	return nil
}

func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		// Below the ports that the system gives to outgoing connections, one
		// of which could take it meanwhile.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(10_000)))
		if err == nil {
			defer l.Close() //nolint:errcheck // a test
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no free port")
	return 0
}
