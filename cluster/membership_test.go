package cluster_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// sees waits until a node's own state has a template.
func sees(t testing.TB, n *node, name string) {
	t.Helper()
	eventually(t, n.name+" has "+name, func() error {
		if !hasTemplate(n.State(), name) {
			return fmt.Errorf("its state is at index %d", n.State().Index())
		}
		return nil
	})
}

// move gives a node other ports.
func (f *fleet) move(n *node) {
	n.cfg.PeerAddr, n.cfg.GossipAddr = freePort(f.t), freePort(f.t)
}

func TestRestartOfAllNodes(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "before")
	id := f.nodes[0].Status().ClusterID
	for _, n := range f.nodes {
		f.stop(n)
	}
	f.start(f.nodes...)
	f.settled()
	mustPut(t, f.nodes[1].Cluster, "after")
	for _, n := range f.nodes {
		sees(t, n, "before")
		sees(t, n, "after")
		if got := n.Status().ClusterID; got != id {
			t.Errorf("%s is of cluster %s, not %s", n.name, got, id)
		}
	}
}

func TestRestartAfterCrashOfAllNodes(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "before")
	f.killAll()
	f.start(f.nodes...)
	f.settled()
	for _, n := range f.nodes {
		sees(t, n, "before")
	}
}

func TestFollowerComesBackUnderAnotherAddress(t *testing.T) {
	f := running(t, 3)
	n := f.followers()[0]
	f.kill(n)
	mustPut(t, f.leader().Cluster, "meanwhile")
	f.move(n)
	f.start(n)
	sees(t, n, "meanwhile")
	mustPut(t, n.Cluster, "later")
	f.eventually("the configuration has the new address", func() error {
		for _, m := range f.leader().Status().Members {
			if m.Name == n.name && m.Peer == n.cfg.PeerAddr && m.Status == cluster.StatusAlive {
				return nil
			}
		}
		return fmt.Errorf("members are %+v", f.leader().Status().Members)
	})
}

func TestAllNodesComeBackUnderOtherAddresses(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "before")
	f.killAll()
	var join []string
	for _, n := range f.nodes {
		f.move(n)
		join = append(join, n.cfg.GossipAddr)
	}
	for _, n := range f.nodes {
		n.cfg.Join = join
	}
	f.start(f.nodes...)
	f.settled()
	mustPut(t, f.nodes[2].Cluster, "after")
	for _, n := range f.nodes {
		sees(t, n, "before")
		sees(t, n, "after")
	}
}

// configured waits until Raft's configuration has every node's own address.
func (f *fleet) configured() {
	f.t.Helper()
	f.eventually("the configuration has every address", func() error {
		has := f.leader().Configured()
		for _, n := range f.nodes {
			if has[n.name] != n.cfg.PeerAddr {
				return fmt.Errorf("it has %v; %s is at %s", has, n.name, n.cfg.PeerAddr)
			}
		}
		return nil
	})
}

// TestAddressesChangeHands restarts three nodes each under the address of
// another, as containers that are created anew may come back. The first to
// start finds its own address under another's name in Raft's configuration; if
// it asked there for a vote it would answer itself, and lead alone.
func TestAddressesChangeHands(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "before")
	f.configured()
	f.killAll()
	first := f.nodes[0].cfg
	for i, n := range f.nodes {
		next := first
		if i+1 < len(f.nodes) {
			next = f.nodes[i+1].cfg
		}
		n.cfg.PeerAddr, n.cfg.GossipAddr = next.PeerAddr, next.GossipAddr
	}
	f.start(f.nodes[0])
	term := f.nodes[0].Status().Term
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := f.nodes[0].Propose(ctx, put("alone")); err == nil {
		t.Error("one node of three has acknowledged a write")
	}
	if now := f.nodes[0].Status().Term; now != term {
		t.Errorf("a node without a majority went from term %d to %d: somebody has voted for it in another's name", term, now)
	}
	f.start(f.nodes[1:]...)
	f.settled()
	mustPut(t, f.nodes[2].Cluster, "after")
	for _, n := range f.nodes {
		sees(t, n, "before")
		sees(t, n, "after")
	}
	f.configured()
}

