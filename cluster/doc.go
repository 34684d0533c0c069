// Package cluster carries one [fsm.Machine] on every node of a fleet: it
// agrees on a log of commands by Raft, finds the nodes by gossip, and lets any
// node take writes and answer reads.
//
// A node is a [Cluster]: [Open] checks the configuration, [Cluster.Start] runs
// it, [Cluster.Stop] hands leadership over and keeps the membership. Several
// fit in one process. Whatever a node shares with the outside is behind
// [Network] and [Storage], so that the simulation can run many of them in
// virtual time.
//
// Writes are held and retried through an election: a failover is seen as
// latency, not as errors. See DESIGN.md beside this file for the flows, the
// invariants and what was rejected.
package cluster
