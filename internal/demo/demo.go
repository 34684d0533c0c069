// Package demo tells the story of a failover on a real cluster: three
// processes on loopback, a group of the sample application under real load,
// and the leader killed in the middle of it. What it prints was measured.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// Options of a demo.
type Options struct {
	// Binary is the paceline executable that the nodes run.
	Binary string
	// Dir is where the nodes keep their data; empty for a temporary one that
	// is removed at the end.
	Dir string
	Out io.Writer
}

// limit bounds the whole demo.
const limit = 85 * time.Second

const groupName = "web"

// story is one run.
type story struct {
	out   io.Writer
	fleet *fleet
	began time.Time
	facts []string
	loads []*load
}

// Run plays the demo and returns an error if anything in it did not happen.
func Run(ctx context.Context, o Options) (err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	dir := o.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "paceline-demo-"); err != nil {
			return err
		}
		defer func() {
			if err == nil {
				_ = os.RemoveAll(dir)
			}
		}()
	}
	f, err := newFleet(o.Binary, dir)
	if err != nil {
		return err
	}
	s := &story{out: o.Out, fleet: f, began: time.Now()}
	defer s.cleanUp()
	if err := s.play(ctx); err != nil {
		return fmt.Errorf("%w (the nodes' logs are in %s)", err, dir)
	}
	s.summary()
	return nil
}

func (s *story) play(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.form, s.declare, s.grow, s.crash, s.carryOn, s.comeBack, s.shrink,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// say prints one line of the story with the time since its beginning.
func (s *story) say(format string, args ...any) {
	fmt.Fprintf(s.out, "%6.1fs  %s\n", time.Since(s.began).Seconds(), fmt.Sprintf(format, args...))
}

func (s *story) fact(format string, args ...any) {
	s.facts = append(s.facts, fmt.Sprintf(format, args...))
}

func (s *story) heading(text string) { fmt.Fprintf(s.out, "\n%s\n", text) }

// form starts three nodes at once.
func (s *story) form(ctx context.Context) error {
	s.heading("1. Three nodes, started at the same moment, with the same configuration")
	at := time.Now()
	if err := s.fleet.startAll(); err != nil {
		return err
	}
	st, err := s.fleet.leader(ctx, "")
	if err != nil {
		return err
	}
	took := time.Since(at)
	s.say("%s leads in term %d, %s after the processes were started", st.Leader, st.Term, round(took))
	s.fact("start to leader            %s", round(took))
	return s.allReady(ctx)
}

// allReady waits until every node is registered.
func (s *story) allReady(ctx context.Context) error {
	return s.until(ctx, "every node is ready", func() (bool, error) {
		nodes, err := s.fleet.client.ListNodes(ctx)
		if err != nil {
			return false, err
		}
		ready := 0
		for _, n := range nodes.Items {
			if n.State == fsm.NodeStateReady {
				ready++
			}
		}
		return ready == nodeCount, nil
	})
}

// declare applies a template, a group and two policies.
func (s *story) declare(ctx context.Context) error {
	s.heading("2. A template, a group of 2 to 6 instances with a service, and two policies")
	c := s.fleet.client
	at := time.Now()
	_, err := c.PutTemplate(ctx, fsm.Template{
		Name: groupName, Driver: "process", Command: fsm.SampleCommand,
		Resources:   fsm.Resources{CPU: 0.2, MemoryMiB: 64},
		HealthCheck: &fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/healthz", Interval: fsm.Duration(time.Second), Timeout: fsm.Duration(2 * time.Second), Fall: 5},
		// A second in which draining sessions move before the process is told to end.
		Stop: &fsm.Stop{Grace: fsm.Duration(time.Second), Timeout: fsm.Duration(3 * time.Second)},
	})
	if err != nil {
		return err
	}
	if _, err := c.PutGroup(ctx, fsm.Group{
		Name: groupName, Template: groupName, MinSize: 2, MaxSize: 6, Desired: 2,
		Service: &fsm.Service{Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable}},
	}); err != nil {
		return err
	}
	for _, p := range []fsm.Policy{
		{Name: "busy", Metric: "cpu", Operator: fsm.Greater, Threshold: 60, EvaluationPeriods: 2, Direction: fsm.Up, Adjustment: 2, Cooldown: fsm.Duration(4 * time.Second)},
		{Name: "quiet", Metric: "cpu", Operator: fsm.Less, Threshold: 15, EvaluationPeriods: 3, Direction: fsm.Down, Adjustment: 2, Cooldown: fsm.Duration(4 * time.Second)},
	} {
		p.Group = groupName
		if _, err := c.PutPolicy(ctx, p); err != nil {
			return err
		}
	}
	st, err := s.size(ctx, func(st *client.GroupStatus) bool { return st.Healthy == 2 }, "2 healthy instances")
	if err != nil {
		return err
	}
	s.say("%d instances healthy %s after the group was declared, on %s", st.Healthy, round(time.Since(at)), places(st))
	return nil
}

