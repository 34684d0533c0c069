package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// Kind is a kind of fault.
type Kind string

// The kinds of fault. A process can not be paused in here: the nearest things
// are Freeze, which takes network and disk away from a node that goes on
// computing, and the end-to-end tests, which stop real processes.
const (
	KillNode      Kind = "kill a node"
	KillLeader    Kind = "kill the leader"
	PowerNode     Kind = "power failure of a machine"
	PowerAll      Kind = "power failure of all machines"
	PowerMajority Kind = "power failure of a majority"
	Renumber      Kind = "restart with another address"
	StopNode      Kind = "stop in order and start"
	RollAll       Kind = "rolling restart"
	Isolate       Kind = "isolate a node"
	IsolateLeader Kind = "isolate the leader"
	Split         Kind = "split in two"
	OneWay        Kind = "one-way cut"
	Ring          Kind = "ring: each reaches its neighbours only"
	GossipCut     Kind = "packets cut, streams work"
	RaftCut       Kind = "streams cut, packets work"
	SlowNet       Kind = "delay and jitter"
	LossyNet      Kind = "packet loss"
	SlowDisk      Kind = "slow disk"
	StallDisk     Kind = "stalled disk"
	Freeze        Kind = "network and disk of a node hang"
	Transfer      Kind = "transfer leadership"
	DrainNode     Kind = "drain a node"
	AddNode       Kind = "add a node"
	RemoveNode    Kind = "remove a node"
	EndInstance   Kind = "an instance ends"
	SickInstance  Kind = "an instance is sick"
)

// Kinds lists all kinds of fault.
func Kinds() []Kind {
	return []Kind{
		KillNode, KillLeader, PowerNode, PowerAll, PowerMajority, Renumber, StopNode, RollAll, Isolate, IsolateLeader,
		Split, OneWay, Ring, GossipCut, RaftCut, SlowNet, LossyNet, SlowDisk, StallDisk, Freeze, Transfer, DrainNode,
		AddNode, RemoveNode, EndInstance, SickInstance,
	}
}

// Fault is one fault of a schedule.
type Fault struct {
	Kind Kind
	// At is when it begins, from the start of the load; For is how long it
	// lasts, for those that last.
	At, For time.Duration
	// Pick chooses among the nodes that the kind can hit; Hit what else there
	// is to choose.
	Pick, Hit uint64
	// OnLeader hits the leader, where the kind leaves a choice.
	OnLeader bool
}

// String describes the fault.
func (f Fault) String() string {
	s := fmt.Sprintf("%s at %s for %s (pick %d, hit %d", f.Kind, f.At, f.For, f.Pick%100, f.Hit%100)
	if f.OnLeader {
		s += ", the leader"
	}
	return s + ")"
}

// Bounds of a schedule.
const (
	firstFault = 2 * time.Second
	faultGap   = 1500 * time.Millisecond // at least, to the next
	faultGapUp = 4 * time.Second         // and up to this much more
	lastFault  = 4 * time.Second         // before the end of the load
	// together is how many disruptive faults may be under way at once.
	together = 2
)

// draw makes the schedule of a run.
func (w *World) draw() []Fault {
	rng := w.chance.of(1)
	var list []Fault
	at := firstFault + time.Duration(rng.Int64N(int64(2*time.Second)))
	var ends []time.Duration
	for at < w.opt.Load-lastFault && len(w.opt.Faults) > 0 {
		f := Fault{
			Kind: w.opt.Faults[rng.IntN(len(w.opt.Faults))], At: at.Round(time.Millisecond),
			Pick: uint64(rng.Uint32()), Hit: uint64(rng.Uint32()), OnLeader: rng.IntN(3) == 0,
		}
		f.For = lasting(f.Kind, rng)
		ends = slices.DeleteFunc(ends, func(e time.Duration) bool { return e <= at })
		if len(ends) < together {
			list = append(list, f)
			ends = append(ends, at+f.For)
		}
		at += faultGap + time.Duration(rng.Int64N(int64(faultGapUp)))
	}
	return list
}

// lasting draws how long a fault lasts.
func lasting(k Kind, rng *rand.Rand) time.Duration {
	from, upTo := 500*time.Millisecond, 6*time.Second
	switch k {
	case KillNode, KillLeader, PowerNode, Renumber:
		from, upTo = 100*time.Millisecond, 10*time.Second
	case PowerAll, PowerMajority, StopNode, RollAll:
		from, upTo = 100*time.Millisecond, 3*time.Second
	case StallDisk, Freeze:
		from, upTo = 300*time.Millisecond, 4*time.Second
	case AddNode, RemoveNode, DrainNode:
		from, upTo = 4*time.Second, 12*time.Second
	case Transfer, EndInstance:
		return 0
	}
	return (from + time.Duration(rng.Int64N(int64(upTo-from)))).Round(time.Millisecond)
}
