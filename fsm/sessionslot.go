package fsm

import (
	"cmp"
	"slices"
)

// sessionSlot is one incarnation of one instance as sessions refer to it. A
// slot's number is never used again, for no group of the cluster: a cookie
// that names a slot can not reach a process that does not know its session.
type sessionSlot struct {
	number      uint32
	instance    string
	incarnation int
	count       uint32 // sessions
}

// SlotNumbers counts the slots that were made: one row.
type SlotNumbers struct {
	Last uint32 `json:"last"`
}

var slotNumberTable = tableSpec[SlotNumbers]{
	name: "slotNumbers", noun: "slot number", key: func(*SlotNumbers) string { return clusterKey },
}

// slotAt returns the place of a slot in s.slots.
func (s *sessionSet) slotAt(number uint32) (at int, ok bool) {
	return slices.BinarySearchFunc(s.slots, number, func(slot sessionSlot, n uint32) int {
		return cmp.Compare(slot.number, n)
	})
}

// slotLife is what the instance of a slot is up to.
type slotLife uint8

const (
	// slotGone has no process any more: its sessions are homeless.
	slotGone slotLife = iota
	// slotKeeps serves the sessions that it has and gets no new ones.
	slotKeeps
	// slotTakes gets new sessions.
	slotTakes
)

// slotView is what the instances of a group are up to. To find out costs a
// look at each of them, so it is kept for as long as no instance changes.
type slotView struct {
	instances uint64     // digest of the instances that it was made from
	life      []slotLife // of each of the set's slots
	fresh     []slotOwner
	homeless  int // sessions of slots that are gone
}

// slotOwner is an incarnation of an instance.
type slotOwner struct {
	instance    string
	incarnation int
}

// SessionTakers returns the instances of a group that get new sessions: those that
// run and are healthy, or, when there is none, those that run and have not been
// checked yet. An instance that fails its checks never gets a session to keep: the
// proxies can still send it a request that has nowhere else to go.
func (s *State) SessionTakers(group string) []*Instance {
	list := s.serving(group)
	takes := takers(list)
	return slices.DeleteFunc(list, func(i *Instance) bool { return !takes(i) })
}

// serving returns the instances of a group that have begun to serve and not ended.
func (s *State) serving(group string) (list []*Instance) {
	for _, i := range s.InstancesOf(group) {
		if _, serves := i.Endpoint(); serves {
			list = append(list, i)
		}
	}
	return list
}

// takers tells which of those that serve are [State.SessionTakers].
func takers(living []*Instance) func(*Instance) bool {
	want := Unknown
	for _, i := range living {
		if i.State == Running && i.Health == Healthy {
			want = Healthy
			break
		}
	}
	return func(i *Instance) bool { return i.State == Running && i.Health == want }
}

// viewSlots makes the view of a set's slots, with the slots' places as they
// are now.
func (s *State) viewSlots(set *sessionSet) *slotView {
	v := &slotView{instances: s.Instances.digest(), life: make([]slotLife, len(set.slots))}
	at := make(map[slotOwner]int, len(set.slots))
	for k, slot := range set.slots {
		at[slotOwner{slot.instance, slot.incarnation}] = k
	}
	living := s.serving(set.group)
	takes := takers(living)
	for _, i := range living {
		owner := slotOwner{i.ID, i.Incarnation}
		k, has := at[owner]
		switch {
		case !has && takes(i):
			v.fresh = append(v.fresh, owner)
		case !has:
		case takes(i):
			v.life[k] = slotTakes
		default:
			v.life[k] = slotKeeps
		}
	}
	for k, slot := range set.slots {
		if v.life[k] == slotGone {
			v.homeless += int(slot.count)
		}
	}
	return v
}

// sessionDraft is a group's set under change by one command. It becomes a row
// when it is saved, or is forgotten.
type sessionDraft struct {
	tx      *Tx
	set     sessionSet
	view    slotView
	token   uint64
	changed bool
	heap    []int // places of the slots that take sessions, least loaded first
	grown   int   // where in the heap the slot is that was picked last
	// owners are the places of the slots in the heap, and inHeap where in the
	// heap they are; made when a certain slot is asked for.
	owners map[slotOwner]int
	inHeap []int
}

// draftSessions begins a change of a group's sessions. The token is greater
// than every revision at which a session was written, and saving makes the
// revision at least as great.
func (tx *Tx) draftSessions(group string) *sessionDraft {
	d := &sessionDraft{tx: tx, token: tx.State.revision + 1}
	old := tx.Sessions.get(group)
	if old == nil {
		old = newSessionSet(group)
	}
	d.set = *old
	if v := old.view; v != nil && v.instances == tx.Instances.digest() {
		d.view = *v
	} else {
		d.view = *tx.viewSlots(old)
	}
	// The slots and their lives are changed in place from here on.
	d.set.slots, d.view.life = slices.Clone(old.slots), slices.Clone(d.view.life)
	return d
}

// add writes a new session whose slot is at a known place; it reports false,
// and leaves the session as it is, when it is there already.
func (d *sessionDraft) add(r *sessionRow, at int) bool {
	if old, had := d.set.tree.put(d.token, r); had {
		d.set.tree.put(d.token, &old)
		return false
	}
	d.set.rows += d.set.hash(r)
	d.count(at, 1)
	d.changed = true
	return true
}

