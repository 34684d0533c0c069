package sim

import (
	"fmt"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// verb is what an operation does with a register.
type verb string

const (
	verbPut  verb = "put"  // creates or replaces
	verbSet  verb = "set"  // changes what exists
	verbCAS  verb = "cas"  // changes what has the expected value
	verbRead verb = "read" // asks for a state that is up to date
	verbUser verb = "user" // another write; only its fate is checked
)

// fate is what the client knows about an operation in the end.
type fate string

const (
	fateOK      fate = "ok"
	fateRefused fate = "refused" // the state's own answer: it has no effect
	fateNever   fate = "never"   // the product says that it was not carried out
	fateUnknown fate = "unknown"
)

// absent is the value of a register that does not exist.
const absent = -1

// op is one operation of a client.
type op struct {
	id     string // the actor of its write: unique
	client int
	node   string
	verb   verb
	key    string // the register
	from   int    // what a cas expects
	value  int    // what is written
	tries  int
	// request is its request id, if it has one.
	request string

	call, ret time.Duration
	fate      fate
	kind      fsm.Kind // of the error
	index     uint64   // of the result, or of the state that was read
	replayed  bool
	read      map[string]int // what a read found
	mustSee   uint64         // the index that a read has to have
}

// String describes the operation in one line.
func (o *op) String() string {
	what := fmt.Sprintf("%s %s=%d", o.verb, o.key, o.value)
	switch o.verb {
	case verbCAS:
		what = fmt.Sprintf("cas %s %d→%d", o.key, o.from, o.value)
	case verbRead:
		what = fmt.Sprintf("read → index %d (at least %d) %v", o.index, o.mustSee, o.read)
	case verbUser:
		what = "user " + o.key
	}
	return fmt.Sprintf("%10.4f %10.4f %-8s %-4s try %d %-8s %-14s index %-6d %s", o.call.Seconds(), o.ret.Seconds(), o.id, o.node, o.tries, o.fate, o.kind, o.index, what)
}

// history is what all clients did.
type history struct {
	began time.Time
	mu    sync.Mutex
	ops   []*op
	// acked is the highest index that any client was told: a read that begins
	// now must see it.
	acked uint64
}

func (h *history) now() time.Duration { return time.Since(h.began) }

// begin notes that an operation is sent.
func (h *history) begin(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.call, o.mustSee = h.now(), h.acked
	h.ops = append(h.ops, o)
}

// end notes what became of it.
func (h *history) end(o *op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	o.ret = h.now()
	if o.fate == fateOK {
		h.acked = max(h.acked, o.index)
	}
}

func (h *history) all() []*op {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*op(nil), h.ops...)
}

// checkOp holds an operation against the log: where it took effect, if at all.
func (r *rules) checkOp(o *op) {
	if o.verb == verbRead {
		if o.fate == fateOK && o.index < o.mustSee {
			r.w.violate("strong read", "%s was acknowledged before: %s", "index "+itoa(o.mustSee), o)
		}
		return
	}
	at := r.applied[o.id]
	switch {
	case len(at) > 1:
		r.w.violate("write applied once", "took effect at %v: %s", at, o)
	case o.fate == fateOK && len(at) == 0:
		r.w.violate("I3 acked write", "never took effect: %s", o)
	case o.fate == fateOK && !o.replayed && at[0] != o.index:
		r.w.violate("I3 acked write", "took effect at %d: %s", at[0], o)
	case (o.fate == fateRefused || o.fate == fateNever) && len(at) > 0:
		r.w.violate("refused write", "took effect at %v: %s", at, o)
	}
}
