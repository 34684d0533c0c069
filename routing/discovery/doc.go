// Package discovery answers DNS for the services of the cluster, for clients
// that know neither the API nor the proxy: the endpoints of a group by A, AAAA
// and SRV, its instances and the nodes by name. Every node answers from its
// own copy of the replicated state.
//
// See DESIGN.md beside this file, and docs/discovery.md for how to use it.
package discovery
