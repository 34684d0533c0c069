// Package http1 is the wire format of HTTP/1.1 (RFC 9110, RFC 9112) for both
// sides of a reverse proxy: heads are parsed, bodies are framed, and nothing is
// interpreted beyond that.
//
// It is strict. Whatever two parsers could read differently is refused with a
// status and a reason, because a proxy that repairs a message lets a client
// smuggle a second one past it. A bad answer of an upstream is an error as well
// and is never guessed at.
//
// Nothing is allocated for a message: fields are slices of the reader's buffer,
// and the buffer goes back to a pool while a connection is idle.
package http1
