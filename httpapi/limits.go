package httpapi

import "time"

// Every limit of the API stands here.
const (
	// MaxBodyBytes is the largest JSON body.
	MaxBodyBytes = 1 << 20
	// MaxSnapshotBytes is the largest snapshot that can be restored.
	MaxSnapshotBytes = 4 << 30
	// MaxDepth is how deep JSON may nest.
	MaxDepth = 32
	// DefaultPage and MaxPage are the sizes of a page of a listing.
	DefaultPage = 100
	MaxPage     = 1000
	// MaxSamples is how many samples one request may push.
	MaxSamples = 1000
	// MaxHeartbeatOutput is how much an instance may say in a heartbeat.
	MaxHeartbeatOutput = 4 << 10
	// routeAttempts is how often a session is routed again because its
	// instance has ended meanwhile.
	routeAttempts = 3
	// MaxFieldErrors bounds the field errors of one problem.
	MaxFieldErrors = 64

	// DefaultConnections caps the open connections of a server.
	DefaultConnections = 16384
	// MaxStreams caps the open event and log streams.
	MaxStreams = 1024
	// MaxBlocked caps the blocking reads that wait at one time.
	MaxBlocked = 4096
	// MaxWatchers caps the readers that wait for services, blocking or by a
	// stream. One costs a connection, and shares everything else.
	MaxWatchers = 12288

	// DefaultWriteTimeout is how long a write may wait for a quorum.
	DefaultWriteTimeout = 5 * time.Second
	readTimeout         = 5 * time.Second
	snapshotTimeout     = 10 * time.Minute
	leaveTimeout        = 30 * time.Second
	defaultWait         = 30 * time.Second
	maxWait             = 10 * time.Minute
	consulDefaultWait   = 5 * time.Minute

	headerTimeout   = 5 * time.Second
	bodyTimeout     = 30 * time.Second
	answerTimeout   = 60 * time.Second
	idleTimeout     = 2 * time.Minute
	streamTimeout   = 10 * time.Second // one write of a stream
	maxHeaderBytes  = 16 << 10
	maxQueryBytes   = 4 << 10
	maxRequestIDLen = 64
	maxTokenFile    = 64 << 10
	maxTokens       = 256
	minToken        = 16

	// maxStreamInput is how much the client of a stream may send, after its request.
	maxStreamInput = 4 << 10
	// maxCopiedFrame is the largest frame that a parked stream copies, to write it at once.
	maxCopiedFrame = 4 << 10

	eventSetsKept     = 2048 // change sets that the event stream remembers
	eventChangesKept  = 16384
	maxSetsAtOnce     = 256
	maxAnswersKept    = 4096     // encoded answers of services, each of one filter
	maxAnswerBytes    = 64 << 20 // of them all
	maxScrapes        = 4
	heartbeat         = 15 * time.Second
	eventRetry        = time.Second
	hubBackoff        = 100 * time.Millisecond
	defaultTail       = 100
	maxTail           = 10_000
	logWait           = 10 * time.Second
	logPoll           = 200 * time.Millisecond
	maxReason         = 256
	maxRepeated       = 16 // values of one query parameter
	statusInstances   = 1000
	patchAttempts     = 5
	maxSampleSkew     = 5 * time.Minute
	staleNotReady     = 10 * time.Second
	defaultRetryAfter = time.Second
)
