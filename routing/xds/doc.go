// Package xds serves the groups of the cluster to gRPC clients that balance by
// themselves: an aggregated discovery server (ADS, xDS v3, state of the world)
// with a listener, a route, a cluster and the endpoints of each group, made
// from the node's own copy of the replicated state. A client dials
// xds:///GROUP.
//
// See DESIGN.md beside this file, and docs/discovery.md for how to use it.
package xds
