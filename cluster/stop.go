package cluster

import (
	"context"
	"errors"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

func asError(err error, e **fsm.Error) bool { return errors.As(err, e) }

// Stop ends the node in order: it hands leadership over, carries on what it
// has accepted, and tells the others. It stays a member. The context bounds
// the orderly part.
func (c *Cluster) Stop(ctx context.Context) error {
	if c.running.Load() && c.enter() {
		if c.actsAsLeader() && len(c.voters()) > 1 {
			if err := c.transferHere(ctx, ""); err != nil {
				c.log.Warn("leadership could not be handed over", "error", err)
			}
		}
		c.linger(ctx)
		c.sayBye(ctx)
		c.shutDown(true)
	}
	c.Kill()
	return nil
}

// enter claims the right to stop the node; one caller has it.
func (c *Cluster) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.phase != phaseRunning {
		return false
	}
	c.phase = phaseStopped
	return true
}

// linger carries on for a moment, for writes that this node has accepted and
// for those that others still send here.
func (c *Cluster) linger(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stopLinger)
	defer cancel()
	quiet := time.Now().Add(stopLinger / 2)
	for pause(ctx, stopLinger/20) {
		if c.prop.idle() && time.Now().After(quiet) {
			return
		}
	}
}

// Kill ends the node at once, as the death of its process would.
func (c *Cluster) Kill() {
	if c.enter() {
		c.shutDown(false)
		return
	}
	c.mu.Lock()
	never := c.phase == phaseNew
	if never {
		c.phase = phaseStopped
	}
	c.mu.Unlock()
	if never {
		c.cancel()
		close(c.stopped)
	}
	<-c.stopped
}

// shutDown ends everything; leave says goodbye by gossip first.
func (c *Cluster) shutDown(leave bool) {
	if leave {
		c.prop.close()
	}
	if c.hub != nil {
		c.hub.close()
	}
	c.prop.close()
	if c.running.Load() {
		if err := c.raft.Shutdown().Error(); err != nil {
			c.log.Warn("stopping raft failed", "error", err)
		}
	} else if c.trans != nil {
		closeQuietly(c.trans)
	}
	c.cancel()
	if c.gossip != nil {
		c.gossip.stop(leave)
	}
	if c.pool != nil {
		c.pool.wg.wait()
	}
	c.raftWG.wait()
	c.wg.wait()
	if c.stores.Close != nil {
		if err := c.stores.Close(); err != nil {
			c.log.Warn("closing the log failed", "error", err)
		}
	}
	close(c.stopped)
}

// fail stops the node by itself, because going on would do harm.
func (c *Cluster) fail(err error) {
	c.mu.Lock()
	if c.failure == nil {
		c.failure = err
	}
	c.problem = err.Error()
	c.mu.Unlock()
	c.log.Error("this node stops", "error", err)
	go c.Kill() // ends the goroutines of c, this one's caller among them
}

// Done is closed when the node has stopped.
func (c *Cluster) Done() <-chan struct{} { return c.stopped }

// Err says why the node stopped by itself, nil when it was told to.
func (c *Cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failure
}
