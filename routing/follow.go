package routing

import (
	"context"
	"iter"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Cluster is what routing needs of the cluster.
type Cluster interface {
	// State is the local state.
	State() *fsm.State
	// Watch yields the changes after an index, until ctx ends. An error, such
	// as having lagged behind, ends it; the reader then takes the whole state.
	Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error]
}

// followPause keeps full passes apart when the watch ends again and again.
const followPause = 20 * time.Millisecond

// Follow calls use with the state now, and again after each change that
// concerns routing, until ctx ends. Changes that come while use runs are taken
// together.
func Follow(ctx context.Context, c Cluster, use func(*fsm.State)) {
	for ctx.Err() == nil {
		s := c.State()
		use(s)
		seen := s.Index()
		for changes, err := range c.Watch(ctx, seen) {
			if err != nil || changes.Reset {
				break
			}
			if changes.Index <= seen || !concerns(changes) {
				continue
			}
			s = c.State()
			use(s)
			seen = s.Index()
		}
		t := time.NewTimer(followPause)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// concerns reports whether a change set has changed what is routed: a service
// or its endpoints (whose index then moves), the keys of the session cookies,
// or the zones and weights of nodes.
func concerns(set fsm.ChangeSet) bool {
	for _, c := range set.Changes {
		switch c.Table {
		case "serviceIndexes", "nodes", "sessionKeys":
			return true
		}
	}
	return false
}
