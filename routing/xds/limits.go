package xds

import "time"

// Every limit of the xDS server stands here.
const (
	// MaxStreams is how many clients are served at one time; one more is told
	// to try another node.
	MaxStreams = 4096
	// MaxNames is how many resources of one type a stream may ask for.
	MaxNames = 2048
	// MaxRequest is the largest request, in bytes.
	MaxRequest = 1 << 20

	maxConnections   = 4096 // more wait to be accepted
	maxConnStreams   = 16   // of one connection: a client needs one
	maxHeader        = 16 << 10
	maxLogText       = 512 // bytes of a client's text in the log
	readBuffer       = 4 << 10
	requestsASecond  = 200 // of one stream, when it goes on; faster ones wait
	requestsAtOnce   = 2000
	nackLogsASecond  = 1
	nackLogsAtOnce   = 10
	handshakeTimeout = 10 * time.Second
	pingAfter        = 30 * time.Second // of silence, to find clients that are gone
	pingTimeout      = 10 * time.Second
	minPing          = 10 * time.Second // clients that ping more often are cut off
)
