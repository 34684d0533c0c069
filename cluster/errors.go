package cluster

import (
	"errors"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

var errMuted = errors.New("this node's disk has stalled; it does not act as the leader")

func errStopped() error {
	return fsm.Errorf(fsm.Unavailable, "node", "", "is stopping").WithHint("send the request to another node")
}

const quorumHint = "a majority of the voters must be up and reach each other; see `paceline cluster status`, then retry"

func errNoLeader(waited time.Duration) error {
	return fsm.Errorf(fsm.NoLeader, "cluster", "", "had no leader for %s; the write was not applied", waited.Round(time.Millisecond)).
		WithHint(quorumHint)
}

func errLeaderless() error {
	return fsm.Errorf(fsm.NoLeader, "cluster", "", "has no leader that this node knows of").WithHint(quorumHint)
}

func errOverloaded(waited time.Duration) error {
	return fsm.Errorf(fsm.Unavailable, "node", "", "could not send the write within %s; it was not applied", waited.Round(time.Millisecond)).
		WithHint("the cluster is overloaded; retry later")
}

func errUnknownOutcome() error {
	return fsm.Errorf(fsm.UnknownOutcome, "write", "", "may or may not have been applied: the leader was lost while it was under way").
		WithHint("read the state, or retry with the same Idempotency-Key, which applies it once")
}

func errQueueFull() error {
	return fsm.Errorf(fsm.Exhausted, "node", "", "holds as many waiting writes as it may").
		WithHint("retry later, or send fewer writes at once")
}
