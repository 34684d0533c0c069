package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// watchDisk takes leadership away from a node whose disk, or whose apply, is
// stuck. Raft alone would not: its heartbeats go on while its main loop waits
// for the disk, so it stays leader and every write hangs.
//
//	leading ──append or apply beyond DiskStall──► muted: no heartbeats, no
//	   ▲                                          reads, a follower is told to run
//	   └──still leader when the disk is back──────┘
//
// Raft's own transfer can not be used, because the main loop has to carry it
// out. The message that ends it, TimeoutNow, is sent from here.
func (c *Cluster) watchDisk(ctx context.Context) {
	tick := max(c.cfg.Timing.DiskStall/8, 5*time.Millisecond)
	for pause(ctx, tick) {
		stuck := max(c.logs.watch.running(), c.apply.watch.running())
		switch {
		case stuck > c.cfg.Timing.DiskStall && c.actsAsLeader() && len(c.voters()) > 1:
			c.handOver(ctx, stuck)
		case stuck > c.cfg.Timing.DiskStall && c.trans.mute.Load():
			c.findLeader(ctx)
		case stuck == 0 && c.trans.mute.Load():
			c.resume()
		}
	}
}

// handOver stops acting as the leader and makes the best follower run.
func (c *Cluster) handOver(ctx context.Context, stuck time.Duration) {
	c.log.Error("the disk has stalled; handing leadership over", "stalled", stuck)
	c.met.handovers.Inc()
	c.hint.Store(leaderHint{})
	c.trans.mute.Store(true)
	c.lead.tell(false)
	// Without heartbeats and without their streams the followers do not take
	// this node for a healthy leader, whatever becomes of the message below.
	c.hub.cut(kindRaft)
	c.moved.fire()
	for _, name := range c.byProgress(ctx) {
		req := &raft.TimeoutNowRequest{RPCHeader: header(c.cfg.Name)}
		err := c.trans.TimeoutNow(raft.ServerID(name), raftAddress(name), req, &raft.TimeoutNowResponse{})
		if err == nil {
			c.findLeader(ctx)
			return
		}
		c.log.Warn("a follower can not take over", "follower", name, "error", err)
	}
}

// byProgress lists the other voters that answer, longest log first.
func (c *Cluster) byProgress(ctx context.Context) []string {
	type row struct {
		name string
		last uint64
		err  error
	}
	rows := make(chan row, maxMembers)
	asked := 0
	for _, v := range c.voters() {
		if v == c.cfg.Name {
			continue
		}
		asked++
		if !c.wg.Go(func() {
			p, err := c.ask(ctx, c.cfg.Timing.Lease, v)
			rows <- row{v, p.Last, err}
		}) {
			return nil
		}
	}
	var list []row
	for range asked {
		if r := <-rows; r.err == nil {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b row) int {
		if a.last != b.last {
			return int(min(max(int64(b.last)-int64(a.last), -1), 1))
		}
		return compareStrings(a.name, b.name)
	})
	names := make([]string, len(list))
	for i, r := range list {
		names[i] = r.name
	}
	return names
}

// findLeader asks the others who leads, while this node's Raft can not know.
func (c *Cluster) findLeader(ctx context.Context) {
	mine := c.raft.CurrentTerm()
	for _, v := range c.voters() {
		if v == c.cfg.Name {
			continue
		}
		p, err := c.ask(ctx, c.cfg.Timing.Lease, v)
		if err == nil && p.Leader != "" && p.Leader != c.cfg.Name && p.Term > mine {
			if was, _ := c.hint.Swap(leaderHint{p.Leader}).(leaderHint); was.name != p.Leader {
				c.moved.fire()
			}
			return
		}
	}
}

// resume lets the node act again after its disk came back.
func (c *Cluster) resume() {
	c.log.Info("the disk works again")
	c.hint.Store(leaderHint{})
	c.trans.mute.Store(false)
	if c.raft.State() == raft.Leader {
		c.lead.tell(true) // nobody took over
	}
	c.moved.fire()
}

// tell puts a change of leadership that Raft did not notice into the order of
// those that it did.
func (l *leadership) tell(leads bool) {
	select {
	case l.notify <- leads:
	case <-l.c.ctx.Done():
	}
}

// errDiverged is a state that differs from that of the majority.
var errDiverged = errors.New("the state differs from that of the majority at the same index")
