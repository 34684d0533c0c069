package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// port is what a client needs of a node.
type port interface {
	Propose(ctx context.Context, c fsm.Command) (fsm.Result, error)
	StrongState(ctx context.Context) (*fsm.State, error)
	State() *fsm.State
}

// Bounds of the load.
const (
	opsPerRegister = 60 // writes; then the clients go on with a fresh one
	registerKinds  = 4  // registers in use at the same time
	maxTries       = 6  // of a write with a request id
	maxValue       = 9000
)

// registers hands out the registers in use, and fresh values for them.
type registers struct {
	mu    sync.Mutex
	ops   [registerKinds]int
	gen   [registerKinds]int
	value [registerKinds]int
}

// pick chooses a register and a value that was never written to it.
func (r *registers) pick(k int) (key string, value int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ops[k]++; r.ops[k] > opsPerRegister {
		r.ops[k], r.value[k] = 1, 0
		r.gen[k]++
	}
	r.value[k]++
	kind := "size"
	if k%2 == 1 {
		kind = "label"
	}
	return fmt.Sprintf("%s-%d-%d", kind, k, r.gen[k]), r.value[k]
}

// caller does one operation after the other, on random nodes.
type caller struct {
	w   *World
	num int
	rng *rand.Rand
	seq int
}

func (w *World) newCaller(num int) *caller {
	return &caller{w: w, num: num, rng: w.chance.of(1000 + uint64(num))}
}

func (c *caller) run(ctx context.Context) {
	for pause(ctx, time.Duration(5+c.rng.IntN(145))*time.Millisecond) == nil {
		m := c.node()
		if m == nil {
			continue
		}
		switch k := c.rng.IntN(100); {
		case k < 32:
			c.read(m)
		case k < 37:
			c.peek(m)
		case k < 38:
			c.user(m)
		default:
			c.write(m)
		}
	}
}

// node picks a node whose process runs.
func (c *caller) node() *machine {
	live := c.w.live()
	if len(live) == 0 {
		return nil
	}
	return live[c.rng.IntN(len(live))]
}

// newOp makes the next operation of the client.
func (c *caller) newOp(m *machine, v verb) *op {
	c.seq++
	return &op{id: fmt.Sprintf("c%d-%d", c.num, c.seq), client: c.num, node: m.name, verb: v}
}

// read asks for an up-to-date state and notes what it says of the registers in
// use.
func (c *caller) read(m *machine) {
	p, epoch := c.w.portOf(m)
	if p == nil {
		return
	}
	o := c.newOp(m, verbRead)
	c.w.history.begin(o)
	ctx, cancel := context.WithTimeout(context.Background(), opTimeout)
	defer cancel()
	s, err := p.StrongState(ctx)
	o.fate, o.kind = fateOK, fsm.KindOf(err)
	if err != nil || !m.same(epoch) {
		o.fate = fateUnknown
	} else {
		o.index, o.read = s.Index(), c.w.registers.readAll(s)
	}
	c.w.history.end(o)
}

// peek reads without asking anybody: such a state may be old, but it may not
// show what was never agreed on, which the audit checks.
func (c *caller) peek(m *machine) {
	if p, _ := c.w.portOf(m); p != nil {
		_ = p.State().Index()
	}
}

// readAll reads the registers in use from a state.
func (r *registers) readAll(s *fsm.State) map[string]int {
	r.mu.Lock()
	gen := r.gen
	r.mu.Unlock()
	out := map[string]int{}
	for k, g := range gen {
		if k%2 == 0 {
			key := fmt.Sprintf("size-%d-%d", k, g)
			out[key] = sizeOf(s, key)
			continue
		}
		key := fmt.Sprintf("label-%d-%d", k, g)
		out[key] = labelOf(s, key)
	}
	return out
}

func sizeOf(s *fsm.State, key string) int {
	if g, ok := s.Groups.Get(key); ok {
		return g.Desired
	}
	return absent
}

func labelOf(s *fsm.State, key string) int {
	t, ok := s.Templates.Get(key)
	if !ok {
		return absent
	}
	v := absent
	if _, err := fmt.Sscan(t.Labels["v"], &v); err != nil {
		return absent
	}
	return v
}