// addLoad drives requests at the group that burn so much of a core.
func (s *story) addLoad(ctx context.Context, perSecond int) {
	s.loads = append(s.loads, startLoad(ctx, s.fleet.proxies(), perSecond, workMs))
}

// workMs is the CPU time that one request of the load takes.
const workMs = 15

// grow drives load until the autoscaler has doubled the group.
func (s *story) grow(ctx context.Context) error {
	s.heading("3. Load worth 0.45 cores, on instances of 0.2 cores each: the group grows")
	s.addLoad(ctx, 30)
	at := time.Now()
	st, err := s.size(ctx, func(st *client.GroupStatus) bool { return st.Healthy >= 4 }, "4 healthy instances under load")
	if err != nil {
		return err
	}
	s.say("%d instances healthy %s after the load began, on %s", st.Healthy, round(time.Since(at)), places(st))
	s.fact("load to twice the size     %s", round(time.Since(at)))
	return s.why(ctx, "busy")
}

// carryOn adds load, so that the new leader has to scale as well.
func (s *story) carryOn(ctx context.Context) error {
	s.heading("5. More load: the next leader scales on, with one node missing")
	s.addLoad(ctx, 30)
	st, err := s.size(ctx, func(st *client.GroupStatus) bool { return st.Healthy >= 6 }, "6 healthy instances under more load")
	if err != nil {
		return err
	}
	s.say("%d instances healthy, on %s", st.Healthy, places(st))
	return s.why(ctx, "busy")
}

// why prints the newest decision that a policy won.
func (s *story) why(ctx context.Context, policy string) error {
	list, err := s.fleet.client.Decisions(ctx, groupName)
	if err != nil {
		return err
	}
	for _, d := range list.Items {
		if d.Winner == policy && d.From != d.To {
			s.say("why: %d → %d, %s", d.From, d.To, d.Reason)
			return nil
		}
	}
	return fmt.Errorf("no decision of the policy %s is recorded", policy)
}

// crash kills the leader while writes go on, and waits for the next one.
func (s *story) crash(ctx context.Context) error {
	s.heading("4. SIGKILL for the leader, while 100 writes a second go on")
	before, err := s.fleet.leader(ctx, "")
	if err != nil {
		return err
	}
	p := startProbe(ctx, s.fleet.client)
	ended := false
	defer func() {
		if !ended {
			p.stop()
		}
	}()
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	st, err := s.fleet.client.GroupStatus(ctx, groupName)
	if err != nil {
		return err
	}
	sessions := s.sessionsBut(st, before.Leader)
	at := time.Now()
	if err := s.fleet.byName(before.Leader).kill(); err != nil {
		return err
	}
	s.say("%s, the leader of term %d, is dead", before.Leader, before.Term)
	after, err := s.fleet.leader(ctx, before.Leader)
	if err != nil {
		return err
	}
	if err := wait(ctx, 2*time.Second); err != nil {
		return err
	}
	ended = true
	p.end(ctx)
	first, gap, failed, total := p.failover(at)
	s.say("%s leads in term %d", after.Leader, after.Term)
	s.say("first write acknowledged %s after the kill; longest pause %s; %d of %d writes failed", round(first), round(gap), failed, total)
	s.fact("SIGKILL to next write      %s (longest pause %s), %d of %d writes failed", round(first), round(gap), failed, total)
	if failed > 0 || first == 0 {
		return errors.New("writes were lost to the failover")
	}
	st, err = s.size(ctx, func(st *client.GroupStatus) bool {
		return st.Healthy >= st.Desired && !onNode(st, before.Leader)
	}, "the dead node's instances to be replaced")
	if err != nil {
		return err
	}
	s.say("its instances are replaced %s after the kill: %d healthy on %s", round(time.Since(at)), st.Healthy, places(st))
	s.fact("SIGKILL to full strength   %s", round(time.Since(at)))
	return s.checkSessions(sessions)
}

// comeBack starts the dead node again and waits until it has caught up.
func (s *story) comeBack(ctx context.Context) error {
	s.heading("6. The dead node comes back")
	for _, a := range s.fleet.agents {
		if a.running() {
			continue
		}
		at := time.Now()
		if err := a.start(); err != nil {
			return err
		}
		if err := s.caughtUp(ctx, a); err != nil {
			return err
		}
		s.say("%s is ready and holds what the others hold, %s after its start", a.name, round(time.Since(at)))
		s.fact("restart to caught up       %s", round(time.Since(at)))
	}
	return s.allReady(ctx)
}