// member returns what the leader says of a member.
func (f *fleet) member(name string) (cluster.Member, bool) {
	for _, m := range f.leader().Status().Members {
		if m.Name == name {
			return m, true
		}
	}
	return cluster.Member{}, false
}

func TestFourthNodeJoinsAsNonVoterAndLeaves(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "before")
	n := f.add(3)
	f.start(n)
	sees(t, n, "before")
	mustPut(t, n.Cluster, "mine")
	if m, ok := f.member("n4"); !ok || m.Role != cluster.RoleNonVoter {
		t.Errorf("the fourth node is %+v", m)
	}
	if err := n.Leave(within(t)); err != nil {
		t.Fatal(err)
	}
	n.up = false
	if _, still := f.member("n4"); still {
		t.Error("the node that left is still a member")
	}
	err := f.tryStart(n)
	if err == nil || !strings.Contains(err.Error(), "left its cluster") {
		t.Errorf("the data of a node that left was taken: %v", err)
	}
	mustPut(t, f.nodes[1].Cluster, "after")
}

func TestLeaderLeaves(t *testing.T) {
	f := running(t, 3)
	l := f.leader()
	if err := l.Leave(within(t)); err != nil {
		t.Fatal(err)
	}
	l.up = false
	next := f.leader()
	if s := next.Status(); s.Quorum.Voters != 2 {
		t.Errorf("the quorum is %+v", s.Quorum)
	}
	mustPut(t, next.Cluster, "after")
}

func TestRemovedMemberStops(t *testing.T) {
	f := running(t, 3)
	n := f.followers()[0]
	other := f.followers()[1]
	if err := other.RemoveMember(within(t), n.name); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.Done():
	case <-within(t).Done():
		t.Fatal("the removed node goes on")
	}
	n.up = false
	if n.Err() == nil {
		t.Error("the removed node does not say why it stopped")
	}
	mustPut(t, other.Cluster, "after")
	// Whichever of the others leads next, gossip may still say that it lives.
	for _, next := range []*node{other, f.leader()} {
		f.eventually(next.name+" does not take it in again", func() error {
			if !next.Refuses(n.name, n.cfg.Incarnation) {
				return fmt.Errorf("it would")
			}
			return nil
		})
		if next.Refuses(n.name, n.cfg.Incarnation+1) {
			t.Errorf("%s refuses a later process of the removed node", next.name)
		}
	}
	if err := other.RemoveMember(within(t), "n9"); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("removing an unknown node: %v", err)
	}
}

func TestRemovalThatWouldLoseTheQuorumIsRefused(t *testing.T) {
	f := running(t, 3)
	fs := f.followers()
	f.stop(fs[0])
	f.eventually("the stopped node is seen", func() error {
		if m, _ := f.member(fs[0].name); m.Status == cluster.StatusAlive {
			return fmt.Errorf("it is %s", m.Status)
		}
		return nil
	})
	if err := f.leader().RemoveMember(within(t), fs[1].name); fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("removing a healthy voter of two: %v", err)
	}
}

func TestNodeOfAnotherClusterIsRefused(t *testing.T) {
	for _, name := range []string{"n1", "other"} {
		t.Run(name, func(t *testing.T) { refuseStranger(t, name) })
	}
}

func refuseStranger(t *testing.T, name string) {
	a := running(t, 1)
	b := running(t, 1, func(c *cluster.Config) { c.Name = name })
	id := b.nodes[0].Status().ClusterID
	stranger := b.nodes[0]
	b.stop(stranger)
	stranger.cfg.Join = []string{a.nodes[0].cfg.GossipAddr}
	err := b.tryStart(stranger)
	if fsm.KindOf(err) != fsm.Conflict || !strings.Contains(err.Error(), "belongs to cluster") {
		t.Fatalf("it was not refused: %v", err)
	}
	if !strings.Contains(err.Error(), id) {
		t.Errorf("the error does not name the cluster: %v", err)
	}
}

