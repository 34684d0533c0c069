package main

import "time"

// Bounds of everything that waits, queues or grows.
const (
	nodes = 3

	startDeadline   = 30 * time.Second // from the start of the processes to a leader
	stopDeadline    = 10 * time.Second // from SIGTERM to SIGKILL at the end
	attemptDeadline = 5 * time.Second  // of one request: longer is "hung"
	targetDeadline  = time.Second      // of one request at the node under fault
	writeDeadline   = 15 * time.Second // of one write with all its attempts
	retryPause      = 20 * time.Millisecond
	healDeadline    = 30 * time.Second // from the end of a fault to a whole cluster

	valueBytes    = 100
	keysPerClient = 1000    // a client writes this many names in turn
	readKeys      = 10_000  // names that reads choose from
	failoverRate  = 200     // writes a second
	maxInFlight   = 4000    // writes of a failover trial that wait at once
	maxSamples    = 400_000 // latencies kept by one client
	maxErrorTexts = 5       // different errors that are reported in words
)

// Bounds of the comparison of proxies.
const (
	origins        = 3
	churnOrigins   = 6                      // the size that the group is scaled to and from
	maxOrigins     = 12                     // of the group
	drainGrace     = 500 * time.Millisecond // from draining an origin to its signal
	originStop     = 300 * time.Millisecond // from the signal to its end
	proxyDeadline  = 10 * time.Second       // from the start of a proxy to its first answer
	churnDeadline  = time.Minute            // of one run of changes
	maxOriginConns = 20_000
	originBytes    = 119 // of an answer
	maxSlowMs      = 10_000
	maxBigKiB      = 4096
	maxAnswer      = 4 << 20 // of an API
	maxHeadBytes   = 8 << 10
	maxPinPasses   = 20
	maxLoopSamples = 2_000_000 // latencies kept by one loop
	idlePerSource  = 8000      // connections from one loopback address
	maxIdle        = 100_000

	saturationConns = 64 // keep-alive connections, as of the fixed rate
	largeConns      = 16
	stickyCookies   = 256
)
