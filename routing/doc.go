// Package routing says which service a request is for. Its [Routes] are an
// immutable index made from the replicated state; [Follow] makes them anew
// whenever the state changes. The packages below it choose an instance
// (balance), speak HTTP (http1), move the bytes (proxy), keep sessions
// (session), and answer clients that do without our proxy (discovery, xds).
package routing
