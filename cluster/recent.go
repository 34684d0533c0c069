package cluster

import (
	"sync"

	"github.com/pacelinehq/paceline/fsm"
)

// recentBatches remembers the outcomes of the last batches, whoever accepted
// them. A node that lost the answer and sends the batch again gets it from
// here; the machine knows only that the batch was applied.
type recentBatches struct {
	mu   sync.Mutex
	by   map[fsm.BatchID]batchReply
	fifo [maxRecentBatches]fsm.BatchID
	next int
}

func (r *recentBatches) add(a *applied) {
	if a.outcome.Batch.Node == "" || a.outcome.Duplicate || a.outcome.Skipped {
		return
	}
	reply := replyOf(a)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.by == nil {
		r.by = make(map[fsm.BatchID]batchReply, maxRecentBatches)
	}
	delete(r.by, r.fifo[r.next])
	r.fifo[r.next] = a.outcome.Batch
	r.next = (r.next + 1) % maxRecentBatches
	r.by[a.outcome.Batch] = reply
}

// answer replaces the reply to a repeated batch by that to the first.
func (r *recentBatches) answer(id fsm.BatchID, reply batchReply) batchReply {
	if !reply.Duplicate {
		return reply
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if first, ok := r.by[id]; ok {
		first.Index, first.Term = reply.Index, reply.Term
		return first
	}
	return reply
}
