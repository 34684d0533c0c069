package fsm

import "time"

// How long and how many answered requests are remembered.
const (
	requestTTL      = 24 * time.Hour
	maxRequests     = 100_000
	requestsPerSwep = 4
	originWindow    = 64
)

// Request is the remembered outcome of a write with an Idempotency-Key: the
// same key again gets the same answer and changes nothing.
type Request struct {
	ID      string    `json:"id"`
	Seq     uint64    `json:"seq"`
	Command string    `json:"command"`
	Hash    uint64    `json:"hash"`
	At      time.Time `json:"at"`
	Err     *Error    `json:"err,omitempty"`
}

var requestTable = tableSpec[Request]{
	name: "requests", noun: "request", encoded: true,
	key: func(r *Request) string { return r.ID },
}

// RequestAge orders the remembered requests by age.
type RequestAge struct {
	Seq uint64    `json:"seq"`
	ID  string    `json:"id"`
	At  time.Time `json:"at"`
}

var requestAgeTable = tableSpec[RequestAge]{
	name: "requestOrder", noun: "request", encoded: true,
	key: func(a *RequestAge) string { return seqKey("", a.Seq) },
}

// remember stores a request's outcome and drops a few that are too old or too
// many, so that the work of each command stays bounded.
func (tx *Tx) remember(r *Request) {
	r.Seq, r.At = 1, tx.Meta.Time
	for _, last := range tx.RequestOrder.Backward("") {
		r.Seq = last.Seq + 1
		break
	}
	var old []*RequestAge
	for _, a := range tx.RequestOrder.All() {
		tooMany := tx.Requests.Len()-len(old) >= maxRequests
		if len(old) == requestsPerSwep || (!tooMany && tx.Meta.Time.Sub(a.At) < requestTTL) {
			break
		}
		old = append(old, a)
	}
	for _, a := range old {
		del(tx, &tx.State.Requests, a.ID)
		del(tx, &tx.State.RequestOrder, seqKey("", a.Seq))
	}
	put(tx, &tx.State.Requests, r)
	put(tx, &tx.State.RequestOrder, &RequestAge{Seq: r.Seq, ID: r.ID, At: r.At})
}

// Origin is where batches of commands come from: one process of one node. It
// remembers which batches were applied, so that a batch which is sent again
// after a failover applies once.
type Origin struct {
	Node string `json:"node"`
	// Boot tells the processes of a node apart; a newer one starts afresh.
	Boot uint64 `json:"boot"`
	// High is the highest batch number applied. Bit k of Seen says that
	// batch High-k was.
	High uint64 `json:"high"`
	Seen uint64 `json:"seen"`
}

var originTable = tableSpec[Origin]{
	name: "origins", noun: "origin", key: func(o *Origin) string { return o.Node },
}

// applied reports whether a batch has been applied. A batch of an earlier
// process, or one older than the window, counts as applied: nobody waits for
// it any more, and it must not be applied late.
func (o *Origin) applied(b BatchID) bool {
	switch {
	case b.Boot != o.Boot:
		return b.Boot < o.Boot
	case b.Seq > o.High:
		return false
	case o.High-b.Seq >= originWindow:
		return true
	}
	return o.Seen&(1<<(o.High-b.Seq)) != 0
}

// with returns the origin after a batch was applied.
func (o Origin) with(b BatchID) *Origin {
	if b.Boot != o.Boot {
		return &Origin{Node: b.Node, Boot: b.Boot, High: b.Seq, Seen: 1}
	}
	if b.Seq > o.High {
		o.Seen = o.Seen<<min(b.Seq-o.High, originWindow) | 1
		o.High = b.Seq
	} else {
		o.Seen |= 1 << (o.High - b.Seq)
	}
	return &o
}

// Quarantined is an entry whose command panicked while it was applied. Every
// replica drops its effects and goes on; the row says what to look at.
type Quarantined struct {
	Index   uint64    `json:"index"`
	Number  int       `json:"number"`
	Command string    `json:"command"`
	Panic   string    `json:"panic"`
	At      time.Time `json:"at"`
}

var quarantineTable = tableSpec[Quarantined]{
	name: "quarantine", noun: "quarantined entry",
	key: func(q *Quarantined) string { return seqKey(seqKey("", q.Index), uint64(q.Number)) },
}
