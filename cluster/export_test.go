package cluster

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// PoisonOn makes the dry run of a command panic, as a bug in it would.
func (c *Cluster) PoisonOn(poison func(fsm.Envelope) bool) {
	c.dryRun = func(s *fsm.State, list []fsm.Envelope, now time.Time) map[int]error {
		bad := map[int]error{}
		for k, env := range list {
			if poison(env) {
				bad[k] = fsm.Errorf(fsm.Internal, "command", env.Name, "panicked in its dry run")
			}
		}
		return bad
	}
}

// Diverge replaces a node's state by another, as damaged memory would.
func (c *Cluster) Diverge(change func(*fsm.State) *fsm.State) {
	c.apply.mu.Lock()
	defer c.apply.mu.Unlock()
	c.apply.machine.Replace(change(c.apply.machine.State()))
}

// Refuses reports whether the node would not take a process of a node in again.
func (c *Cluster) Refuses(name string, incarnation uint64) bool {
	return c.wasRemoved(peerInfo{Name: name, Inc: incarnation})
}

// ForgetBatch makes a node forget what it waits for, so that it learns the
// outcome from the leader only: as after a snapshot that covers the entry.
func (c *Cluster) ForgetBatch() {
	c.apply.settle = func(*fsm.Outcome, []byte) {}
}

// SnapshotNow takes a Raft snapshot.
func (c *Cluster) SnapshotNow() error {
	err := c.raft.Snapshot().Error()
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// MemberView is a memberView for the table test of plan.
type MemberView struct {
	Name, Zone, Peer, Address           string
	Status                              MemberStatus
	Since                               time.Time
	Known, Server, Voter, Never, Caught bool
	Self                                bool
}

// Plan names the step that plan chooses.
func Plan(list []MemberView, now time.Time, maxVoters, expect int, grace time.Duration) string {
	members := make([]memberView, len(list))
	for i, m := range list {
		members[i] = memberView{
			name: m.Name, zone: m.Zone, peer: m.Peer, status: m.Status, since: m.Since, known: m.Known,
			server: m.Server, voter: m.Voter, address: m.Address, never: m.Never, caught: m.Caught, self: m.Self,
		}
	}
	s := plan(members, now, maxVoters, expect, grace)
	names := map[stepAction]string{stepAdd: "add ", stepReaddress: "readdress ", stepPromote: "promote ", stepDemote: "demote ", stepRemove: "remove "}
	if s.action == stepNone {
		return ""
	}
	return names[s.action] + s.member.name
}

// NewPipeline is the pipeline to a follower, round one of Raft's transport.
func NewPipeline(inner raft.AppendPipeline, wg *sync.WaitGroup) raft.AppendPipeline {
	return newPipeline(inner, wg)
}

// Configured returns the addresses in Raft's configuration.
func (c *Cluster) Configured() map[string]string {
	addrs := map[string]string{}
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		addrs[string(s.ID)] = string(s.Address)
	}
	return addrs
}
