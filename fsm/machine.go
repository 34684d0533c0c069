package fsm

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/zeebo/xxh3"
)

// LogEntry is one committed entry of the Raft log.
type LogEntry struct {
	Index uint64
	Term  uint64
	Data  []byte
}

// Outcome is what applying one entry did.
type Outcome struct {
	Index uint64
	// Batch says where the entry came from.
	Batch BatchID
	// Results and Errs have one element for each command of the entry.
	Results []Result
	Errs    []error
	// Changes are the rows that the whole entry changed, in order.
	Changes []Change
	// Duplicate says that the batch had been applied by an earlier entry.
	Duplicate bool
	// Skipped says that the state had this index already.
	Skipped bool
}

// Machine applies committed entries to the state. Apply and Restore are called
// by one goroutine at a time; State may be called by any.
type Machine struct {
	state   atomic.Pointer[State]
	digests digestRing
}

// NewMachine returns a machine that holds the empty state.
func NewMachine() *Machine {
	m := &Machine{}
	m.state.Store(NewState())
	return m
}

// State returns the state as of the last applied entry.
func (m *Machine) State() *State { return m.state.Load() }

// Replace installs another state, such as one restored from a snapshot.
func (m *Machine) Replace(s *State) {
	m.state.Store(s)
	m.digests.add(s.index, s.Digest())
}

// DigestAt returns the state's digest as it was at an index, if the machine
// remembers it: the last few hundred entries.
func (m *Machine) DigestAt(index uint64) (uint64, bool) { return m.digests.at(index) }

// Apply applies entries in order and publishes the state after the last one.
// It stops at an entry that can not be applied (corrupt, or of a newer
// version) and returns the outcomes before it with the error; the state then
// reflects exactly those. Entries that the state already reflects are skipped.
func (m *Machine) Apply(entries []LogEntry) ([]Outcome, error) {
	next := m.State()
	outcomes := make([]Outcome, 0, len(entries))
	var err error
	for _, e := range entries {
		if e.Index <= next.index {
			outcomes = append(outcomes, Outcome{Index: e.Index, Skipped: true})
			continue
		}
		var o Outcome
		if o, next, err = applyEntry(next, e); err != nil {
			break
		}
		outcomes = append(outcomes, o)
		m.digests.add(e.Index, next.Digest())
	}
	m.state.Store(next)
	return outcomes, err
}

// applyEntry applies one entry to a state and returns the state after it, or
// the same state on error.
func applyEntry(s *State, log LogEntry) (Outcome, *State, error) {
	e, err := DecodeEntry(log.Data)
	if err != nil {
		return Outcome{}, s, err
	}
	for _, c := range e.Commands {
		if _, known := decoders[c.Name]; !known && !c.Ignorable {
			return Outcome{}, s, &UnknownCommandError{Name: c.Name}
		}
	}
	o := Outcome{Index: log.Index, Batch: e.Batch}
	origin, seen := s.Origins.Get(e.Batch.Node)
	if seen && origin.applied(e.Batch) {
		o.Duplicate = true
		next := *s
		next.index, next.term = log.Index, log.Term
		return o, &next, nil
	}
	// Each attempt works on a fork: a command that panics may have left the
	// tables half changed, which an undo list can not be trusted to repair.
	poisoned := map[int]string{}
	for {
		work := s.fork()
		tx := &Tx{State: work, Meta: Meta{Index: log.Index, Term: log.Term, Time: later(s.time, e.Time)}}
		work.index, work.term, work.time = log.Index, log.Term, tx.Meta.Time
		bad, why := tx.applyAll(e, poisoned, &o)
		if bad < 0 {
			tx.finish(e, origin, poisoned)
			o.Changes = tx.changes
			return o, work, nil
		}
		poisoned[bad] = why
	}
}

// applyAll applies the commands of an entry and returns the number of the one
// that panicked, or -1.
func (tx *Tx) applyAll(e *Entry, poisoned map[int]string, o *Outcome) (bad int, why string) {
	n := -1
	defer func() {
		if p := recover(); p != nil {
			bad, why = n, fmt.Sprint(p)
		}
	}()
	o.Results = make([]Result, len(e.Commands))
	o.Errs = make([]error, len(e.Commands))
	for k, c := range e.Commands {
		n = k
		o.Results[k].Index = tx.Meta.Index
		if why, is := poisoned[k]; is {
			o.Errs[k] = Errorf(Internal, "command", c.Name, "panicked and was quarantined: %s", why).
				WithHint("this is a bug; the entry is kept in the quarantine list at index %d", tx.Meta.Index)
			continue
		}
		o.Results[k], o.Errs[k] = tx.applyOne(c)
	}
	return -1, ""
}

