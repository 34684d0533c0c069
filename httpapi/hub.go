package httpapi

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// hub remembers the last change sets, for all readers together. It keeps what
// the cluster gave it and nobody has asked for yet; events are made from it
// only when somebody reads. Readers hold a place, not a queue: one that is too
// slow is told that it has missed something, and costs nobody else anything.
type hub struct {
	cluster   Cluster
	directory *directory // told first, so that an event is never ahead of it

	mu      sync.Mutex
	sets    []fsm.ChangeSet // ascending by index
	changes int             // in sets
	floor   uint64          // events at or before this index may be missing
	waiting bool
	news    chan struct{} // closed when something was added
}

func newHub(c Cluster, d *directory) *hub {
	return &hub{cluster: c, directory: d, news: make(chan struct{})}
}

// run follows the cluster until ctx ends.
func (h *hub) run(ctx context.Context) {
	from := uint64(0) // as much as the cluster remembers
	for ctx.Err() == nil {
		for set, err := range h.cluster.Watch(ctx, from) {
			if err != nil {
				break
			}
			from = set.Index
			h.add(set)
		}
		if ctx.Err() != nil || !pause(ctx, hubBackoff) {
			return
		}
		// The cluster does not remember as far back: what came between is lost.
		if at := h.cluster.State().Index(); at > from {
			from = at
			h.forget(from)
		}
	}
}

// add appends a change set, drops the oldest, and wakes the readers.
func (h *hub) add(set fsm.ChangeSet) {
	h.directory.note(set)
	// Sessions change all the time and are no news: kept, they would push out
	// what is. The number of an event does not depend on them.
	set.Changes = slices.DeleteFunc(slices.Clone(set.Changes), unheard)
	if len(set.Changes) == 0 && !set.Reset {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sets = append(h.sets, set)
	h.changes += len(set.Changes)
	drop := 0
	for drop < len(h.sets)-1 && (len(h.sets)-drop > eventSetsKept || h.changes > eventChangesKept) {
		h.changes -= len(h.sets[drop].Changes)
		h.floor = h.sets[drop].Index
		h.sets[drop] = fsm.ChangeSet{}
		drop++
	}
	h.sets = h.sets[drop:]
	h.wake()
}

// forget marks a hole in what is known: nothing up to index is complete.
func (h *hub) forget(index uint64) {
	h.directory.reset(index)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.sets, h.changes, h.floor = nil, 0, index
	h.wake()
}

func (h *hub) wake() {
	if h.waiting {
		close(h.news)
		h.news, h.waiting = make(chan struct{}), false
	}
}

// end is the place after everything that is known, and the index below which
// nothing is.
func (h *hub) end() place {
	h.mu.Lock()
	defer h.mu.Unlock()
	if n := len(h.sets); n > 0 {
		return place{h.sets[n-1].Index, len(eventsOf(h.sets[n-1]))}
	}
	return place{index: h.floor}
}

// after returns the change sets that may hold events after a place; lagged
// says that some are missing. With none, news is closed when there are.
func (h *hub) after(p place) (sets []fsm.ChangeSet, lagged bool, news <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.index < h.floor {
		return nil, true, nil
	}
	i := sort.Search(len(h.sets), func(i int) bool { return h.sets[i].Index >= p.index })
	sets = h.sets[i:len(h.sets):len(h.sets)]
	if len(sets) > maxSetsAtOnce {
		sets = sets[:maxSetsAtOnce]
	}
	h.waiting = true
	return append([]fsm.ChangeSet(nil), sets...), false, h.news
}

// recent returns the known change sets, oldest first.
func (h *hub) recent() []fsm.ChangeSet {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]fsm.ChangeSet(nil), h.sets...)
}

// pause waits, or returns false when ctx ends first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// lagged is the event that tells a reader of a hole.
func lagged(at place) client.Event {
	return client.Event{
		ID: eventID(at.index, at.n), Index: at.index, Type: client.EventReset,
		Message: "events before this one are no longer known here; read again what you need",
	}
}