// store writes a session that is there, and whose slot is at a known place.
func (d *sessionDraft) store(r *sessionRow, at int) {
	old, _ := d.set.tree.put(d.token, r)
	d.set.rows += d.set.hash(r)
	d.count(at, 1)
	d.leave(&old)
	d.changed = true
}

// edit changes the rows that a command is about where they are, until a bound
// of its scan is reached or there is an error. change counts the row where it
// goes; that it has left where it was is seen to here.
func (d *sessionDraft) edit(s *sessionScanner, want func(*sessionRow) bool, change func(*sessionRow) error) (err error) {
	s.Done = true
	d.set.tree.edit(&treeEdit{
		token: d.token, from: &s.from,
		want: func(r *sessionRow) editStep { return s.step(r, want) },
		change: func(r *sessionRow) bool {
			old := *r
			if err = change(r); err != nil {
				return false
			}
			d.set.rows += d.set.hash(r)
			d.leave(&old)
			d.changed = true
			return true
		},
	})
	return err
}

// drop removes a session, if it is there.
func (d *sessionDraft) drop(key *[16]byte) bool {
	old, had := d.set.tree.remove(d.token, key)
	if had {
		d.leave(&old)
		d.changed = true
	}
	return had
}

// leave takes a row that is gone out of the sums.
func (d *sessionDraft) leave(old *sessionRow) {
	d.set.rows -= d.set.hash(old)
	at, _ := d.set.slotAt(old.slot)
	d.count(at, -1)
}

func (d *sessionDraft) count(at, by int) {
	d.set.slots[at].count = uint32(int(d.set.slots[at].count) + by)
	if d.view.life[at] == slotGone {
		d.view.homeless += by
	}
}

// pick returns the place of the slot with the fewest sessions of those that
// take new ones, the lowest number of several. The caller stores one session
// there.
func (d *sessionDraft) pick() (at int, err error) {
	if d.heap == nil {
		if err := d.makeHeap(); err != nil {
			return 0, err
		}
	} else {
		d.sink(d.grown) // the slot picked before has one more
	}
	d.grown = 0
	if len(d.heap) == 0 {
		return 0, Errorf(Unavailable, "group", d.set.group, "has no instance that can take a session").
			WithHint("wait until an instance of the group is running and healthy, then try again")
	}
	return d.heap[0], nil
}

// pickOf is pick for the slot of a certain owner, which must follow it; ok is
// false when that takes no sessions.
func (d *sessionDraft) pickOf(owner slotOwner) (at int, ok bool) {
	if d.owners == nil {
		d.owners, d.inHeap = make(map[slotOwner]int, len(d.heap)), make([]int, len(d.set.slots))
		for k, at := range d.heap {
			slot := &d.set.slots[at]
			d.owners[slotOwner{slot.instance, slot.incarnation}], d.inHeap[at] = at, k
		}
	}
	if at, ok = d.owners[owner]; ok {
		d.grown = d.inHeap[at]
	}
	return at, ok
}

// makeHeap gives slots to the instances that have none and orders those that
// take sessions.
func (d *sessionDraft) makeHeap() error {
	if len(d.view.fresh) > 0 {
		var numbers SlotNumbers
		if have, ok := d.tx.SlotNumbers.Get(clusterKey); ok {
			numbers = *have
		}
		for _, owner := range d.view.fresh {
			numbers.Last++
			if numbers.Last == 0 {
				return Errorf(Exhausted, "group", d.set.group, "can not take a session: every slot number of the cluster was used")
			}
			d.set.slots = append(d.set.slots, sessionSlot{number: numbers.Last, instance: owner.instance, incarnation: owner.incarnation})
			d.view.life = append(d.view.life, slotTakes)
		}
		put(d.tx, &d.tx.State.SlotNumbers, &numbers)
		d.view.fresh, d.changed = nil, true
	}
	d.heap = make([]int, 0, len(d.set.slots))
	for at, life := range d.view.life {
		if life == slotTakes {
			d.heap = append(d.heap, at)
		}
	}
	for k := len(d.heap)/2 - 1; k >= 0; k-- {
		d.sink(k)
	}
	return nil
}

// sink moves the slot at a place of the heap down to where it belongs.
func (d *sessionDraft) sink(k int) {
	h := d.heap
	for {
		least := k
		for _, c := range []int{2*k + 1, 2*k + 2} {
			if c < len(h) && d.emptier(h[c], h[least]) {
				least = c
			}
		}
		if least == k {
			return
		}
		h[k], h[least] = h[least], h[k]
		if d.inHeap != nil {
			d.inHeap[h[k]], d.inHeap[h[least]] = k, least
		}
		k = least
	}
}

// emptier orders slots by their sessions, and those alike by their number.
func (d *sessionDraft) emptier(a, b int) bool {
	x, y := &d.set.slots[a], &d.set.slots[b]
	return x.count < y.count || x.count == y.count && x.number < y.number
}

// save makes the draft the group's set, if it has changed anything. Slots
// that are gone and have no session any more are forgotten.
func (d *sessionDraft) save() {
	if !d.changed {
		return
	}
	keep := 0
	for at, slot := range d.set.slots {
		if slot.count == 0 && d.view.life[at] == slotGone {
			continue
		}
		d.set.slots[keep], d.view.life[keep] = slot, d.view.life[at]
		keep++
	}
	d.set.slots, d.view.life = d.set.slots[:keep], d.view.life[:keep]
	set, view := d.set, d.view // a row must not keep the draft
	set.view, set.head = &view, set.hashHead()
	d.tx.State.Sessions.put(d.tx, set.group, &set)
}
