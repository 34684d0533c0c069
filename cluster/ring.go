package cluster

import (
	"context"
	"errors"
	"iter"
	"sort"
	"sync"

	"github.com/pacelinehq/paceline/fsm"
)

// ErrLagged ends a watch whose position is older than the changes that the
// node still has. The reader takes the whole state and watches from its index.
var ErrLagged = errors.New("the watch has fallen behind; read the state again and watch from its index")

// changeRing keeps the newest change sets for watchers.
type changeRing struct {
	moved signal

	mu      sync.RWMutex
	sets    []fsm.ChangeSet // ascending by index
	changes int
	floor   uint64 // sets with an index above floor are all here
}

// add appends change sets and drops the oldest beyond the limits.
func (r *changeRing) add(sets []fsm.ChangeSet) {
	if len(sets) == 0 {
		return
	}
	r.mu.Lock()
	for _, s := range sets {
		r.sets = append(r.sets, s)
		r.changes += len(s.Changes)
	}
	drop := 0
	for len(r.sets)-drop > 1 && (len(r.sets)-drop > maxRingSets || r.changes > maxRingChanges) {
		r.changes -= len(r.sets[drop].Changes)
		r.floor = r.sets[drop].Index
		r.sets[drop] = fsm.ChangeSet{}
		drop++
	}
	r.sets = r.sets[drop:]
	r.mu.Unlock()
	r.moved.fire()
}

// reset says that the state was replaced as a whole.
func (r *changeRing) reset(s *fsm.State) {
	r.mu.Lock()
	r.sets = []fsm.ChangeSet{{Index: s.Index(), Time: s.Time(), Reset: true}}
	r.changes, r.floor = 0, 0
	r.mu.Unlock()
	r.moved.fire()
}

// after returns the sets whose index is above from.
func (r *changeRing) after(from uint64) ([]fsm.ChangeSet, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if from < r.floor {
		return nil, ErrLagged
	}
	i := sort.Search(len(r.sets), func(i int) bool { return r.sets[i].Index > from })
	return append([]fsm.ChangeSet(nil), r.sets[i:]...), nil
}

// watch yields the sets above from, as they come, until ctx or stop ends.
func (r *changeRing) watch(ctx context.Context, stop <-chan struct{}, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		for {
			moved := r.moved.wait()
			sets, err := r.after(from)
			if err != nil {
				yield(fsm.ChangeSet{}, err)
				return
			}
			for _, s := range sets {
				if !yield(s, nil) {
					return
				}
				from = s.Index
			}
			if len(sets) > 0 {
				continue
			}
			select {
			case <-moved:
			case <-ctx.Done():
				yield(fsm.ChangeSet{}, ctx.Err())
				return
			case <-stop:
				yield(fsm.ChangeSet{}, errStopped())
				return
			}
		}
	}
}
