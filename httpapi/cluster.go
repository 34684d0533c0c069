package httpapi

import (
	"context"
	"io"
	"iter"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// Cluster is what the API needs of the replicated state and its membership.
type Cluster interface {
	// Propose has a command applied; actor and request id come from ctx.
	Propose(ctx context.Context, c fsm.Command) (fsm.Result, error)
	// State is this node's state, without waiting.
	State() *fsm.State
	// Watch yields the changes after index from; an error ends it.
	Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error]
	// WaitIndex returns a state whose index is at least index.
	WaitIndex(ctx context.Context, index uint64) (*fsm.State, error)
	// StrongState returns a state that reflects every write that was
	// acknowledged before the call.
	StrongState(ctx context.Context) (*fsm.State, error)
	// LeaderState returns a state at least as new as the leader's.
	LeaderState(ctx context.Context) (*fsm.State, error)
	// Halted says why this node's state must not be answered from; nil when it
	// may be.
	Halted() error
	// Stale is the age of this node's state.
	Stale() time.Duration

	// Leave takes this node out of the cluster.
	Leave(ctx context.Context) error
	// RemoveMember takes another node out of the cluster.
	RemoveMember(ctx context.Context, name string) error
	// TransferLeadership hands leadership over; to may be empty.
	TransferLeadership(ctx context.Context, to string) error

	// SaveSnapshot writes the state.
	SaveSnapshot(ctx context.Context, w io.Writer) error
	// RestoreSnapshot checks a snapshot and replaces the state everywhere.
	RestoreSnapshot(ctx context.Context, r io.Reader) error
}

// MetricsSink takes the samples that users push.
type MetricsSink interface {
	PushMetrics(ctx context.Context, group string, samples []client.MetricSample) error
}

// LogQuery says which part of an instance's log is wanted.
type LogQuery struct {
	// Tail is the number of last lines, when Offset is below 0.
	Tail int
	// Offset is where to go on, in bytes; below 0 for none.
	Offset int64
	// Wait is how long to wait for output when there is none at Offset yet.
	Wait time.Duration
}

// LogChunk is a part of an instance's log.
type LogChunk struct {
	Data []byte
	// Next is the offset after Data.
	Next int64
	// Ended says that no more output will come.
	Ended bool
}

// Heartbeats takes what instances say about their own health, on whatever node
// they run.
type Heartbeats interface {
	Heartbeat(ctx context.Context, instance string, beat client.Heartbeat) (client.HeartbeatTaken, error)
}

// LogSource reads the logs of instances, on whatever node they run.
type LogSource interface {
	Logs(ctx context.Context, instance string, q LogQuery) (LogChunk, error)
}
