package cluster

import "time"

// maxGather bounds the wait for writers who are expected back.
const maxGather = 4 * time.Millisecond

// gather decides when the writes that wait are sent as a batch. An entry costs
// the whole cluster its messages and fsyncs, however few commands it holds, so
// that writes are best sent together; but nobody should wait for company that
// does not come. Two observations tell which it is:
//
//   - Clients that were just answered send their next write at about the same
//     time. Sent at once, the first of them would travel alone, and all others
//     would wait for it. So after an answer the queue may grow for half
//     of a batch's usual time, until most of them are back.
//   - While a batch is under way, a second one of less than half its size gains
//     little: those writes can as well go with all who come until it is back.
//
// One client alone never waits: it is the only one expected. The first rule is
// that of commit_delay and commit_siblings in PostgreSQL, with both numbers
// taken from the load. It is not safe for concurrent use.
type gather struct {
	usual time.Duration // smoothed time of a batch, from sealing to its answer
	want  int           // writes expected in the queue soon
	until time.Time     // end of the wait for them
}

// flight is a batch under way.
type flight struct {
	size  int
	since time.Time
}

// answered notes that a batch is over, with queued other writes waiting.
func (g *gather) answered(f flight, queued int, now time.Time) {
	took := now.Sub(f.since)
	if g.usual == 0 {
		g.usual = took
	}
	g.usual += (took - g.usual) / 8
	back := queued + f.size
	g.want, g.until = back-back/4, now.Add(min(g.usual/2, maxGather))
}

// hold returns for how long the queue should grow before it is sent, 0 when it
// should be sent now. newest is the batch under way that was sent last, or
// nothing.
func (g *gather) hold(queued int, newest flight, now time.Time) time.Duration {
	if queued >= maxBatchCommands {
		return 0
	}
	if queued < g.want && now.Before(g.until) {
		return g.until.Sub(now)
	}
	if late := newest.since.Add(2 * g.usual); queued < newest.size/2 && now.Before(late) {
		return late.Sub(now)
	}
	return 0
}

// hold returns for how long the queue should still grow, 0 when it is due.
// The caller has the lock.
func (p *proposer) hold(now time.Time) time.Duration {
	var newest flight
	if b := p.flying[p.seq]; b != nil {
		newest = b.flight
	}
	return p.gather.hold(len(p.queue), newest, now)
}
