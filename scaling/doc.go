// Package scaling decides what should run: it sizes groups by their policies,
// places their instances on nodes, and keeps what runs equal to what is wanted.
//
// The package has a pure half and a looping half. The pure half maps a
// [fsm.State] and a time to proposals and can be tested as plain functions:
// [Decide] evaluates policies, [Place] chooses nodes, [Planner.Plan] makes a
// whole reconcile pass, and [Explain] says in one sentence why a group looks as
// it does. The looping half runs on the leader only and does nothing but read
// the state, call the pure half, and propose: [Reconciler], [NodeWatcher] and
// [Autoscaler]. [Store] is the one part that runs on every node: it keeps the
// metric samples that the leader's autoscaler pulls.
//
// Nothing that matters is kept in the memory of a loop. Cooldowns, streaks of
// breaches, launch rates and crash-loop back-offs are all derived from the
// replicated state, so that the next leader carries on where the last one
// stopped. See DESIGN.md beside this file.
package scaling

import (
	"context"
	"iter"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Cluster is what the loops need of the replicated state.
type Cluster interface {
	// Propose commits a command and returns once it was applied.
	Propose(ctx context.Context, c fsm.Command) (fsm.Result, error)
	// State is the newest state that this node has applied.
	State() *fsm.State
	// Watch yields the change sets after an index. An error ends the
	// iteration: the reader takes the whole State and watches again.
	Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error]
}

// Liveness is the view of gossip and probes on the nodes.
type Liveness interface {
	// Alive reports whether a node answers, and whether anything is known of
	// it at all.
	Alive(node string) (alive, known bool)
}

// logTime is the time that a command proposed now would carry: the clock, but
// never before the last command. A clock that is behind must not prolong or
// shorten what the last leader had begun.
func logTime(s *fsm.State) time.Time {
	now := time.Now().UTC()
	if s.Time().After(now) {
		return s.Time()
	}
	return now
}

// superseded reports, as an error, that the state has entries of a later term:
// whatever this term's loop would propose is going to be refused.
func superseded(s *fsm.State, term uint64) error {
	if s.Term() <= term {
		return nil
	}
	return fsm.Errorf(fsm.Conflict, "term", "", "%d is over, the log is at term %d", term, s.Term())
}
