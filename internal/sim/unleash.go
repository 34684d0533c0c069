package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// unleash carries out a schedule and returns when every fault is over.
func (w *World) unleash(ctx context.Context, schedule []Fault) {
	began := time.Now()
	var wg sync.WaitGroup
	defer wg.Wait()
	for k, f := range schedule {
		if pause(ctx, time.Until(began.Add(f.At))) != nil {
			return
		}
		wg.Go(func() {
			h := &hit{w: w, f: f, ctx: ctx, rng: rand.New(rand.NewPCG(f.Hit, uint64(k)))}
			w.log.add("fault", "begin "+f.String())
			h.carryOut()
			w.log.add("fault", "end   "+string(f.Kind)+h.what)
			w.mu.Lock()
			w.stats.Faults++
			w.mu.Unlock()
		})
	}
}

// hit is one fault under way.
type hit struct {
	w    *World
	f    Fault
	ctx  context.Context
	rng  *rand.Rand
	what string
}

// last waits for as long as the fault lasts. The end of the load does not cut
// it short.
func (h *hit) last() { time.Sleep(h.f.For) }

// say notes what was hit.
func (h *hit) say(format string, args ...any) { h.what += ": " + fmt.Sprintf(format, args...) }

// target is the node to hit: a founder whose process runs.
func (h *hit) target(leader bool) *machine {
	if leader || h.f.OnLeader {
		if m := h.w.leader(); m != nil {
			h.say("%s, the leader", m.name)
			return m
		}
	}
	live := h.w.live()
	if len(live) == 0 {
		return nil
	}
	m := live[h.f.Pick%uint64(len(live))]
	h.say("%s", m.name)
	return m
}

// carryOut begins the fault, lets it last, and ends it.
func (h *hit) carryOut() {
	switch h.f.Kind {
	case KillNode, KillLeader, PowerNode, Renumber:
		h.restart()
	case PowerAll, PowerMajority:
		h.powerFailure()
	case StopNode:
		if m := h.target(false); m != nil {
			m.stop()
			h.last()
			m.up(h.w.context())
		}
	case RollAll:
		h.roll()
	case Isolate, IsolateLeader, Split, OneWay, Ring, GossipCut, RaftCut, SlowNet, LossyNet:
		h.network()
	case SlowDisk, StallDisk, Freeze:
		h.disk()
	case AddNode, RemoveNode:
		h.membership()
	default:
		h.request()
	}
}

// restart ends one process, and starts it again.
func (h *hit) restart() {
	m := h.target(h.f.Kind == KillLeader)
	if m == nil {
		return
	}
	m.crash(h.f.Kind == PowerNode)
	if h.f.Kind == Renumber && h.w.mayMove(m) {
		m.renumber()
		h.w.weather.refresh()
		h.say("now at %s", m.addr())
	}
	h.last()
	m.up(h.w.context())
}

// mayMove keeps enough of the founders at the addresses that all nodes are
// told to join.
func (w *World) mayMove(m *machine) bool {
	moved := 0
	for _, o := range w.everyone() {
		o.mu.Lock()
		if o != m && o.moves > 0 {
			moved++
		}
		o.mu.Unlock()
	}
	return moved < w.opt.Nodes/2
}

// powerFailure takes the power from many machines at once. What they had on
// their disks is still there.
func (h *hit) powerFailure() {
	live := h.w.live()
	h.rng.Shuffle(len(live), func(i, j int) { live[i], live[j] = live[j], live[i] })
	if h.f.Kind == PowerMajority {
		live = live[:min(len(live), h.w.opt.Nodes/2+1)]
	}
	var wg sync.WaitGroup
	for _, m := range live {
		h.say("%s", m.name)
		pause := time.Duration(h.rng.Int64N(int64(time.Second)))
		wg.Go(func() {
			m.crash(true)
			time.Sleep(h.f.For + pause)
			m.up(h.w.context())
		})
	}
	wg.Wait()
}

// roll restarts all nodes in order, one after the other.
func (h *hit) roll() {
	for _, m := range h.w.live() {
		m.stop()
		time.Sleep(h.f.For / 4)
		m.up(h.w.context())
		time.Sleep(h.f.For / 2)
	}
}

