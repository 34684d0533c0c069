// Package e2e tests the real binary: fleets of agents as processes on
// loopback, in network namespaces and in containers, under real faults. It has
// tests only; see DESIGN.md for what they promise.
package e2e
