package sim

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

type raftLog = raft.Log

// driverName is what the templates of a run call their driver.
const driverName = "fake"

// hands are the driver as one process of a node has it: they fall off when
// the process crashes, while the instances run on.
type hands struct {
	*fake.Driver
	m     *machine
	epoch int
}

// errNoProcess is what a crashed process gets: it can not act any more.
var errNoProcess = fsm.Errorf(fsm.Unavailable, "node", "", "has crashed")

func (h *hands) gone() bool { return !h.m.same(h.epoch) }

// Start implements [driver.Driver].
func (h *hands) Start(ctx context.Context, s driver.Spec) (driver.Status, error) {
	if h.gone() {
		return driver.Status{}, errNoProcess
	}
	return h.Driver.Start(context.WithValue(ctx, handsKey{}, h), s)
}

// Stop implements [driver.Driver].
func (h *hands) Stop(ctx context.Context, id string, s driver.StopSpec) (driver.Status, error) {
	if h.gone() {
		return driver.Status{}, errNoProcess
	}
	if h.m.w.opt.Bug == BugLeftOver {
		return driver.Status{ID: id, Phase: driver.Ended}, nil
	}
	return h.Driver.Stop(ctx, id, s)
}

// Remove implements [driver.Driver].
func (h *hands) Remove(ctx context.Context, id string) error {
	if h.gone() {
		return errNoProcess
	}
	return h.Driver.Remove(ctx, id)
}

type handsKey struct{}

// launching is called for each launch that is about to happen.
func (m *machine) launching(ctx context.Context, s driver.Spec) error {
	h, ok := ctx.Value(handsKey{}).(*hands)
	if !ok || h.gone() {
		return errNoProcess
	}
	index := uint64(0)
	if c, _ := m.process(); c != nil {
		index = c.State().Index()
	}
	m.w.ledger.launch(launch{id: s.ID, group: s.Group, node: m.name, term: s.Term, index: index, at: time.Since(m.w.began)})
	return nil
}

// launch is one real start of an instance.
type launch struct {
	id, group, node string
	term            uint64
	// index is that of the node's own state at the launch.
	index uint64
	at    time.Duration
}

// String describes the launch.
func (l launch) String() string {
	return fmt.Sprintf("instance %s of %s on %s at %s, state %d", l.id, l.group, l.node, l.at, l.index)
}

// ledger knows every launch on every machine, and which instances are sick.
type ledger struct {
	w  *World
	mu sync.Mutex
	// first is the first launch of each instance.
	first map[string]launch
	all   []launch
	sick  map[string]bool
}

func newLedger(w *World) *ledger {
	return &ledger{w: w, first: map[string]launch{}, sick: map[string]bool{}}
}

// launch records a launch; an instance is launched at most once, for ever and
// on all machines together.
func (l *ledger) launch(n launch) {
	l.mu.Lock()
	before, twice := l.first[n.id]
	if !twice {
		l.first[n.id] = n
	}
	l.all = append(l.all, n)
	l.mu.Unlock()
	if twice {
		l.w.violate("launched once", "%s was launched before: %s", n, before)
	}
}

// launches returns all launches.
func (l *ledger) launches() []launch {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]launch(nil), l.all...)
}

// check is the health check of every instance.
func (l *ledger) check(_ context.Context, id string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sick[id] {
		return fsm.Errorf(fsm.Unavailable, "instance", id, "is sick")
	}
	return nil
}

// makeSick has an instance fail its health checks until it is well again.
func (l *ledger) makeSick(id string, sick bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if sick {
		l.sick[id] = true
	} else {
		delete(l.sick, id)
	}
}

// recover makes all instances well.
func (l *ledger) recover() {
	l.mu.Lock()
	defer l.mu.Unlock()
	maps.DeleteFunc(l.sick, func(string, bool) bool { return true })
}

// running lists the instances that really run, by machine.
func (w *World) running() map[string]string {
	out := map[string]string{}
	for _, m := range w.everyone() {
		list, err := m.driver.List(context.Background())
		if err != nil {
			continue
		}
		for _, st := range list {
			if st.Phase == driver.Running {
				out[st.ID] = m.name
			}
		}
	}
	return out
}