// applyOne applies one command, or gives the remembered answer of its request.
func (tx *Tx) applyOne(c Envelope) (Result, error) {
	res := Result{Index: tx.Meta.Index}
	tx.Meta.Actor, tx.Meta.RequestID = c.Actor, c.RequestID
	var hash uint64
	if c.RequestID != "" {
		hash = xxh3.HashSeed(c.Body, xxh3.HashString(c.Name))
		if r, ok := tx.Requests.Get(c.RequestID); ok {
			return res.replay(r, hash)
		}
	}
	cmd, err := c.Open()
	if err != nil {
		var unknown *UnknownCommandError
		if errors.As(err, &unknown) { // ignorable, or the entry would not be here
			return res, nil
		}
		return res, err
	}
	mark, revision := len(tx.changes), tx.State.revision
	res.Value, err = cmd.Apply(tx)
	if err != nil {
		tx.rollback(mark, revision)
		res.Value = nil
	}
	if c.RequestID != "" {
		r := &Request{ID: c.RequestID, Command: c.Name, Hash: hash}
		if err != nil {
			r.Err = asError(err)
		}
		tx.remember(r)
	}
	return res, err
}

func (r Result) replay(q *Request, hash uint64) (Result, error) {
	if q.Hash != hash {
		return r, Errorf(Conflict, "request", q.ID, "was used for another write").
			WithHint("give each write its own Idempotency-Key")
	}
	r.Replayed = true
	if q.Err != nil {
		return r, q.Err
	}
	return r, nil
}

// finish records what belongs to the entry as a whole.
func (tx *Tx) finish(e *Entry, origin *Origin, poisoned map[int]string) {
	for k, c := range e.Commands {
		if why, is := poisoned[k]; is {
			put(tx, &tx.State.Quarantine, &Quarantined{
				Index: tx.Meta.Index, Number: k, Command: c.Name, Panic: why, At: tx.Meta.Time,
			})
		}
	}
	tx.dropEndedVersions()
	tx.indexServices()
	tx.withhold()
	if e.Batch.Node == "" {
		return
	}
	if origin == nil {
		origin = &Origin{Node: e.Batch.Node, Boot: e.Batch.Boot}
	}
	put(tx, &tx.State.Origins, origin.with(e.Batch))
}

// DryRun applies commands to a copy of the state, throws the copy away, and
// returns an error for each one that panicked: such a command must not be
// proposed, because it would panic on every replica. Other errors are left to
// the real Apply, whose state may differ. The result is nil when there is none.
func (s *State) DryRun(list []Envelope, now time.Time) (bad map[int]error) {
	for from := 0; from < len(list); from++ {
		var why any
		// After a panic the copy can not be trusted; the rest gets a new one.
		if from, why = s.dryRunFrom(list, from, now); why == nil {
			break
		}
		if bad == nil {
			bad = map[int]error{}
		}
		bad[from] = Errorf(Internal, "command", list[from].Name, "panicked in its dry run: %v", why).
			WithHint("this is a bug; nothing was changed")
	}
	return bad
}

// dryRunFrom runs commands until one panics, and returns its number and what
// it panicked with.
func (s *State) dryRunFrom(list []Envelope, from int, now time.Time) (at int, why any) {
	defer func() { why = recover() }()
	tx := &Tx{State: s.fork(), Meta: Meta{Index: s.index + 1, Term: s.term, Time: later(s.time, now)}}
	for at = from; at < len(list); at++ {
		_, _ = tx.applyOne(list[at])
	}
	return at, nil
}

// asError makes any error a value that is equal on all replicas.
func asError(err error) *Error {
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return &Error{Kind: Internal, Message: err.Error()}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b.UTC()
	}
	return a
}

// digestRing remembers the digests at the last indexes.
type digestRing struct {
	slots [512]atomic.Pointer[digestAt]
}

type digestAt struct{ index, digest uint64 }

func (r *digestRing) add(index, digest uint64) {
	r.slots[index%uint64(len(r.slots))].Store(&digestAt{index, digest})
}

func (r *digestRing) at(index uint64) (uint64, bool) {
	d := r.slots[index%uint64(len(r.slots))].Load()
	if d == nil || d.index != index {
		return 0, false
	}
	return d.digest, true
}

// readRow stores a row of a snapshot.
func (t *Table[T]) readRow(raw []byte) error {
	v := new(T)
	if err := decodeJSON(raw, v); err != nil {
		return fmt.Errorf("row of table %s does not decode: %w", t.spec.name, err)
	}
	key := t.spec.key(v)
	t.set(key, t.spec.encode(key, v))
	return nil
}
