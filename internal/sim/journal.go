package sim

import (
	"bytes"
	"sync"

	"github.com/hashicorp/raft"
)

// journal is the log of the whole cluster, put together from what the nodes
// write to their disks. Of several entries at one index the one of the highest
// term counts: once an entry is committed, every leader of a later term has it,
// so that whatever differs from it is of an earlier one.
type journal struct {
	w  *World
	mu sync.Mutex
	at map[uint64]*raft.Log
	// settled is the highest index that is known to be committed: nothing up
	// to it may ever change.
	settled uint64
}

// add takes an entry that a node writes.
func (j *journal) add(node string, l *raft.Log) {
	j.mu.Lock()
	have := j.at[l.Index]
	overwrites := have != nil && l.Term > have.Term && l.Index <= j.settled
	differs := have != nil && l.Term == have.Term && (l.Type != have.Type || !bytes.Equal(l.Data, have.Data))
	if have == nil || l.Term > have.Term && !overwrites {
		j.at[l.Index] = l
	}
	j.mu.Unlock()
	switch {
	case overwrites:
		j.w.violate("I3 committed stays", "node %s writes an entry of term %d at index %d, where one of term %d was committed", node, l.Term, l.Index, have.Term)
	case differs:
		j.w.violate("log matching", "node %s writes another entry than the others at index %d, term %d", node, l.Index, l.Term)
	}
}

// settle says that entries up to index are committed, and returns those above
// from, in order.
func (j *journal) settle(from, index uint64) (list []*raft.Log, missing uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.settled = max(j.settled, index)
	for i := from + 1; i <= index; i++ {
		l := j.at[i]
		if l == nil {
			return list, i
		}
		list = append(list, l)
	}
	return list, 0
}