// network makes paths bad.
func (h *hit) network() {
	cut := Path{CutStreams: true, CutPackets: true}
	bad := cut
	hits := func(from, to *machine) bool { return true }
	switch h.f.Kind {
	case Isolate, IsolateLeader:
		m := h.target(h.f.Kind == IsolateLeader)
		hits = func(from, to *machine) bool { return from == m || to == m }
	case Split:
		side := map[*machine]bool{}
		for _, m := range h.w.everyone() {
			side[m] = h.rng.IntN(2) == 0
		}
		hits = func(from, to *machine) bool { return side[from] != side[to] }
	case OneWay:
		m, out := h.target(false), h.f.Hit%2 == 0
		hits = func(from, to *machine) bool { return out && from == m || !out && to == m }
	case Ring:
		n := len(h.w.everyone())
		hits = func(from, to *machine) bool { d := (from.num - to.num + n) % n; return d != 1 && d != n-1 }
	case GossipCut:
		bad = Path{CutPackets: true}
		hits = h.some()
	case RaftCut:
		bad = Path{CutStreams: true}
		hits = h.some()
	case SlowNet:
		bad = Path{Delay: time.Duration(h.rng.IntN(60)) * time.Millisecond, Jitter: time.Duration(1+h.rng.IntN(60)) * time.Millisecond}
		hits = h.some()
	case LossyNet:
		bad = Path{Loss: 0.1 + 0.4*h.rng.Float64()}
	}
	end := h.w.weather.add(func(from, to *machine) Path {
		if hits(from, to) {
			return bad
		}
		return Path{}
	})
	h.last()
	end()
}

// some hits the paths of one node, or all of them.
func (h *hit) some() func(from, to *machine) bool {
	if h.rng.IntN(2) == 0 {
		h.say("all paths")
		return func(_, _ *machine) bool { return true }
	}
	m := h.target(false)
	return func(from, to *machine) bool { return from == m || to == m }
}

// disk makes the disk of one node slow, or hang.
func (h *hit) disk() {
	m := h.target(false)
	if m == nil {
		return
	}
	switch h.f.Kind {
	case SlowDisk:
		m.disk.SetLatency(time.Duration(5+h.rng.IntN(150)) * time.Millisecond)
		h.last()
		m.disk.SetLatency(0)
	case StallDisk:
		m.disk.Stall()
		h.last()
		m.disk.Resume()
	case Freeze:
		m.disk.Stall()
		end := h.w.weather.add(func(from, to *machine) Path {
			return Path{CutStreams: from == m || to == m, CutPackets: from == m || to == m}
		})
		h.last()
		end()
		m.disk.Resume()
	}
}

// membership adds a node for good, or replaces one by a new one.
func (h *hit) membership() {
	if len(h.w.everyone()) >= maxMachines {
		return
	}
	m := h.w.addMachine(h.f.Hit%3 == 0 && h.f.Kind == AddNode)
	h.say("%s joins", m.name)
	h.w.weather.refresh()
	m.up(h.w.context())
	if h.f.Kind == AddNode {
		return
	}
	h.last()
	if old := h.target(false); old != nil && old != m {
		ctx, cancel := context.WithTimeout(h.w.context(), opTimeout)
		defer cancel()
		h.say("%v", h.w.remove(ctx, old))
	}
}

// remove has a node taken out of the cluster for good. While the outcome is
// not known the machine counts as retired; the calm asks again.
func (w *World) remove(ctx context.Context, m *machine) error {
	err := error(fsm.Errorf(fsm.Unavailable, "node", m.name, "has nobody to ask for its removal"))
	m.retire(true)
	for _, o := range w.live() {
		c, _ := o.process()
		if o == m || c == nil {
			continue
		}
		err = c.RemoveMember(ctx, m.name)
		break
	}
	switch fsm.KindOf(err) {
	case "", fsm.NotFound:
		m.crash(true) // the machine is taken away
		return nil
	case fsm.Conflict:
		m.retire(false)
	}
	return err
}

// staying lists the machines that were not removed.
func (w *World) staying() []*machine {
	var list []*machine
	for _, m := range w.everyone() {
		if !m.isRetired() {
			list = append(list, m)
		}
	}
	return list
}

// request does what a user or an instance does at once.
func (h *hit) request() {
	m := h.target(false)
	if m == nil {
		return
	}
	c, _ := m.process()
	ctx, cancel := context.WithTimeout(fsm.WithActor(h.w.context(), "operator"), opTimeout)
	defer cancel()
	switch h.f.Kind {
	case Transfer:
		if c != nil {
			h.say("%v", c.TransferLeadership(ctx, ""))
		}
	case DrainNode:
		if c != nil {
			_, err := c.Propose(ctx, fsm.DrainNode{Node: m.name, Drain: true, Reason: "a fault"})
			h.say("%v", err)
		}
		h.last()
		err := h.w.insist(ctx, fmt.Sprintf("undrain-%d", h.f.At), fsm.DrainNode{Node: m.name})
		h.say("%v", err)
	case EndInstance, SickInstance:
		h.instance(m)
	}
}

// instance has an instance of a node end by itself, or fail its checks.
func (h *hit) instance(m *machine) {
	list, err := m.driver.List(h.ctx)
	if err != nil || len(list) == 0 {
		return
	}
	id := list[h.f.Hit%uint64(len(list))].ID
	h.say("%s", id)
	if h.f.Kind == EndInstance {
		m.driver.End(id, driver.Exit{Known: true, Code: 3}, "a fault")
		return
	}
	h.w.ledger.makeSick(id, true)
	h.last()
	h.w.ledger.makeSick(id, false)
}

// context is that of work which the end of the load does not cut short.
func (w *World) context() context.Context { return context.Background() }