// TestSecondNodeOfTheSameNameIsRefused starts another process with the
// leader's name. It gives way, and at no time do the others take it for the
// leader: they know one address of that name all along.
func TestSecondNodeOfTheSameNameIsRefused(t *testing.T) {
	f := running(t, 3)
	leader := f.settled()
	before := leader.Status()
	twin := f.add(3)
	twin.cfg.Name = leader.name
	err := f.tryStart(twin)
	if fsm.KindOf(err) != fsm.Conflict || !strings.Contains(err.Error(), "already running") {
		t.Fatalf("it was not refused: %v", err)
	}
	for _, n := range f.followers() {
		for _, m := range n.Status().Members {
			if m.Name == leader.name && m.Peer != leader.cfg.PeerAddr {
				t.Errorf("%s takes %s for the one at %s", n.name, m.Name, m.Peer)
			}
		}
	}
	mustPut(t, f.followers()[0].Cluster, "after")
	if now := leader.Status(); now.Term != before.Term || now.Leader != before.Leader {
		t.Errorf("%s led in term %d, now %s leads in term %d", before.Leader, before.Term, now.Leader, now.Term)
	}
}

func TestTakenPortIsRefused(t *testing.T) {
	f := running(t, 1)
	n := f.add(1)
	n.cfg.PeerAddr = f.nodes[0].cfg.PeerAddr
	if err := f.tryStart(n); fsm.KindOf(err) != fsm.Unavailable {
		t.Errorf("a taken peer port: %v", err)
	}
}

func TestDataDirectoryInUseIsRefused(t *testing.T) {
	f := running(t, 1)
	n := f.add(1)
	n.cfg.Name, n.cfg.DataDir = "n1", f.nodes[0].cfg.DataDir
	if err := f.tryStart(n); fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("a data directory in use: %v", err)
	}
}

func TestDifferentExpectationsAreSaid(t *testing.T) {
	f := newFleet(t, 2)
	f.nodes[1].cfg.BootstrapExpect = 1
	f.nodes[1].cfg.Join = nil
	f.start(f.nodes[1])
	f.eventually("the single node leads", func() error {
		if f.nodes[1].Status().Leader == "" {
			return fmt.Errorf("no leader")
		}
		return nil
	})
	f.start(f.nodes[0])
	// A cluster exists: the other is taken in instead of founding another.
	f.eventually("one cluster comes of it", func() error {
		a, b := f.nodes[0].Status(), f.nodes[1].Status()
		if a.Leader == "" || a.Leader != b.Leader || a.ClusterID != b.ClusterID {
			return fmt.Errorf("leaders %q and %q (%s)", a.Leader, b.Leader, a.Problem)
		}
		return nil
	})
}

func member(name string, change func(*cluster.MemberView)) cluster.MemberView {
	m := cluster.MemberView{Name: name, Peer: name, Address: name, Status: cluster.StatusAlive, Known: true, Server: true, Voter: true, Caught: true}
	change(&m)
	return m
}

