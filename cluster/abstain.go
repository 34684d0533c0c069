package cluster

import (
	"context"
	"errors"

	"github.com/pacelinehq/paceline/fsm"
)

// A node that starts without a log may be new, or a voter that has lost its
// disk. The latter has forgotten which writes it acknowledged: with its vote,
// nodes without those writes could become a majority and lose them. So it
// neither votes nor stands for election until it has everything that a leader
// had committed, which the leader has confirmed by a quorum since.
//
//	no log ──abstains──► has all that was committed ──► votes
//	   └─────────founds a cluster with the others──────►──┘
//
// The identity file remembers it, because a log that is half filled looks like
// any other after a restart.

// rememberWhetherToVote finds out whether this node has to abstain. It is
// called before Raft starts.
func (c *Cluster) rememberWhetherToVote() error {
	// A term and a vote are no log: they are kept in another file, and do not
	// say what was acknowledged.
	last, err := c.stores.Log.LastIndex()
	snaps, listErr := c.stores.Snapshots.List()
	if err = errors.Join(err, listErr); err != nil {
		return fsm.Errorf(fsm.Unavailable, "data directory", c.cfg.DataDir, "holds a log that can not be read: %v", err).
			WithHint("restore it from a backup, or empty the directory and let the node join again")
	}
	if last == 0 && len(snaps) == 0 {
		if err := c.changeIdentity(func(id *identity) { id.Abstains = true }); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.abstains.Store(c.id.Abstains)
	return nil
}

// votes reports whether this node may take part in elections. One that has
// promised itself to founders does: it may not have heard yet that they began.
func (c *Cluster) votes() bool {
	if !c.abstains.Load() {
		return true
	}
	c.boot.mu.Lock()
	defer c.boot.mu.Unlock()
	return c.boot.promised != nil && c.boot.asker != c.cfg.Name
}

// vote ends the abstention.
func (c *Cluster) vote() error {
	if !c.abstains.Load() {
		return nil
	}
	if err := c.changeIdentity(func(id *identity) { id.Abstains = false }); err != nil {
		return err
	}
	c.abstains.Store(false)
	return nil
}

// keepAbstaining ends the abstention when this node has caught up.
func (c *Cluster) keepAbstaining(ctx context.Context) {
	for c.abstains.Load() && pause(ctx, c.cfg.Timing.Heartbeat) {
		if !c.hasLog() {
			continue
		}
		if _, err := c.StrongState(ctx); err != nil {
			continue // no leader yet, or still far behind
		}
		if err := c.vote(); err != nil {
			c.log.Error("this node can not vote yet: the identity file can not be written", "error", err)
			continue
		}
		c.log.Info("this node has caught up and may vote", "index", c.apply.position())
	}
}

// changeIdentity changes the identity file and what this node knows of it.
func (c *Cluster) changeIdentity(change func(*identity)) error {
	// A channel and not a mutex: who waits, waits for the disk.
	select {
	case c.idLock <- struct{}{}:
	case <-c.ctx.Done():
		return errStopped()
	}
	defer func() { <-c.idLock }()
	c.mu.Lock()
	next := c.id
	c.mu.Unlock()
	change(&next)
	if err := next.save(c.storage); err != nil {
		return err
	}
	c.mu.Lock()
	c.id = next
	c.mu.Unlock()
	return nil
}
