package sim

import (
	"context"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// auditor follows the cluster's committed log and applies it to a machine of
// its own. It therefore sees every state that the cluster has ever agreed on,
// not only those that happen to be there when somebody looks, and can compare
// each node with it.
type auditor struct {
	w       *World
	journal *journal
	machine *fsm.Machine
	rules   *rules

	mu sync.Mutex
	// pos is the index that the machine has reached.
	pos     uint64
	digests map[uint64]uint64
	// leaders is who was seen leading each term.
	leaders map[uint64]string
	seen    map[string]position
	stuck   bool
}

// position is how far a process of a node was seen to be.
type position struct {
	epoch   int
	index   uint64
	deepest uint64 // index of the last full verification
}

func newAuditor(w *World) *auditor {
	return &auditor{
		w: w, journal: &journal{w: w, at: map[uint64]*raft.Log{}}, machine: fsm.NewMachine(), rules: newRules(w),
		digests: map[uint64]uint64{0: fsm.NewState().Digest()}, leaders: map[uint64]string{}, seen: map[string]position{},
	}
}

// run audits until ctx ends.
func (a *auditor) run(ctx context.Context) {
	for pause(ctx, auditEvery) == nil {
		a.round()
	}
}

// finish audits what is left after the nodes have ended.
func (a *auditor) finish() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.rules.finish(a.machine.State(), a.w.ledger.launches())
	for _, op := range a.w.history.all() {
		a.rules.checkOp(op)
	}
}

// round looks once at every node.
func (a *auditor) round() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.checkLeaders()
	states := map[*machine]*fsm.State{}
	top := a.pos
	for _, m := range a.w.live() {
		c, epoch := m.process()
		if c == nil || c.Ready() != nil && c.State().Index() == 0 {
			continue
		}
		s := c.State()
		if !m.same(epoch) {
			continue
		}
		states[m] = s
		top = max(top, s.Index())
		a.checkProgress(m, epoch, s)
	}
	a.follow(top)
	for m, s := range states {
		a.compare(m, s)
	}
}

// checkLeaders holds the word of every node that leads against what was heard
// of its term before (I1). Nobody's word on another is taken: a candidate whose
// vote for itself is being stored still hears the old leader's heartbeats, and
// then names it together with the new term.
func (a *auditor) checkLeaders() {
	for _, m := range a.w.live() {
		c, _ := m.process()
		if c == nil {
			continue
		}
		before := c.Status()
		after := c.Status()
		if before.Term != after.Term || before.Leader != m.name || after.Leader != m.name || before.Problem != "" {
			continue
		}
		was, known := a.leaders[before.Term]
		if known && was != m.name {
			a.w.violate("I1 one leader", "node %s leads term %d, which %s led", m.name, before.Term, was)
			continue
		}
		if !known {
			a.w.log.add("audit", "term "+itoa(before.Term)+" is led by "+m.name)
		}
		a.leaders[before.Term] = m.name
	}
}

// checkProgress sees that the state of one process never goes back.
func (a *auditor) checkProgress(m *machine, epoch int, s *fsm.State) {
	p := a.seen[m.name]
	if p.epoch == epoch && s.Index() < p.index {
		a.w.violate("state goes back", "node %s was at index %d and is at %d", m.name, p.index, s.Index())
	}
	if p.epoch != epoch {
		p = position{epoch: epoch}
	}
	p.index = s.Index()
	a.seen[m.name] = p
}

// follow applies the committed log up to an index.
func (a *auditor) follow(top uint64) {
	list, missing := a.journal.settle(a.pos, top)
	if missing != 0 && !a.stuck {
		a.stuck = true
		a.w.violate("audit", "a node has applied index %d, and nobody has written index %d", top, missing)
	}
	for _, l := range list {
		if l.Type == raft.LogCommand {
			a.apply(l)
		}
		a.pos = l.Index
		a.digests[l.Index] = a.machine.State().Digest()
	}
}

func (a *auditor) apply(l *raft.Log) {
	prev := a.machine.State()
	outcomes, err := a.machine.Apply([]fsm.LogEntry{{Index: l.Index, Term: l.Term, Data: l.Data}})
	if err != nil || len(outcomes) != 1 {
		a.w.violate("log", "the entry at index %d can not be applied: %v", l.Index, err)
		return
	}
	entry, err := fsm.DecodeEntry(l.Data)
	if err != nil {
		a.w.violate("log", "the entry at index %d does not decode: %v", l.Index, err)
		return
	}
	a.rules.inspect(prev, a.machine.State(), l.Term, entry, &outcomes[0])
}

// verifyEvery is the number of entries between two verifications of a node's
// whole state: it hashes every row.
const verifyEvery = 500

// compare holds one node's state against the auditor's at the same index (I2).
func (a *auditor) compare(m *machine, s *fsm.State) {
	want, known := a.digests[s.Index()]
	if known && s.Digest() != want {
		a.w.violate("I2 equal states", "node %s has digest %x at index %d, the log gives %x", m.name, s.Digest(), s.Index(), want)
	}
	p := a.seen[m.name]
	if s.Index() < p.deepest+verifyEvery {
		return
	}
	p.deepest = s.Index()
	a.seen[m.name] = p
	if !s.VerifyDigest() {
		a.w.violate("I2 equal states", "node %s has rows at index %d that do not match their digest", m.name, s.Index())
	}
}

// verifyAll looks once more at every node, and at every row of it.
func (a *auditor) verifyAll() {
	a.mu.Lock()
	for name, p := range a.seen {
		p.deepest = 0
		a.seen[name] = p
	}
	a.mu.Unlock()
	a.round()
}

// terms is the number of terms that had a leader.
func (a *auditor) terms() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.leaders)
}
