// Package session keeps clients to instances. The replicated state assigns
// each session to an instance once; a sealed cookie then carries the
// assignment, so that any node serves the next request without a lookup and
// without a quorum.
package session
