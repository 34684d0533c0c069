package proxy

import "time"

// The limits of the data plane that no service can change.
const (
	// maxHead bounds the head of a request or an answer, maxFields its fields.
	maxHead   = 64 << 10
	maxFields = 128
	// replayLimit is the largest body that is kept to be sent again.
	replayLimit = 16 << 10
	// scratchLimit is the largest scratch buffer that is kept for reuse.
	scratchLimit = 128 << 10
	// drainLimit is how much of an answer that is thrown away is read, to
	// keep its connection.
	drainLimit = 64 << 10
	// maxInterim bounds the 1xx answers to one request.
	maxInterim = 16
	// maxAttempts bounds the attempts of one request, whatever a service says.
	maxAttempts = 10
	// maxIdlePerInstance and idleUpstream bound the idle connections to an
	// instance.
	maxIdlePerInstance = 256
	idleUpstream       = 30 * time.Second
	// janitorEvery is how often idle connections and ejections are looked at.
	janitorEvery = 250 * time.Millisecond
	// maxEjection is the longest time out of an instance that fails again and
	// again; after steadyAfter without one, it starts small again.
	maxEjection = 5 * time.Minute
	steadyAfter = time.Minute
	// lookAgain is the pause between two looks at a node, and the first time
	// out of a silent instance.
	lookAgain = time.Second
	// knockAgain is how long a look goes without sending another request for
	// a connection: the system's own second one comes too late.
	knockAgain = 150 * time.Millisecond
	// maxKnocks bounds the instances of a node that are knocked at in one look.
	maxKnocks = 8
	// maxProbes bounds the checks of ejected instances, and looks, under way.
	maxProbes = 64
	// lastPause bounds the pause between two attempts of a request that all
	// instances refuse; see waits.refused.
	lastPause = 500 * time.Millisecond
	// maxWakings bounds the commands under way that wake groups, and those that
	// are to be woken next; wakeTimeout bounds each: the cluster holds it while
	// it has no leader.
	maxWakings  = 64
	wakeTimeout = 5 * time.Second
	// maxConnections bounds the client connections of a node.
	maxConnections = 65536
	// acceptPause is the pause after a failed accept, so that a machine out of
	// descriptors does not spin.
	acceptPause = 20 * time.Millisecond
	// maxClients bounds the clients that a service's limits remember.
	maxClients = 65536
	// assignTimeout is how long a new session waits for the cluster: longer
	// than the loss of a leader takes, so that it shows as latency only.
	assignTimeout = 2 * time.Second
	// maxStreams bounds the streams of a connection of HTTP/2, streamWindow
	// what each may have sent before it is read.
	maxStreams   = 250
	streamWindow = 256 << 10
	// answerTimeout bounds the writing of an answer of the proxy itself.
	answerTimeout = 5 * time.Second
	// lingerTimeout and lingerBytes bound what is read of a client that was
	// refused, so that it gets the answer and not a reset.
	lingerTimeout = time.Second
	lingerBytes   = 256 << 10
)

const (
	// defaultIdle and defaultStall hold where no service says otherwise.
	defaultIdle  = time.Minute
	defaultStall = 30 * time.Second
	// uploadGrace is how long an answer that has begun waits for the rest of
	// its request's body.
	uploadGrace = 100 * time.Millisecond
)

// waits are times that no service chooses. They are fields, and not constants,
// so that a test need not last as long as they do.
type waits struct {
	// head bounds the time between the first byte of a request and the end of
	// its head, however slowly it trickles in.
	head time.Duration
	// warm is how long an idle connection keeps its buffers.
	warm time.Duration
	// drain is how long an idle connection of a listener that closes may bring
	// one more request.
	drain time.Duration
	// relisten is the pause between attempts to listen on a service's port.
	relisten time.Duration
	// wake is the least time between two commands that wake the same group.
	wake time.Duration
	// refused is the first pause of a request that all instances refuse; each
	// further one is twice as long, up to lastPause.
	refused time.Duration
	// stuck is how long a client of HTTP/2 may take nothing of what it is sent.
	stuck time.Duration
	// doubt is how long an instance gives no answer to anybody, while a request
	// waits for one, until it is looked at.
	doubt time.Duration
	// look bounds the wait for a connection at a look, ask the wait for a node's
	// answer. With doubt and two of the janitor's ticks they are less than two
	// seconds.
	look, ask time.Duration
}

func standardWaits() waits {
	return waits{
		head: 10 * time.Second, warm: time.Second, drain: 2 * time.Second, relisten: 2 * time.Second, wake: time.Second, refused: 20 * time.Millisecond, stuck: defaultStall,
		doubt: 500 * time.Millisecond, look: 600 * time.Millisecond, ask: 600 * time.Millisecond,
	}
}
