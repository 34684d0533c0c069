package node

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

const (
	registerTimeout = 5 * time.Second
	registerRetry   = 200 * time.Millisecond
	registerRetries = 5 * time.Second
)

// keepRegistered sees to it that the state has this process of the node, and
// has it as alive: at the start, and whenever the leader had taken it for dead.
func (n *Node) keepRegistered(ctx context.Context) {
	ctx = fsm.WithActor(ctx, "node "+n.cfg.Name)
	pause := registerRetry
	for ctx.Err() == nil {
		s := n.cluster.State()
		if !n.mustRegister(s) {
			n.registered.Store(true)
			pause = registerRetry
			n.ownRowChanged(ctx, s.Index())
			continue
		}
		n.registered.Store(false)
		if !n.register(ctx) {
			sleep(ctx, pause/2+rand.N(pause))
			pause = min(2*pause, registerRetries)
		}
	}
}

func (n *Node) mustRegister(s *fsm.State) bool {
	row, ok := s.Nodes.Get(n.cfg.Name)
	return !ok || row.Incarnation != n.row.Incarnation || row.State == fsm.NodeStateDown
}

// register proposes the node's row. A newer process of the same name is the
// end of this one.
func (n *Node) register(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	_, err := n.cluster.Propose(ctx, fsm.RegisterNode{Node: n.row})
	if err == nil {
		n.log.Info("registered", "incarnation", n.row.Incarnation)
		return true
	}
	if fsm.KindOf(err) == fsm.Conflict {
		n.fail(err)
	} else if ctx.Err() == nil {
		n.log.Warn("can not register yet", "err", err)
	}
	return false
}

// ownRowChanged returns when the node's own row may have changed since an
// index.
func (n *Node) ownRowChanged(ctx context.Context, from uint64) {
	for set, err := range n.cluster.Watch(ctx, from) {
		if err != nil || set.Reset {
			return
		}
		for _, c := range set.Changes {
			if c.Table == "nodes" && c.Key == n.cfg.Name {
				return
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
