// Package fsm is the replicated state of a Paceline cluster: its nouns, the
// commands that change them, and the machine that applies a log of commands to
// an immutable [State].
//
// The package is pure. Apply reads no clock, no random numbers, no
// environment and no map in map order; it starts no goroutine and does no I/O.
// Whatever is not deterministic (time, identifiers, placements) is an input
// that the proposer stamps into the command. Every node that applies the same
// log therefore holds the same State, byte for byte, which the rolling
// [State.Digest] checks at run time.
//
// The nouns carry their JSON tags and are the nouns of the HTTP API as well:
// there is no second set of types.
//
// See DESIGN.md beside this file for the invariants and the rejected ideas.
package fsm
