package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// The roles of a member in Raft.
const (
	// RoleVoter takes part in elections and in commits.
	RoleVoter = "voter"
	// RoleNonVoter holds the state only.
	RoleNonVoter = "nonvoter"
)

// Status is what one node knows of the cluster.
type Status struct {
	// Node is the node that answers.
	Node      string `json:"node"`
	ClusterID string `json:"clusterId,omitempty"`
	Leader    string `json:"leader,omitempty"`
	Term      uint64 `json:"term"`
	// Index is applied here; Commit and Last are Raft's.
	Index  uint64 `json:"index"`
	Commit uint64 `json:"commit"`
	Last   uint64 `json:"last"`

	Members []Member `json:"members"`
	Quorum  Quorum   `json:"quorum"`

	// LogStoreMs is how long the last append to the log took.
	LogStoreMs float64 `json:"logStoreMs"`
	// DigestAlarm says which states differ, "" for none.
	DigestAlarm string `json:"digestAlarm,omitempty"`
	// Problem says why this node does not serve, "" when it does.
	Problem string `json:"problem,omitempty"`
}

// Member is one node of the cluster.
type Member struct {
	Name   string       `json:"name"`
	Role   string       `json:"role"`
	Status MemberStatus `json:"status"`
	Zone   string       `json:"zone,omitempty"`
	API    string       `json:"api,omitempty"`
	Peer   string       `json:"peer,omitempty"`
	// LastContactMs is how long ago this node heard it, -1 for never.
	LastContactMs int64 `json:"lastContactMs"`
}

// Quorum is how much loss the cluster can bear.
type Quorum struct {
	Voters  int `json:"voters"`
	Healthy int `json:"healthy"`
	// CanLose is how many more voters may fail before writes stop; below 0
	// they have stopped.
	CanLose int `json:"canLose"`
}

// Status returns what this node knows of the cluster.
func (c *Cluster) Status() Status {
	s := Status{Node: c.cfg.Name, ClusterID: c.dir.me().Cluster, Index: c.apply.position(), Members: []Member{}}
	c.mu.Lock()
	s.Problem, s.DigestAlarm, s.LogStoreMs = c.problem, c.alarm, float64(c.append0.Microseconds())/1000
	c.mu.Unlock()
	if !c.running.Load() {
		s.Problem = orDefault(s.Problem, "the node has not started")
		return s
	}
	s.Leader, _ = c.route()
	s.Term, s.Commit, s.Last = c.raft.CurrentTerm(), c.raft.CommitIndex(), c.raft.LastIndex()
	s.Problem = orDefault(s.Problem, c.trouble(s))
	for _, server := range c.raft.GetConfiguration().Configuration().Servers {
		m := c.member(server)
		s.Members = append(s.Members, m)
		if m.Role == RoleVoter {
			s.Quorum.Voters++
			if m.Status == StatusAlive {
				s.Quorum.Healthy++
			}
		}
	}
	s.Quorum.CanLose = s.Quorum.Healthy - (s.Quorum.Voters/2 + 1)
	return s
}

// trouble says what keeps the node from serving.
func (c *Cluster) trouble(s Status) string {
	if why := c.apply.stop.Load(); why != nil {
		return "the node has stopped applying the log: " + why.err.Error()
	}
	if c.trans.mute.Load() {
		return "the disk has stalled"
	}
	c.boot.mu.Lock()
	defer c.boot.mu.Unlock()
	switch {
	case s.Leader != "":
		return ""
	case c.boot.why != "":
		return "waiting for the cluster: " + c.boot.why
	case c.abstains.Load():
		return "no leader; this node started without a log and does not vote before it has caught up"
	}
	return "no leader"
}

func (c *Cluster) member(s raft.Server) Member {
	m := Member{Name: string(s.ID), Role: RoleNonVoter, Peer: string(s.Address), Status: StatusSuspect, LastContactMs: -1}
	if s.Suffrage == raft.Voter {
		m.Role = RoleVoter
	}
	row, ok := c.dir.get(m.Name)
	if !ok {
		return m
	}
	m.Zone, m.API, m.Peer = row.Zone, row.API, row.Peer
	m.Status = row.status(m.Name == c.cfg.Name, 2*c.cfg.Timing.PeerTimeout)
	if m.Name == c.cfg.Name {
		m.LastContactMs = 0
	} else if !row.heard.IsZero() {
		m.LastContactMs = time.Since(row.heard).Milliseconds()
	}
	return m
}

// Alive reports whether a node's process lives, and whether the node is known
// at all. Where gossip says it is gone, it is dialled to make sure.
func (c *Cluster) Alive(node string) (alive, known bool) {
	row, known := c.dir.get(node)
	if !known || !c.running.Load() {
		return false, known
	}
	if node == c.cfg.Name || row.gossip == StatusAlive {
		return true, true
	}
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.Timing.Lease)
	defer cancel()
	return c.lives(ctx, node, row.Inc), true
}

// Ready returns nil when this node serves reads and writes, else why not.
func (c *Cluster) Ready() error {
	if why := c.apply.stop.Load(); why != nil {
		return notServing(why.err)
	}
	if !c.hasLeader() {
		return errLeaderless()
	}
	return nil
}
