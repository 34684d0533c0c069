package session

import "time"

// Limits of the session manager.
const (
	// maxBatch is the most sessions that one command assigns. Larger ones
	// would not be cheaper, and would hold up the commands behind them.
	maxBatch = 1024
	// maxInFlight is how many commands of a group are under way at once: one
	// that is being agreed on, and one that fills meanwhile.
	maxInFlight = 2
	// maxWaiting bounds the requests that wait for an assignment.
	maxWaiting = 65536
	// proposeTimeout bounds one command, however many wait for it.
	proposeTimeout = 5 * time.Second
	// downFor is how long new sessions do not wait for the cluster after it
	// could not agree in time.
	downFor = time.Second

	// maxTouched bounds the sessions whose use is to be recorded; further
	// ones are recorded with their next refresh.
	maxTouched = 1 << 18
	touchEvery = 2 * time.Second
	// lastTimeout bounds what a node that stops has left to record.
	lastTimeout = time.Second

	// rotateEvery is how long a key seals cookies, at least. It opens them for
	// another period, so no cookie may live longer than a period: with a
	// service whose sessions do, keys seal for as long as those.
	rotateEvery = 24 * time.Hour
	// keepEvery is the time between two rounds of the leader's housekeeping.
	keepEvery = time.Second
	// expireShare is the part of the time to live after which a group's
	// sessions are looked through for those that have ended.
	expireShare = 4
	// keepPause keeps rounds apart that changes of the state ask for.
	keepPause = 5 * time.Millisecond
)