// caughtUp compares the node's own state with the leader's.
func (s *story) caughtUp(ctx context.Context, a *agent) error {
	own, err := client.New(client.Config{Endpoints: []string{a.api}})
	if err != nil {
		return err
	}
	defer own.Close()
	return s.until(ctx, a.name+" to catch up", func() (bool, error) {
		all, err := s.fleet.client.Cluster(ctx)
		if err != nil {
			return false, err
		}
		st, err := own.Cluster(ctx)
		if err != nil {
			return false, nil //nolint:nilerr // it is still starting
		}
		ready, err := own.Ready(ctx)
		return err == nil && ready.Ready && st.Index >= all.Index && st.Leader == all.Leader, nil
	})
}

// shrink waits until the quiet group is at its least size again.
func (s *story) shrink(ctx context.Context) error {
	s.heading("7. Quiet: the group shrinks again")
	var sent, failed, retried int64
	for _, l := range s.loads {
		l.end()
		sent, failed, retried = sent+l.sent.Load(), failed+l.failed.Load(), retried+l.retried.Load()
	}
	s.fact("requests through 3 proxies %d, %d failed, %d sent again to another node", sent, failed, retried)
	if failed > 0 {
		return fmt.Errorf("%d of %d requests failed", failed, sent)
	}
	at := time.Now()
	st, err := s.size(ctx, func(st *client.GroupStatus) bool { return st.Desired == 2 && st.Current == 2 && st.Healthy == 2 }, "the group to shrink")
	if err != nil {
		return err
	}
	s.say("back to %d instances %s later, on %s", st.Healthy, round(time.Since(at)), places(st))
	return s.why(ctx, "quiet")
}

func (s *story) summary() {
	s.heading("Summary")
	for _, f := range s.facts {
		fmt.Fprintf(s.out, "  %s\n", f)
	}
	fmt.Fprintf(s.out, "  whole demo                 %s\n", round(time.Since(s.began)))
}

// cleanUp ends the group, then the nodes, so that nothing is left running.
func (s *story) cleanUp() {
	for _, l := range s.loads {
		l.end()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	pids := s.instancePIDs(ctx)
	if len(pids) > 0 {
		if _, err := s.fleet.client.DeleteGroup(ctx, groupName); err == nil {
			_ = s.until(ctx, "the group to end", func() (bool, error) {
				_, err := s.fleet.client.GetGroup(ctx, groupName)
				return err != nil, nil //nolint:nilerr // gone is what is waited for
			})
		}
	}
	s.fleet.stopAll()
	endLeftovers(pids)
}

func (s *story) instancePIDs(ctx context.Context) []int {
	var pids []int
	if list, err := s.fleet.client.ListInstances(ctx); err == nil {
		for _, i := range list.Items {
			if i.PID > 0 {
				pids = append(pids, i.PID)
			}
		}
	}
	return pids
}

// endLeftovers kills instances that outlived their nodes. A pid is checked
// against the instance's environment first: it may belong to somebody else by
// now.
func endLeftovers(pids []int) {
	for _, pid := range pids {
		env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil || !strings.Contains(string(env), "PACELINE_GROUP="+groupName) {
			continue
		}
		if p, err := os.FindProcess(pid); err == nil {
			_ = p.Kill()
		}
	}
}

// size waits until the group's status satisfies ok, and prints it when it
// changes.
func (s *story) size(ctx context.Context, ok func(*client.GroupStatus) bool, what string) (*client.GroupStatus, error) {
	var last string
	var got *client.GroupStatus
	err := s.until(ctx, what, func() (bool, error) {
		st, err := s.fleet.client.GroupStatus(ctx, groupName)
		if err != nil {
			return false, err
		}
		line := fmt.Sprintf("desired %d, running %d, healthy %d", st.Desired, st.Running, st.Healthy)
		if line != last && !ok(st) {
			s.say("%s", line)
		}
		last, got = line, st
		return ok(st), nil
	})
	return got, err
}

// until asks ten times a second whether something has happened.
func (s *story) until(ctx context.Context, what string, ok func() (bool, error)) error {
	var last error
	for {
		done, err := ok()
		if done {
			return nil
		}
		last = err
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("waited in vain for %s: %w", what, errors.Join(err, last))
		}
	}
}

func onNode(st *client.GroupStatus, node string) bool {
	for _, i := range st.Instances {
		if i.Node == node && !i.State.Terminal() {
			return true
		}
	}
	return false
}

// places counts the healthy instances of each node.
func places(st *client.GroupStatus) string {
	count := map[string]int{}
	var names []string
	for _, i := range st.Instances {
		if i.State != fsm.Running {
			continue
		}
		if count[i.Node] == 0 {
			names = append(names, i.Node)
		}
		count[i.Node]++
	}
	parts := make([]string, len(names))
	for k, n := range names {
		parts[k] = fmt.Sprintf("%s×%d", n, count[n])
	}
	return strings.Join(parts, " ")
}

func round(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(100 * time.Millisecond)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}
