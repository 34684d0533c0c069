package cluster

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// steadyTime is how long a node must be alive before its new address is
// written into Raft's configuration. There is no hurry, since addresses are
// looked up in the address book; and Raft's replication reads the old one
// without a lock while it logs that a stream broke, as it does at that time.
const steadyTime = time.Second

// maxLagToVote is how many entries a node may be behind to become a voter.
const maxLagToVote = 200

// minVoters is how many voters are left whatever happens to others: fewer
// could not lose one.
const minVoters = 3

// memberView is what the leader sees of one node, for its decisions.
type memberView struct {
	name    string
	zone    string
	peer    string
	status  MemberStatus
	since   time.Time // of status
	known   bool      // in the address book
	server  bool      // in Raft's configuration
	voter   bool
	address string // in Raft's configuration
	never   bool   // wants to stay a non-voter
	self    bool   // is the leader, whose view this is
	caught  bool   // is up to date
}

func (m memberView) healthy() bool { return m.status == StatusAlive }

// step is one change of the configuration. The leader makes one at a time.
type step struct {
	action stepAction
	member memberView
	why    string
}

type stepAction int

const (
	stepNone stepAction = iota
	stepAdd             // as a non-voter, first of all
	stepReaddress
	stepPromote
	stepDemote
	stepRemove
)

// plan is the pure part of tending the members: the next step, if one is due.
//
//	known by gossip ──add──► non-voter ──caught up, voters wanted──► voter
//	                             ▲──────all alive, one too many───────┘
//	voter or non-voter ──dead for longer than grace, quorum stays healthy──► removed
func plan(members []memberView, now time.Time, maxVoters, expect int, grace time.Duration) step {
	for _, m := range members {
		switch {
		case m.known && !m.server && m.healthy():
			return addressFree(members, step{stepAdd, m, "it has joined"})
		case m.server && m.known && m.healthy() && m.address != m.peer && now.Sub(m.since) > steadyTime:
			return addressFree(members, step{stepReaddress, m, "it has another address"})
		}
	}
	voters, healthy, able := 0, 0, 0
	zones := map[string]int{}
	for _, m := range members {
		if m.voter {
			voters++
			if m.healthy() {
				healthy++
				zones[m.zone]++
			}
		}
		if m.server && m.healthy() && (m.voter || !m.never) {
			able++
		}
	}
	// An even number of voters bears no more losses than the odd one below.
	want := min(maxVoters, able)
	if want%2 == 0 {
		want--
	}
	if healthy < want {
		if m, ok := bestCandidate(members, zones); ok {
			return step{stepPromote, m, "a voter is wanted"}
		}
	}
	// A non-voter that stood in for a voter is one too many when that is back.
	// While a voter is away none is given up, and three voters always stay:
	// fewer would keep fewer copies of what is acknowledged.
	if healthy == voters && voters > max(want, minVoters) {
		if m, ok := leastNeeded(members, zones, now); ok {
			return step{stepDemote, m, "there is a voter too many"}
		}
	}
	floor := min(minVoters, expect)
	for _, m := range members {
		gone := m.server && (m.status == StatusDead || m.status == StatusLeft) && now.Sub(m.since) > grace
		switch {
		case !gone:
		case !m.voter:
			return step{stepRemove, m, "it was gone for longer than the grace time"}
		case voters-1 >= floor && healthy >= (voters-1)/2+1 && healthy > voters/2:
			return step{stepRemove, m, "it was gone for longer than the grace time"}
		}
	}
	return step{}
}

// addressFree returns a step that writes a node's address, after the one that
// takes this address from another node where Raft's configuration still gives
// it to that: Raft refuses an address twice, so a new node at the address of a
// lost one, and nodes that have exchanged theirs, would wait for ever. Of two
// living nodes that claim one address none gets the other's: Raft's refusal is
// logged, and whoever runs them has to correct one.
func addressFree(members []memberView, s step) step {
	for _, other := range members {
		claims := other.known && other.healthy() && other.peer == other.address
		if other.server && other.name != s.member.name && other.address == s.member.peer && !claims {
			other.peer = string(raftAddress(other.name))
			return step{stepReaddress, other, "its address is another node's now"}
		}
	}
	return s
}

