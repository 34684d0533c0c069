package cluster

import "time"

// Every limit of the package. What grows with input or with peers is bounded
// by one of these.
const (
	// The write path.
	maxQueued         = 65_536   // commands waiting on one node
	maxQueuedBytes    = 64 << 20 // their bodies
	maxBatchCommands  = 1024     // commands in one entry
	maxBatchBytes     = 1 << 20  // their bodies, before the last one
	maxBatchesFlying  = 2        // batches of one node under way at once
	maxBatchSpread    = 48       // newest minus oldest batch under way; fsm remembers 64
	maxForwardedBytes = 4 << 20  // one forwarded batch as received

	maxRecentBatches = 512 // batches whose outcome is remembered

	// The peer port.
	maxFrame      = 8 << 20 // one request or reply
	maxHello      = 1 << 10 // one handshake message
	maxMethod     = 64      // name of a method
	maxConns      = 1024    // accepted connections
	maxConnCalls  = 256     // requests under way on one connection
	maxFrameQueue = 64      // frames waiting for the writer of a connection

	// Reads and watches.
	maxRingSets    = 4096   // change sets kept for watchers
	maxRingChanges = 16_384 // rows in them

	// Gossip.
	maxMembers     = 512       // names known
	maxGossipState = 256 << 10 // one exchange of address books
	maxGossipMeta  = 512       // what memberlist carries for a node
	retransmits    = 20        // of one piece of news by one node, times log10 of the nodes

	// Log and snapshots.
	maxCachedLogs     = 1024     // entries kept in memory for replication
	maxCachedLogBytes = 8 << 20  // their data
	maxSnapshot       = 4 << 30  // bytes of a snapshot from outside
	maxHeldTail       = 32 << 20 // entries held back while the node heals
	maxAppendEntries  = 64       // entries in one replication message

	// Comparisons of digests ask this many peers.
	maxDigestPeers = 6
)

// Waits that are not part of a timing profile.
const (
	defaultProposeWait = 5 * time.Second
	handshakeTimeout   = 2 * time.Second
	startJoinWait      = time.Second
	stopLinger         = 100 * time.Millisecond
	byeTimeout         = 200 * time.Millisecond
	retryWaitMin       = 2 * time.Millisecond
	retryWaitMax       = 100 * time.Millisecond
)
