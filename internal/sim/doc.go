// Package sim runs a whole Paceline cluster in one process under virtual time:
// the real nodes, with hashicorp/raft and memberlist inside, over a simulated
// network and simulated disks, inside a testing/synctest bubble. Hours pass in
// seconds, and faults come from a seed.
//
// A seed gives the same faults, not the same interleaving of goroutines, so a
// run that fails also dumps its history.
package sim
