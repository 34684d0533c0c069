// Package client is the Go client of Paceline's HTTP API and the contract types
// that are not nouns of the replicated state. The nouns themselves (template,
// group, instance, policy, node, …) are those of package fsm: there is no second
// set of types.
//
// A [Client] knows several endpoints and stays with one while it answers, so
// that a program reads its own writes. When the endpoint fails, the next one
// takes over; a write is sent again under the same Idempotency-Key, so that it
// applies once. Every error is a [*Problem].
//
// See DESIGN.md beside this file.
package client
