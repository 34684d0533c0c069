package fsm

import (
	"fmt"
	"time"
)

// Change is one row that a command wrote or removed. It holds the rows as
// their table does: a row of an encoded table is decoded only when somebody
// asks for it, which for most changes nobody does.
type Change struct {
	Table string
	Key   string

	spec          rowDecoder
	before, after any // *row[T] of the table's T; nil for no row; see Tx.withhold
}

// rowDecoder is what a Change needs of its table, whatever its noun.
type rowDecoder interface {
	valueOf(row any) any
	withheld() bool // of a table whose rows watchers are not shown
}

// Withheld reports whether the rows are of a table that is read from the State
// only: [Change.Old] and [Change.New] return nil.
func (c Change) Withheld() bool { return c.spec.withheld() }

// Old returns the row that was replaced or removed, as a pointer to the noun;
// nil when there was none.
func (c Change) Old() any { return c.spec.valueOf(c.before) }

// New returns the row that was written, as a pointer to the noun; nil when the
// row was removed.
func (c Change) New() any { return c.spec.valueOf(c.after) }

// Created reports whether there was no such row before.
func (c Change) Created() bool { return c.before == nil }

// Removed reports whether there is no such row any more.
func (c Change) Removed() bool { return c.after == nil }

// Meta is what the proposer and the log say about a command.
type Meta struct {
	// Index and Term are those of the log entry.
	Index uint64
	Term  uint64
	// Time is the log time, stamped by the leader that proposed the entry.
	Time time.Time
	// Actor is who asked: a token's role, or a control loop of the leader.
	Actor string
	// RequestID makes a retried command apply once; empty for none.
	RequestID string
}

// Tx is the state under change by one command, with the command's [Meta].
// Reads see the command's own writes. A Tx is used by one goroutine.
type Tx struct {
	*State
	Meta
	changes []Change
}

// put stores a row, stamps its revision, and records the change. The row must
// not be modified afterwards.
func put[T any](tx *Tx, t *Table[T], v *T) *T {
	tx.State.revision++
	if t.spec.stamp != nil {
		t.spec.stamp(v, tx.State.revision)
	}
	t.own(tx.State.generation)
	key := t.spec.key(v)
	now := t.spec.encode(key, v)
	c := Change{Table: t.spec.name, Key: key, spec: t.spec, after: now}
	if old := t.set(key, now); old != nil {
		c.before = old
	}
	tx.changes = append(tx.changes, c)
	return v
}

// del removes a row, if it is there, and records the change.
func del[T any](tx *Tx, t *Table[T], key string) {
	if !t.Has(key) {
		return
	}
	t.own(tx.State.generation)
	old := t.remove(key)
	tx.State.revision++
	tx.changes = append(tx.changes, Change{Table: t.spec.name, Key: key, spec: t.spec, before: old})
}

// delPrefix removes every row whose key begins with prefix. It collects the
// keys first: a table must not be changed while it is walked.
func delPrefix[T any](tx *Tx, t *Table[T], prefix string) {
	var keys []string
	for key := range t.Prefix(prefix) {
		keys = append(keys, key)
	}
	for _, key := range keys {
		del(tx, t, key)
	}
}

// edit stores a changed copy of a row.
func edit[T any](tx *Tx, t *Table[T], v *T, change func(*T)) *T {
	c := *v
	change(&c)
	return put(tx, t, &c)
}

// rollback undoes every change since mark, newest first.
func (tx *Tx) rollback(mark int, revision uint64) {
	byName := map[string]anyTable{}
	for _, t := range tx.State.tables() {
		byName[t.Name()] = t
	}
	for i := len(tx.changes) - 1; i >= mark; i-- {
		c := tx.changes[i]
		byName[c.Table].undo(c.Key, c.before)
	}
	tx.changes = tx.changes[:mark]
	tx.State.revision = revision
}

// checkRevision compares a conditional write's revision with the row's. A nil
// want means unconditional, 0 means "must not exist".
func checkRevision(noun, key string, want *uint64, have uint64) error {
	if want == nil || *want == have {
		return nil
	}
	if *want == 0 {
		return Errorf(Conflict, noun, key, "exists already").
			WithHint("drop If-None-Match to replace it")
	}
	return Errorf(StaleRevision, noun, key, "is at revision %d, not %d", have, *want).
		WithHint("read it again and retry with If-Match: \"%d\"", have)
}

// seqKey builds a key whose order is that of the number.
func seqKey(prefix string, seq uint64) string { return fmt.Sprintf("%s/%016d", prefix, seq) }
