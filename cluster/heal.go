package cluster

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// healState remembers whom to trust.
type healState struct {
	mu   sync.Mutex
	good []string // nodes of the majority; empty for anybody
}

func (h *healState) from(names []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.good = slices.Clone(names)
}

func (h *healState) trusts(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.good) == 0 || slices.Contains(h.good, name)
}

// onHalt is told, under the applier's lock, that this node has stopped
// applying.
func (c *Cluster) onHalt(why stopReason) {
	c.log.Error("this node has stopped applying the log", "error", why.err, "heals", why.heals)
	c.apply.moved.fire()
	c.wg.Go(func() {
		if c.actsAsLeader() {
			if err := c.transferHere(c.ctx, ""); err != nil {
				c.log.Warn("leadership could not be handed over", "error", err)
			}
		}
		if why.heals {
			c.healUntilWell(c.ctx)
		}
	})
}

// healUntilWell takes the state of another node, again and again until one is
// new enough.
func (c *Cluster) healUntilWell(ctx context.Context) {
	for c.apply.stop.Load() != nil {
		for _, name := range c.digestPeers() {
			if !c.heal.trusts(name) {
				continue
			}
			s, err := c.fetchState(ctx, name)
			if err != nil {
				c.log.Warn("the state of a peer could not be fetched", "peer", name, "error", err)
				continue
			}
			if c.apply.heal(s) {
				c.healed(name, s)
				return
			}
		}
		if !pause(ctx, healWait/2+rand.N(healWait)) {
			return
		}
	}
}

func (c *Cluster) healed(from string, s *fsm.State) {
	c.heal.from(nil)
	c.met.heals.Inc()
	c.setAlarm("")
	c.log.Info("this node has healed", "from", from, "index", s.Index())
	// The damaged part of the log must not be read again at the next start.
	c.raftWG.Go(func() {
		if err := c.raft.Snapshot().Error(); err != nil {
			c.log.Warn("no snapshot could be taken after healing", "error", err)
		}
	})
}

// serveState streams this node's state to a peer.
func (c *Cluster) serveState(conn net.Conn, peer hello) {
	defer closeQuietly(conn)
	if c.apply.stop.Load() != nil {
		return
	}
	if err := c.State().WriteSnapshot(&patientConn{conn, c.cfg.Timing.PeerTimeout}); err != nil {
		c.log.Warn("sending the state failed", "peer", peer.From, "error", err)
	}
}

// fetchState reads the state of a peer and checks it.
func (c *Cluster) fetchState(ctx context.Context, node string) (*fsm.State, error) {
	conn, err := c.dialNode(ctx, node, kindState)
	if err != nil {
		return nil, err
	}
	defer closeQuietly(conn)
	stop := context.AfterFunc(ctx, func() { closeQuietly(conn) })
	defer stop()
	return fsm.ReadSnapshot(io.LimitReader(&patientConn{conn, c.cfg.Timing.PeerTimeout}, maxSnapshot))
}

func (c *Cluster) dialNode(ctx context.Context, node string, kind streamKind) (net.Conn, error) {
	addr, ok := c.dir.addr(node)
	if !ok {
		return nil, fmt.Errorf("node %s is not known", node)
	}
	conn, _, err := c.hub.dial(ctx, addr, kind, node)
	return conn, err
}

// patientConn gives each read and write its own time limit: a large state may
// take long, but must keep moving.
type patientConn struct {
	net.Conn
	limit time.Duration
}

// Read implements [io.Reader].
func (p *patientConn) Read(b []byte) (int, error) {
	if err := p.SetReadDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.Conn.Read(b)
}

// Write implements [io.Writer].
func (p *patientConn) Write(b []byte) (int, error) {
	if err := p.SetWriteDeadline(time.Now().Add(p.limit)); err != nil {
		return 0, err
	}
	return p.Conn.Write(b)
}
