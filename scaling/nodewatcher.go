package scaling

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// NodeWatcherConfig configures a [NodeWatcher]. Zero fields mean the defaults.
type NodeWatcherConfig struct {
	// Every is the time between two looks.
	Every time.Duration
	// Confirm is how long a node has to be silent without a break.
	Confirm time.Duration
	// ConfirmSlow replaces Confirm for a node of which nothing is known (it
	// never came back after the leader's own start), and while more than half
	// of the nodes look silent: then the fault is more likely in the view.
	ConfirmSlow time.Duration
	Log         *slog.Logger
	Metrics     *Metrics
}

// NodeWatcher declares nodes down. It runs on the leader.
//
//	         silent               silent for Confirm
//	alive ───────────► suspected ───────────────────► NodeDown proposed
//	  ▲                    │
//	  └────────────────────┘ answers, or has another incarnation
type NodeWatcher struct {
	cfg     NodeWatcherConfig
	cluster Cluster
	nodes   Liveness
}

// NewNodeWatcher returns a node watcher.
func NewNodeWatcher(cfg NodeWatcherConfig, cluster Cluster, nodes Liveness) *NodeWatcher {
	cfg.Every = orDefault(cfg.Every, 250*time.Millisecond)
	cfg.Confirm = orDefault(cfg.Confirm, 3*time.Second)
	cfg.ConfirmSlow = orDefault(cfg.ConfirmSlow, time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = unregistered()
	}
	return &NodeWatcher{cfg: cfg, cluster: cluster, nodes: nodes}
}

// suspicion is a node's silence so far.
type suspicion struct {
	incarnation uint64
	since       time.Time
	known       bool
}

// Run watches until ctx ends, which gives nil, or until the log has moved on
// to a later term, which gives an error.
func (w *NodeWatcher) Run(ctx context.Context, term uint64) error {
	ctx = fsm.WithActor(ctx, loopNodeWatcher)
	silent := map[string]suspicion{}
	for {
		s := w.cluster.State()
		if err := superseded(s, term); err != nil {
			return err
		}
		silent = w.look(s, silent)
		w.declare(ctx, s, silent, term)
		if !pause(ctx, w.cfg.Every) {
			return nil
		}
	}
}

// look returns the nodes that are silent now, and since when without a break.
// A silence is measured from the leader's own first look: what an earlier
// leader suspected has to be confirmed again.
func (w *NodeWatcher) look(s *fsm.State, before map[string]suspicion) map[string]suspicion {
	now := time.Now()
	silent := map[string]suspicion{}
	for name, n := range s.Nodes.All() {
		alive, known := w.nodes.Alive(name)
		if n.State == fsm.NodeStateDown || (alive && known) {
			continue
		}
		sus := suspicion{incarnation: n.Incarnation, since: now, known: known}
		if b, ok := before[name]; ok && b.incarnation == n.Incarnation {
			sus.since = b.since
			if known && !b.known {
				sus.since = now // the hint is new
			}
		}
		silent[name] = sus
	}
	return silent
}

// declare proposes NodeDown for each node that was silent for long enough.
func (w *NodeWatcher) declare(ctx context.Context, s *fsm.State, silent map[string]suspicion, term uint64) {
	up := 0
	for _, n := range s.Nodes.All() {
		if n.State != fsm.NodeStateDown {
			up++
		}
	}
	for name, sus := range silent {
		needed := w.cfg.Confirm
		if !sus.known || len(silent)*2 > up {
			needed = w.cfg.ConfirmSlow
		}
		quiet := time.Since(sus.since)
		if quiet < needed || ctx.Err() != nil {
			continue
		}
		reason := fmt.Sprintf("the node did not answer for %s", seconds(quiet))
		_, err := w.cluster.Propose(ctx, fsm.NodeDown{Node: name, Incarnation: sus.incarnation, Reason: reason, Term: term})
		if err != nil {
			w.cfg.Metrics.failures.WithLabelValues(loopNodeWatcher).Inc()
			w.cfg.Log.Warn("a silent node could not be declared down yet", "node", name, "error", err)
			continue
		}
		w.cfg.Metrics.nodesDown.Inc()
		w.cfg.Log.Warn("node declared down", "node", name, "reason", reason)
	}
}
