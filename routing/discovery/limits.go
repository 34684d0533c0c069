package discovery

import "time"

// Every limit of the DNS server stands here.
const (
	// MaxQueries is how many queries are answered at one time; one more is
	// dropped, and its client asks again.
	MaxQueries = 512
	// MaxConnections is how many TCP connections are open at one time; more
	// wait to be accepted.
	MaxConnections = 256
	// MaxRecords is how many endpoints one answer has: as many as chance picks
	// of a larger group.
	MaxRecords = 256
	// MaxUDPSize is the largest answer by UDP, whatever the client offers: what
	// passes every common network in one piece.
	MaxUDPSize = 1232
	// MaxTTL is the longest time that answers may be kept.
	MaxTTL = time.Hour

	maxDomain         = 128  // bytes; names below it need the rest of 255
	maxErrorText      = 128  // bytes of the reason of a SERVFAIL
	maxServicesKept   = 4096 // services whose endpoints are kept ready
	maxConnQueries    = 1024 // of one TCP connection, then it is closed
	firstQueryTimeout = 5 * time.Second
	idleTimeout       = 10 * time.Second
	writeTimeout      = 5 * time.Second
	listenAttempts    = 16 // to find a port that is free for UDP and TCP
)