// write changes a register.
func (c *caller) write(m *machine) {
	k := c.rng.IntN(registerKinds)
	o := c.newOp(m, verbPut)
	o.key, o.value = c.w.registers.pick(k)
	o.value = min(o.value, maxValue)
	var cmd fsm.Command
	switch n := c.rng.IntN(10); {
	case k%2 == 1:
		cmd = putLabel(o.key, o.value)
	case n < 3:
		cmd = putSize(o.key, o.value)
	case n < 7:
		o.verb = verbSet
		cmd = fsm.SetDesired{Group: o.key, To: o.value, Reason: o.id}
	default:
		o.verb = verbCAS
		if o.from = sizeOf(m.stateOrEmpty(), o.key); o.from == absent {
			o.from = 0
		}
		cmd = fsm.SetDesired{Group: o.key, From: new(o.from), To: o.value, Reason: o.id}
	}
	if c.rng.IntN(3) == 0 {
		o.request = "r-" + o.id
	}
	c.send(m, o, cmd)
}

// user does what a person does to the groups that are scaled by policies.
func (c *caller) user(m *machine) {
	o := c.newOp(m, verbUser)
	groups := autoGroups()
	g := groups[c.rng.IntN(len(groups))]
	var cmd fsm.Command
	switch c.rng.IntN(4) {
	case 0:
		o.key = "stop one of " + g.Name
		for id, i := range m.stateOrEmpty().InstancesOf(g.Name) {
			if i.State == fsm.Running && c.rng.IntN(2) == 0 {
				cmd = fsm.StopInstances{Instances: []string{id}, Cause: "by hand"}
				break
			}
		}
	case 1:
		o.key = "size beyond the limits of " + g.Name
		cmd = fsm.SetDesired{Group: g.Name, To: g.MaxSize + 1 + c.rng.IntN(5)}
	default:
		o.key = "size of " + g.Name
		cmd = fsm.SetDesired{Group: g.Name, To: g.MinSize + c.rng.IntN(g.MaxSize-g.MinSize+1)}
	}
	if cmd != nil {
		c.send(m, o, cmd)
	}
}

// send proposes a write, and again while its outcome is not known if it has a
// request id.
func (c *caller) send(m *machine, o *op, cmd fsm.Command) {
	c.w.history.begin(o)
	defer c.w.history.end(o)
	mayHave := false // an earlier attempt may have taken effect
	for o.tries = 1; ; o.tries++ {
		c.attempt(m, o, cmd)
		if o.fate == fateNever && mayHave {
			o.fate = fateUnknown
		}
		mayHave = mayHave || o.fate == fateUnknown
		again := o.fate == fateUnknown || o.fate == fateNever
		if !again || o.request == "" || o.tries == maxTries {
			return
		}
		time.Sleep(time.Duration(50+c.rng.IntN(400)) * time.Millisecond)
		if next := c.node(); next != nil {
			m = next
			o.node = m.name
		}
	}
}

// attempt proposes a write once.
func (c *caller) attempt(m *machine, o *op, cmd fsm.Command) {
	p, epoch := c.w.portOf(m)
	if p == nil {
		o.fate = fateNever
		return
	}
	ctx, cancel := context.WithTimeout(fsm.WithActor(context.Background(), o.id), opTimeout)
	defer cancel()
	if o.request != "" && (o.tries == 1 || c.w.opt.Bug != BugForgottenRequest) {
		ctx = fsm.WithRequestID(ctx, o.request)
	}
	res, err := p.Propose(ctx, cmd)
	o.kind = fsm.KindOf(err)
	if err == nil && m.same(epoch) && c.w.opt.Bug == BugNone && p.State().Index() < res.Index && !m.disk.ailing() {
		c.w.violate("own writes", "%s answered for index %d and is at %d itself", m.name, res.Index, p.State().Index())
	}
	switch {
	case !m.same(epoch):
		o.fate = fateUnknown // a dead process does not answer
	case err == nil:
		o.fate, o.index, o.replayed = fateOK, res.Index, res.Replayed
	default:
		o.fate = fateOf(o.kind)
	}
}

// fateOf is what an error says about the write.
func fateOf(k fsm.Kind) fate {
	switch k {
	case fsm.Conflict, fsm.NotFound, fsm.Invalid, fsm.StaleRevision:
		return fateRefused
	case fsm.NoLeader, fsm.Unavailable, fsm.Exhausted:
		return fateNever
	}
	return fateUnknown
}

// stateOrEmpty is the node's own state.
func (m *machine) stateOrEmpty() *fsm.State {
	if c, _ := m.process(); c != nil {
		return c.State()
	}
	return fsm.NewState()
}
