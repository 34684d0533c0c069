package cluster

import (
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// gate holds back what is replicated to a peer that does not answer until a
// heartbeat to it succeeds. Raft alone pauses longer and longer after each
// failed append, up to ten seconds: a node that has come back would wait that
// long for its first entry, although the heartbeats reach it at once.
type gate struct {
	mu   sync.Mutex
	shut map[raft.ServerID]chan struct{}
}

// gateCheck is how often a held append looks whether this node still leads.
const gateCheck = 500 * time.Millisecond

// isHeartbeat tells heartbeats, as Raft itself does: they carry nothing.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return req.PrevLogEntry == 0 && req.PrevLogTerm == 0 && len(req.Entries) == 0 && req.LeaderCommitIndex == 0
}

// pass waits until appends may be sent to a peer.
func (g *gate) pass(id raft.ServerID, done <-chan struct{}, leads func() bool) error {
	g.mu.Lock()
	open := g.shut[id]
	g.mu.Unlock()
	if open == nil {
		return nil
	}
	check := time.NewTicker(gateCheck)
	defer check.Stop()
	for {
		select {
		case <-open:
			return nil
		case <-done:
			return net.ErrClosed
		case <-check.C:
			if !leads() {
				return errNotLeader
			}
		}
	}
}

// note records how a message to a peer fared: a failed append shuts the gate,
// any success opens it.
func (g *gate) note(id raft.ServerID, heartbeat bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	open := g.shut[id]
	switch {
	case err == nil && open != nil:
		close(open)
		delete(g.shut, id)
	case err != nil && open == nil && !heartbeat:
		if g.shut == nil {
			g.shut = map[raft.ServerID]chan struct{}{}
		}
		g.shut[id] = make(chan struct{})
	}
}
