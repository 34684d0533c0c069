package sim

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// convergeEvery is the time between two looks at a cluster that calms down.
const convergeEvery = 250 * time.Millisecond

// calmDown ends every fault and waits until the cluster has become what it is
// meant to be (liveness, I8).
func (w *World) calmDown(ctx context.Context) {
	began := time.Now()
	w.log.add("fault", "calm: every fault is over")
	w.weather.clear()
	w.ledger.recover()
	var wg sync.WaitGroup
	for _, m := range w.everyone() {
		m.disk.SetLatency(0)
		m.disk.Resume()
		wg.Go(func() { m.up(ctx) })
	}
	wg.Wait()
	limit, cancel := context.WithTimeout(ctx, w.opt.Calm)
	defer cancel()
	for _, m := range w.everyone() {
		if m.isRetired() {
			w.finishRemoval(limit, m)
		}
	}
	for _, m := range w.staying() {
		_ = w.insist(limit, "calm-"+m.name, fsm.DrainNode{Node: m.name})
	}
	w.plant(limit)
	var why []string
	for pause(limit, convergeEvery) == nil {
		if why = w.unsettled(); len(why) == 0 {
			w.stats.Converged = time.Since(began)
			w.finalReads()
			w.audit.verifyAll()
			return
		}
	}
	if len(why) == 0 {
		why = w.unsettled()
	}
	w.violate("liveness", "the cluster has not converged %s after the last fault: %s", w.opt.Calm, strings.Join(why, "; "))
}

// finishRemoval asks for a removal until its outcome is known. One that is
// refused leaves the node a member.
func (w *World) finishRemoval(ctx context.Context, m *machine) {
	for pause(ctx, convergeEvery) == nil {
		try, cancel := context.WithTimeout(ctx, opTimeout)
		err := w.remove(try, m)
		cancel()
		if err == nil {
			return
		}
		if !m.isRetired() {
			m.up(ctx)
			return
		}
	}
}

// unsettled says what is not yet as it is meant to be.
func (w *World) unsettled() (why []string) {
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	var first *cluster.Status
	staying := w.staying()
	var s *fsm.State
	for _, m := range staying {
		c, _ := m.process()
		if c == nil {
			say("node %s does not run", m.name)
			continue
		}
		st := c.Status()
		switch {
		case st.Problem != "" || st.DigestAlarm != "":
			say("node %s: %s%s", m.name, st.Problem, st.DigestAlarm)
		case first == nil:
			first, s = &st, c.State()
		case st.Leader != first.Leader || st.Term != first.Term:
			say("node %s follows %s in term %d, node %s %s in term %d", m.name, st.Leader, st.Term, first.Node, first.Leader, first.Term)
		case c.State().Index() != s.Index() || c.State().Digest() != s.Digest():
			say("node %s is at index %d, digest %x, node %s at %d, %x", m.name, c.State().Index(), c.State().Digest(), first.Node, s.Index(), s.Digest())
		}
	}
	if first == nil || len(why) > 0 {
		return append(why, "not all nodes agree")
	}
	w.unsettledMembers(first, staying, say)
	w.unsettledGroups(s, say)
	w.unsettledDrivers(s, say)
	return why
}

// unsettledMembers compares Raft's configuration with the machines.
func (w *World) unsettledMembers(st *cluster.Status, staying []*machine, say func(string, ...any)) {
	var names []string
	able := 0
	for _, m := range staying {
		names = append(names, m.name)
		if !m.nonVoter {
			able++
		}
	}
	voters := 0
	for _, m := range st.Members {
		if !slices.Contains(names, m.Name) {
			say("%s is a member and was removed", m.Name)
		}
		if m.Role == cluster.RoleVoter {
			voters++
		}
	}
	if len(st.Members) != len(names) {
		say("%d members, %d nodes", len(st.Members), len(names))
	}
	want := min(5, able)
	if want%2 == 0 {
		want--
	}
	if voters != want {
		say("%d voters, %d are wanted", voters, want)
	}
}

// unsettledGroups compares what the state wants with what it has.
func (w *World) unsettledGroups(s *fsm.State, say func(string, ...any)) {
	for _, g := range autoGroups() {
		row, ok := s.Groups.Get(g.Name)
		if !ok {
			say("group %s is gone", g.Name)
			continue
		}
		counts := map[string]int{}
		for _, i := range s.InstancesOf(g.Name) {
			if !i.State.Terminal() {
				counts[string(i.State)+"/"+string(i.Health)]++
			}
		}
		if len(counts) != 1 || counts["running/healthy"] != row.Desired {
			say("group %s desires %d and has %v", g.Name, row.Desired, counts)
		}
	}
	for _, m := range w.staying() {
		n, ok := s.Nodes.Get(m.name)
		if !ok || n.State != fsm.NodeStateReady {
			say("node %s is not ready in the state", m.name)
		}
	}
	if n := s.Nodes.Len(); n != len(w.staying()) {
		say("%d nodes in the state, %d there are", n, len(w.staying()))
	}
}

// unsettledDrivers compares the rows with what really runs: an orphan runs and
// has no living row, a ghost has one and does not run.
func (w *World) unsettledDrivers(s *fsm.State, say func(string, ...any)) {
	running := w.running()
	for id, i := range s.Instances.All() {
		if i.State.Terminal() {
			continue
		}
		if on := running[id]; on != i.Node {
			say("ghost: %s is %s on %s and runs on %q", id, i.State, i.Node, on)
		}
		delete(running, id)
	}
	for id, on := range running {
		say("orphan: %s runs on %s", id, on)
	}
}

// finalReads reads every register once more, from each node: what was
// acknowledged must be there.
func (w *World) finalReads() {
	for k, m := range w.live() {
		c := &caller{w: w, num: 100 + k, rng: w.chance.of(uint64(2000 + k))}
		for range 3 {
			c.read(m)
		}
	}
}

// checkLeaks sees that nothing of the nodes is left.
func (w *World) checkLeaks() {
	if left := bubbleGoroutines(); len(left) > 0 {
		w.violate("no leak", "%d goroutines are left:\n%s", len(left), strings.Join(left, "\n\n"))
	}
}
