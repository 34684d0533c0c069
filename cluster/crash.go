package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// serveWatch keeps a stream that says nothing: when this process dies, the
// system ends it, and the other side knows at once.
func (c *Cluster) serveWatch(conn net.Conn, _ hello) {
	defer closeQuietly(conn)
	var b [1]byte
	_, _ = conn.Read(b[:]) // ends with the stream
}

// watchLeader notices within milliseconds that the leader's process has died,
// where Raft's timers take hundreds.
//
//	watching ──stream ends──► redialling ──answers, same process──► watching
//	                              │
//	                              ├─refused, or another process──► dead
//	                              └─silent, and a peer agrees────► dead
//	dead ──wait for one's turn──► candidate, if nobody else is leader yet
//
// Becoming a candidate is the public path of a leadership transfer. Votes and
// the comparison of logs are those of any election, so a false alarm costs an
// election and nothing else.
func (c *Cluster) watchLeader(ctx context.Context) {
	for ctx.Err() == nil {
		leader, changed := c.route()
		if leader == "" || leader == c.cfg.Name {
			select {
			case <-changed:
			case <-ctx.Done():
			}
			continue
		}
		if c.sitWith(ctx, leader) {
			c.succeed(ctx, leader)
		}
	}
}

// sitWith watches a leader until it is another's turn (false) or its process
// is dead (true).
func (c *Cluster) sitWith(ctx context.Context, leader string) (dead bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.wg.Go(func() {
		defer cancel()
		c.waitOtherLeader(ctx, leader)
	})
	addr, ok := c.dir.addr(leader)
	if !ok {
		<-ctx.Done()
		return false
	}
	conn, peer, err := c.hub.dial(ctx, addr, kindWatch, leader)
	if err != nil {
		// It was not watched, so nothing is known of its death: the timers decide.
		pause(ctx, c.cfg.Timing.Heartbeat/2)
		return false
	}
	stop := context.AfterFunc(ctx, func() { closeQuietly(conn) })
	defer stop()
	var b [1]byte
	_, _ = conn.Read(b[:]) // ends with the stream
	closeQuietly(conn)
	if ctx.Err() != nil {
		return false
	}
	return c.isDead(ctx, leader, addr, peer.Inc)
}

// waitOtherLeader returns when the leader is another than the given one.
func (c *Cluster) waitOtherLeader(ctx context.Context, leader string) {
	for {
		now, changed := c.route()
		if now != leader {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// isDead redials a process whose stream has ended.
func (c *Cluster) isDead(ctx context.Context, name, addr string, inc uint64) bool {
	dialCtx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Redial)
	defer cancel()
	conn, peer, err := c.hub.dial(dialCtx, addr, kindWatch, name)
	switch {
	case err == nil:
		closeQuietly(conn)
		return peer.Inc != inc
	case errors.Is(err, syscall.ECONNREFUSED):
		return true
	case ctx.Err() != nil:
		return false
	}
	return c.peerAgrees(ctx, name)
}

// peerAgrees asks the other voters whether they reach a node. One that does
// not is enough: the stream to it has ended, and two see it gone.
func (c *Cluster) peerAgrees(ctx context.Context, name string) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*c.cfg.Timing.Redial)
	defer cancel()
	answers := make(chan bool, maxMembers)
	asked := 0
	for _, v := range c.voters() {
		if v == name || v == c.cfg.Name {
			continue
		}
		asked++
		if !c.wg.Go(func() {
			resp, err := c.pool.call(ctx, v, laneCore, methodStatus, []byte(name))
			var p progress
			answers <- err == nil && json.Unmarshal(resp, &p) == nil && p.Unreachable
		}) {
			return false
		}
	}
	for range asked {
		if <-answers {
			return true
		}
	}
	return asked == 0
}

// progress is what a node says of itself to those who weigh it.
type progress struct {
	Last     uint64 `json:"last"`
	Position uint64 `json:"position"`
	Term     uint64 `json:"term"`
	Leader   string `json:"leader,omitempty"`
	// Unreachable answers the question whether the named node can be dialled.
	Unreachable bool `json:"unreachable,omitempty"`
}

// handleStatus tells how far this node is; with a name in the request, also
// whether that node can be reached from here.
func (c *Cluster) handleStatus(ctx context.Context, req []byte) ([]byte, error) {
	leader, _ := c.route()
	p := progress{Last: c.raft.LastIndex(), Position: c.apply.position(), Term: c.raft.CurrentTerm(), Leader: leader}
	if len(req) > 0 && len(req) < maxMethod*2 {
		name := string(req)
		addr, ok := c.dir.addr(name)
		dialCtx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Redial)
		defer cancel()
		if ok {
			conn, _, err := c.hub.dial(dialCtx, addr, kindWatch, name)
			if p.Unreachable = err != nil; err == nil {
				closeQuietly(conn)
			}
		}
	}
	return json.Marshal(p)
}

// ask returns how far a node is.
func (c *Cluster) ask(ctx context.Context, d time.Duration, node string) (p progress, err error) {
	resp, err := c.pool.callFor(ctx, d, node, methodStatus, nil)
	if err == nil {
		err = json.Unmarshal(resp, &p)
	}
	return p, err
}

// succeed runs for leader after a death: the voter with the longest log first,
// the others a moment later each, in case it is dead as well.
func (c *Cluster) succeed(ctx context.Context, dead string) {
	voters := c.voters()
	if !contains(voters, c.cfg.Name) || c.apply.stop.Load() != nil {
		c.waitTurn(ctx, dead, c.cfg.Timing.Heartbeat)
		return
	}
	term := c.raft.CurrentTerm()
	rank := c.rank(ctx, voters, dead)
	if !c.waitTurn(ctx, dead, time.Duration(rank)*c.cfg.Timing.Stagger) || c.raft.CurrentTerm() != term {
		return
	}
	if c.raft.State() != raft.Follower {
		return
	}
	c.log.Warn("the leader's process is dead; running for leader", "leader", dead, "rank", rank)
	c.met.elections.Inc()
	runCtx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Heartbeat)
	defer cancel()
	if err := c.trans.runNow(runCtx, c.cfg.Name); err != nil {
		c.log.Warn("running for leader failed", "error", err)
	}
	// Do not run twice for the same death: the election needs a moment.
	c.waitTurn(ctx, dead, c.cfg.Timing.Heartbeat)
}

// waitTurn waits, and reports false when the leader has changed meanwhile.
func (c *Cluster) waitTurn(ctx context.Context, leader string, d time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	c.waitOtherLeader(ctx, leader)
	now, _ := c.route()
	return now == leader && !errors.Is(ctx.Err(), context.Canceled)
}

// rank is the number of living voters who should run before this node.
func (c *Cluster) rank(ctx context.Context, voters []string, dead string) int {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Stagger/2)
	defer cancel()
	mine := c.raft.LastIndex()
	before := make(chan bool, len(voters))
	asked := 0
	for _, v := range voters {
		if v == dead || v == c.cfg.Name {
			continue
		}
		asked++
		if !c.wg.Go(func() {
			p, err := c.ask(ctx, c.cfg.Timing.Stagger/2, v)
			switch {
			case errors.Is(err, syscall.ECONNREFUSED):
				before <- false
			case err != nil:
				// It may only be slow. Two that run at once split the votes,
				// which costs more than a turn waited in vain.
				before <- v < c.cfg.Name
			default:
				before <- p.Last > mine || (p.Last == mine && v < c.cfg.Name)
			}
		}) {
			return 0
		}
	}
	rank := 0
	for range asked {
		if <-before {
			rank++
		}
	}
	return rank
}
