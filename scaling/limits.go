package scaling

import "time"

// Bounds that nobody needs to tune. Those that an operator may want to change
// are in [Limits], [ReconcilerConfig], [NodeWatcherConfig], [AutoscalerConfig]
// and [StoreLimits].
const (
	// maxReason is the longest sentence that the replicated state takes.
	maxReason = 256
	// maxGenerations of crashes are remembered: more do not lengthen the
	// back-off any further.
	maxGenerations = 10
	// failurePenalty is how long a failed instance counts as one in its
	// place, so that its successors try other nodes.
	failurePenalty = 5 * time.Minute
	// idsPerCommand bounds one StopInstances or ForgetInstances.
	idsPerCommand = 500
	// parallelProposals lets the cluster commit proposals of different
	// groups together.
	parallelProposals = 16
	// parallelQuestions is how many unhealthy instances are asked at once, and
	// questionMargin what a question may take beyond the check's own timeout.
	parallelQuestions = 64
	questionMargin    = 2 * time.Second
	// maxMetrics is the most metrics of a group that a decision may carry.
	maxMetrics = 32
	// maxNodesNamed bounds the node names in a placement's reason.
	maxNodesNamed = 3
	// wakeHold is how long a group that a request has woken is not put back to
	// 0: its instance has to start, and the metrics have to show the request.
	wakeHold = time.Minute
	// inFluxShare: when a group is at its maximum, at most one in this many
	// of its instances (and at least one) is given up before its replacement
	// exists.
	inFluxShare = 4
)

// Limits bounds what one reconcile pass does. The zero value of each field
// means its default.
type Limits struct {
	// LaunchBurst is the most launches of a group within LaunchWindow.
	LaunchBurst  int
	LaunchWindow time.Duration
	// BackoffMin is the delay after a first failure; it doubles with each
	// further generation of failures up to BackoffMax.
	BackoffMin time.Duration
	BackoffMax time.Duration
	// StableAfter is how long beyond its health-check grace an instance has
	// to live for its failure to count as a first one again.
	StableAfter time.Duration
	// KeepEnded is how many ended instances of a group are kept, and
	// KeepEndedFor for how long.
	KeepEnded    int
	KeepEndedFor time.Duration
	// MaxCommands is the most commands of one pass; the next pass does the
	// rest.
	MaxCommands int
}

// DefaultLimits are the limits of a node that sets none.
func DefaultLimits() Limits { return Limits{}.withDefaults() }

func (l Limits) withDefaults() Limits {
	return Limits{
		LaunchBurst:  orDefault(l.LaunchBurst, 50),
		LaunchWindow: orDefault(l.LaunchWindow, time.Second),
		BackoffMin:   orDefault(l.BackoffMin, time.Second),
		BackoffMax:   orDefault(l.BackoffMax, 5*time.Minute),
		StableAfter:  orDefault(l.StableAfter, time.Minute),
		KeepEnded:    orDefault(l.KeepEnded, 10),
		KeepEndedFor: orDefault(l.KeepEndedFor, time.Hour),
		MaxCommands:  orDefault(l.MaxCommands, 1000),
	}
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// DefaultInterval is the time between two evaluations of a group.
const DefaultInterval = 5 * time.Second
