// Package node wires one Paceline node: the cluster, the leader's loops, the
// agent with its drivers, and the API. It holds no logic of its own; several
// nodes fit in one process.
package node