// leastNeeded picks the voter to demote: from the zone with the most voters,
// never the leader, and none while one of them has only just come back.
func leastNeeded(members []memberView, zones map[string]int, now time.Time) (least memberView, ok bool) {
	for _, m := range members {
		switch {
		case !m.voter:
			continue
		case now.Sub(m.since) <= steadyTime:
			return memberView{}, false
		case m.self:
			continue
		}
		if !ok || zones[m.zone] >= zones[least.zone] {
			least, ok = m, true
		}
	}
	return least, ok
}

// bestCandidate picks the non-voter to promote: from the zone with the fewest
// voters.
func bestCandidate(members []memberView, zones map[string]int) (best memberView, ok bool) {
	for _, m := range members {
		if !m.server || m.voter || m.never || !m.healthy() || !m.caught {
			continue
		}
		if !ok || zones[m.zone] < zones[best.zone] {
			best, ok = m, true
		}
	}
	return best, ok
}

// tendMembers keeps Raft's configuration and the fleet in step, as the leader.
func (c *Cluster) tendMembers(ctx context.Context, _ uint64) error {
	for {
		changed := c.dir.changed.wait()
		s := plan(c.view(ctx), time.Now(), c.cfg.MaxVoters, c.cfg.BootstrapExpect, c.cfg.DeadVoterGrace)
		if s.action != stepNone {
			if err := c.takeStep(ctx, s); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				c.log.Warn("changing the members failed; it will be tried again", "member", s.member.name, "error", err)
			} else if pause(ctx, retryWaitMin) {
				continue
			}
		}
		t := time.NewTimer(c.cfg.Timing.Reconcile)
		select {
		case <-changed:
			// Several lines of the book change together.
			pause(ctx, retryWaitMax/5)
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// view collects what this node knows of every member.
func (c *Cluster) view(ctx context.Context) []memberView {
	quiet := 2 * c.cfg.Timing.PeerTimeout
	byName := map[string]*memberView{}
	var order []string
	row := func(name string) *memberView {
		if byName[name] == nil {
			byName[name] = &memberView{name: name, status: StatusSuspect}
			order = append(order, name)
		}
		return byName[name]
	}
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		m := row(string(s.ID))
		m.server, m.voter, m.address = true, s.Suffrage == raft.Voter, string(s.Address)
	}
	cluster := c.dir.me().Cluster
	for _, r := range c.dir.all() {
		if foreign(r.Cluster, cluster) || c.wasRemoved(r.peerInfo) {
			continue
		}
		m := row(r.Name)
		m.known, m.zone, m.peer, m.never = true, r.Zone, r.Peer, r.NonVoter
		m.self = r.Name == c.cfg.Name
		m.status, m.since = r.status(m.self, quiet), r.since
	}
	slices.Sort(order)
	list := make([]memberView, 0, len(order))
	for _, name := range order {
		m := byName[name]
		if m.server && !m.voter && m.healthy() && !m.never {
			p, err := c.ask(ctx, c.cfg.Timing.PeerTimeout, name)
			m.caught = err == nil && p.Position+maxLagToVote >= c.apply.position()
		}
		list = append(list, *m)
	}
	return list
}

// wasRemoved reports whether this process of a node was removed. The state
// says so, whoever leads now; this process remembers it until the state does.
func (c *Cluster) wasRemoved(i peerInfo) bool {
	if c.State().NodeRemoved(i.Name, i.Inc) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	inc, was := c.removed[i.Name]
	if was && i.Inc > inc {
		delete(c.removed, i.Name)
		return false
	}
	return was
}

// takeStep carries a step out.
func (c *Cluster) takeStep(ctx context.Context, s step) error {
	m := s.member
	id, addr := raft.ServerID(m.name), raft.ServerAddress(m.peer)
	var f raft.IndexFuture
	switch s.action {
	case stepAdd:
		c.log.Info("a node joins", "member", m.name, "address", m.peer)
		f = c.raft.AddNonvoter(id, addr, 0, c.cfg.Timing.PeerTimeout)
	case stepReaddress:
		c.log.Info("a node is given another address", "member", m.name, "why", s.why, "from", m.address, "to", m.peer)
		if m.voter {
			f = c.raft.AddVoter(id, addr, 0, c.cfg.Timing.PeerTimeout)
		} else {
			f = c.raft.AddNonvoter(id, addr, 0, c.cfg.Timing.PeerTimeout)
		}
	case stepPromote:
		c.log.Info("a node becomes a voter", "member", m.name)
		f = c.raft.AddVoter(id, addr, 0, c.cfg.Timing.PeerTimeout)
	case stepDemote:
		c.log.Info("a node becomes a non-voter", "member", m.name, "why", s.why)
		f = c.raft.DemoteVoter(id, 0, c.cfg.Timing.PeerTimeout)
	case stepRemove:
		c.log.Warn("a node is removed", "member", m.name, "why", s.why)
		return c.removeHere(ctx, m.name)
	}
	return c.await(ctx, f)
}

// await waits for one of Raft's futures, or until ctx ends.
func (c *Cluster) await(ctx context.Context, f raft.Future) error {
	done := make(chan error, 1)
	if !c.raftWG.Go(func() { done <- f.Error() }) {
		return errStopped()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// removeHere takes a node out of the configuration and out of the state.
func (c *Cluster) removeHere(ctx context.Context, name string) error {
	var process uint64
	if row, known := c.dir.get(name); known {
		process = row.Inc
		// This process of the node is not taken in again; a later one is.
		c.mu.Lock()
		c.removed[name] = row.Inc
		c.mu.Unlock()
	}
	if err := c.await(ctx, c.raft.RemoveServer(raft.ServerID(name), 0, c.cfg.Timing.PeerTimeout)); err != nil {
		return fsm.Errorf(fsm.Unavailable, "node", name, "could not be removed: %v", err).WithHint("retry")
	}
	if row, known := c.dir.get(name); known && row.gossip != StatusDead {
		// It is told, so that it does not ask to be taken in again; one that
		// can not be told is not let in before it has started again.
		if _, err := c.pool.callFor(ctx, c.cfg.Timing.PeerTimeout, name, methodRemoved, nil); err != nil {
			c.log.Info("the removed node could not be told", "member", name, "error", err)
		}
	}
	c.dir.forget(name)
	_, err := c.Propose(fsm.WithActor(ctx, "cluster"), fsm.RemoveNode{Node: name, Process: process})
	if fsm.KindOf(err) == fsm.NotFound {
		return nil
	}
	return err
}

// RemoveMember takes another node out of the cluster for good. It may be asked
// of any node, and is refused when the rest would have no healthy quorum.
func (c *Cluster) RemoveMember(ctx context.Context, name string) error {
	if name == c.cfg.Name {
		return fsm.Errorf(fsm.Conflict, "node", name, "can not remove itself").WithHint("use `paceline node leave`, or ask another node")
	}
	return c.removeAnywhere(ctx, name)
}

// removeAnywhere has the leader remove a node.
func (c *Cluster) removeAnywhere(ctx context.Context, name string) error {
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultProposeWait)
		defer cancel()
	}
	for wait := retryWaitMin; ; wait = min(wait*2, retryWaitMax) {
		leader, _ := c.route()
		err := errNotLeader
		switch leader {
		case "":
		case c.cfg.Name:
			err = c.removeChecked(ctx, name)
		default:
			_, err = c.pool.call(ctx, leader, laneCore, methodLeave, []byte(name))
		}
		if e := (*fsm.Error)(nil); err == nil || asError(err, &e) {
			return err
		}
		if !pause(ctx, wait) {
			return errLeaderless()
		}
	}
}

// removeChecked is the leader's side of a removal that somebody asked for.
func (c *Cluster) removeChecked(ctx context.Context, name string) error {
	if name == c.cfg.Name {
		// A leader does not remove itself: the next one does.
		if err := c.transferHere(ctx, ""); err != nil {
			return err
		}
		return errNotLeader
	}
	voters, healthy, found, isVoter := 0, 0, false, false
	for _, m := range c.view(ctx) {
		if m.name == name {
			found, isVoter = m.server, m.voter
		} else if m.voter {
			voters++
			if m.healthy() {
				healthy++
			}
		}
	}
	switch {
	case !found:
		return fsm.Errorf(fsm.NotFound, "node", name, "does not exist").WithHint("see `paceline node list`")
	case isVoter && (voters == 0 || healthy < voters/2+1):
		return fsm.Errorf(fsm.Conflict, "node", name, "can not be removed: only %d of the other %d voters are healthy", healthy, voters).
			WithHint("bring the other voters back first, or use `paceline recover` when they are lost for ever")
	}
	c.log.Info("a node is removed", "member", name, "why", "by request")
	return c.removeHere(ctx, name)
}

// Leave takes this node out of the cluster and stops it. Its data directory
// can not be used again.
func (c *Cluster) Leave(ctx context.Context) error {
	if len(c.voters()) == 1 && contains(c.voters(), c.cfg.Name) {
		return fsm.Errorf(fsm.Conflict, "node", c.cfg.Name, "is the only voter and can not leave").WithHint("stop it instead")
	}
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	if err := c.removeAnywhere(ctx, c.cfg.Name); err != nil {
		c.mu.Lock()
		c.leaving = false
		c.mu.Unlock()
		return err
	}
	if err := c.markLeft(); err != nil {
		return err
	}
	return c.Stop(ctx)
}

func (c *Cluster) markLeft() error {
	if err := c.changeIdentity(func(id *identity) { id.Left = true }); err != nil {
		return fsm.Errorf(fsm.Unavailable, "data directory", c.cfg.DataDir, "could not be marked as left: %v", err).
			WithHint("empty the directory before the node is started again")
	}
	return nil
}

// serveMembers registers the leader's and the member's side of changes.
func (c *Cluster) serveMembers() {
	c.Handle(methodStatus, c.handleStatus)
	c.Handle(methodLeave, func(ctx context.Context, req []byte) ([]byte, error) {
		if !c.actsAsLeader() {
			return nil, errNotLeader
		}
		return nil, c.removeChecked(ctx, string(req))
	})
	c.Handle(methodRemoved, func(context.Context, []byte) ([]byte, error) {
		if err := c.markLeft(); err != nil {
			return nil, err
		}
		c.mu.Lock()
		leaving := c.leaving
		c.mu.Unlock()
		if leaving { // it has asked for it, and stops in order
			return nil, nil
		}
		c.fail(fsm.Errorf(fsm.Conflict, "node", c.cfg.Name, "was removed from the cluster").
			WithHint("start it with an empty --data-dir to join again"))
		return nil, nil
	})
}

// sayBye tells the others that this process stops, so that they need not find
// out.
func (c *Cluster) sayBye(ctx context.Context) {
	body, err := json.Marshal(c.dir.me())
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, byeTimeout)
	defer cancel()
	var told tasks
	for _, r := range c.dir.all() {
		if r.Name != c.cfg.Name && r.status(false, c.cfg.Timing.PeerTimeout) == StatusAlive {
			told.Go(func() {
				_, _ = c.pool.call(ctx, r.Name, laneCore, methodBye, body) // gossip says it as well
			})
		}
	}
	told.wait()
}
