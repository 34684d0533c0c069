// Package proxy is the data plane of a node: it accepts connections, reads
// requests, chooses an instance for each and moves the bytes. It has one
// goroutine for each client connection, no lock on a request's way that is
// held during I/O, and asks nobody: everything it needs stands in an immutable
// plan that it loads with one atomic load.
package proxy
