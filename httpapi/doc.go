// Package httpapi serves Paceline's HTTP API: one table of routes, from which
// the router, the access checks, the metrics and the OpenAPI document are made.
//
// Handlers are thin. A read takes one immutable state, at the asked
// consistency, and renders rows of it; a write checks its body, proposes one
// command and renders the command's value. What the cluster, the metrics sink
// and the logs are is declared here as small interfaces and supplied by the
// node.
//
// See DESIGN.md beside this file for the invariants and the rejected ideas.
package httpapi