func TestPlanOfMembers(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	alive := func(*cluster.MemberView) {}
	dead := func(age time.Duration) func(*cluster.MemberView) {
		return func(m *cluster.MemberView) { m.Status, m.Since = cluster.StatusDead, now.Add(-age) }
	}
	nonVoter := func(m *cluster.MemberView) { m.Voter = false }
	leads := func(m *cluster.MemberView) { m.Self = true }
	zone := func(z string) func(*cluster.MemberView) { return func(m *cluster.MemberView) { m.Zone = z } }
	long := dead(time.Hour)
	cases := []struct {
		what    string
		members []cluster.MemberView
		want    string
	}{
		{"nothing to do", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive)}, ""},
		{"a new node is added", []cluster.MemberView{member("a", alive), member("b", func(m *cluster.MemberView) { m.Server, m.Voter = false, false })}, "add b"},
		{"a new node that is dead is not", []cluster.MemberView{member("a", alive), member("b", func(m *cluster.MemberView) {
			m.Server, m.Voter, m.Status = false, false, cluster.StatusDead
		})}, ""},
		{"another address", []cluster.MemberView{member("a", alive), member("b", func(m *cluster.MemberView) { m.Peer = "elsewhere" })}, "readdress b"},
		{"another address, too fresh", []cluster.MemberView{member("a", alive), member("b", func(m *cluster.MemberView) { m.Peer, m.Since = "elsewhere", now })}, ""},
		{"an address that was another's", []cluster.MemberView{member("a", func(m *cluster.MemberView) { m.Peer = "b" }),
			member("b", func(m *cluster.MemberView) { m.Peer = "a" })}, "readdress b"},
		{"a new node at a lost one's address", []cluster.MemberView{member("a", alive), member("b", long),
			member("c", func(m *cluster.MemberView) { m.Peer, m.Server, m.Voter = "b", false, false })}, "readdress b"},
		{"two that claim one address do not take it from each other", []cluster.MemberView{member("a", alive),
			member("b", func(m *cluster.MemberView) { m.Peer, m.Address = "a", "@b" })}, "readdress b"},
		{"an even number of voters is no gain", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive), member("d", nonVoter)}, ""},
		{"five are better than three", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive), member("d", nonVoter), member("e", nonVoter)}, "promote d"},
		{"one that is behind waits", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive),
			member("d", func(m *cluster.MemberView) { m.Voter, m.Caught = false, false }), member("e", nonVoter)}, "promote e"},
		{"one that never votes does not count", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive),
			member("d", func(m *cluster.MemberView) { m.Voter, m.Never = false, true }), member("e", nonVoter)}, ""},
		{"a zone without voters comes first", []cluster.MemberView{
			member("a", func(m *cluster.MemberView) { m.Zone = "x" }), member("b", func(m *cluster.MemberView) { m.Zone = "x" }), member("c", func(m *cluster.MemberView) { m.Zone = "x" }),
			member("d", func(m *cluster.MemberView) { m.Voter, m.Zone = false, "x" }), member("e", func(m *cluster.MemberView) { m.Voter, m.Zone = false, "y" })}, "promote e"},
		{"a dead voter is replaced first", []cluster.MemberView{member("a", alive), member("b", alive), member("c", long), member("d", nonVoter)}, "promote d"},
		{"and then removed", []cluster.MemberView{member("a", alive), member("b", alive), member("c", long), member("d", alive)}, "remove c"},
		{"not within the grace time", []cluster.MemberView{member("a", alive), member("b", alive), member("c", dead(time.Second)), member("d", alive)}, ""},
		{"a stand-in goes when the voter is back", []cluster.MemberView{member("a", leads), member("b", alive), member("c", alive), member("d", alive)}, "demote d"},
		{"six are one too many", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive), member("d", alive), member("e", alive), member("f", leads)}, "demote e"},
		{"from the zone with the most voters", []cluster.MemberView{member("a", leads),
			member("b", zone("x")), member("c", zone("x")), member("d", alive), member("e", zone("x")), member("f", zone("y"))}, "demote e"},
		{"none goes while one is away", []cluster.MemberView{member("a", leads), member("b", alive), member("c", alive), member("d", alive), member("e", dead(time.Second))}, ""},
		{"nor when it has only just come back", []cluster.MemberView{member("a", leads), member("b", alive),
			member("c", func(m *cluster.MemberView) { m.Since = now }), member("d", alive)}, ""},
		{"two voters stay two", []cluster.MemberView{member("a", leads), member("b", alive)}, ""},
		{"never below three", []cluster.MemberView{member("a", alive), member("b", alive), member("c", long)}, ""},
		{"never without a healthy quorum", []cluster.MemberView{member("a", alive), member("b", alive), member("c", long), member("d", long)}, ""},
		{"a dead non-voter goes", []cluster.MemberView{member("a", alive), member("b", alive), member("c", alive),
			member("d", func(m *cluster.MemberView) { long(m); m.Voter = false })}, "remove d"},
	}
	for _, c := range cases {
		if got := cluster.Plan(c.members, now, 5, 3, time.Minute); got != c.want {
			t.Errorf("%s: the step is %q, not %q", c.what, got, c.want)
		}
	}
}
