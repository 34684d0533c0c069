package balance

import "time"

// Every limit of the package.
const (
	maxEndpoints   = 1 << 14 // in a set; positions are kept in 16 bits
	maxWeight      = 256     // of an endpoint
	maxBoundedLoad = 10_000  // percent of the mean load

	// maxTurns is the longest schedule of round robin. It holds any weights of
	// 1,000 endpoints exactly; those of more may be rounded.
	maxTurns = 1 << 18

	// drawLimit is how often an endpoint is drawn, or a hash probed, before
	// the slow way is taken or the best draw so far is.
	drawLimit = 16
	// fewTried is how many tried endpoints are looked for one by one.
	fewTried = 8
)

// What the time of a pick allows for; DESIGN.md has the measurements.
const (
	leastScan    = 10 // least_requests looks at all endpoints up to here
	leastChoices = 3  // and at so many random ones in a larger set
	rendezvous   = 32 // hashing scores all endpoints up to here
)

const (
	// decay is the time in which a latency loses 63 % of its weight: the
	// default of Finagle and of linkerd.
	decay = 10 * time.Second
	// unknownLatency stands for the latency of an endpoint that has requests
	// in flight and never ended one.
	unknownLatency = time.Second
	// slowStartFloor is the share of an endpoint that has just become ready.
	slowStartFloor = 0.1
)
