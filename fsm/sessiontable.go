package fsm

import (
	"encoding/binary"
	"errors"

	"github.com/tidwall/btree"
	"github.com/zeebo/xxh3"
)

// SessionTable holds the sessions of every group: a table whose rows are the
// groups' sets. A set shares its structure with the sets that it was made
// from, so that a State costs what it changed and a change costs one pointer.
type SessionTable struct {
	sets  btree.Map[string, *sessionSet]
	sum   uint64
	owner uint64 // as in Table
}

const sessionTableName = "sessions"

// sessionSet is everything about the sessions of one group. A set that is in
// a table never changes.
type sessionSet struct {
	group  string
	seed   uint64 // of the hashes of the rows, so that those of two groups differ
	tree   sessionTree
	slots  []sessionSlot // in the order of their numbers
	totals SessionTotals
	rows   uint64 // sum of the hashes of the rows
	head   uint64 // hash of all else
	// view is what the slots' instances are up to, as of some state of the
	// instances; it is derived from them and no part of the content.
	view *slotView
}

// SessionTotals counts what was done with the sessions of a group.
type SessionTotals struct {
	Assigned uint64 `json:"assigned"`
	Moved    uint64 `json:"moved"`
	Expired  uint64 `json:"expired"`
	Deleted  uint64 `json:"deleted"`
}

func newSessionTable() SessionTable {
	return SessionTable{sets: *btree.NewMap[string, *sessionSet](degree)}
}

func newSessionSet(group string) *sessionSet {
	return &sessionSet{group: group, seed: xxh3.HashStringSeed(group, xxh3.HashString(sessionTableName))}
}

// Name returns the table's name, as it appears in changes and snapshots.
func (t *SessionTable) Name() string { return sessionTableName }

// Len returns the number of sessions of all groups.
func (t *SessionTable) Len() int {
	n := 0
	t.sets.Scan(func(_ string, s *sessionSet) bool {
		n += s.tree.count
		return true
	})
	return n
}

func (t *SessionTable) digest() uint64 { return t.sum }

// set stores a group's set, or removes it when it is nil, and returns the one
// before. Only a table that is owned may be changed.
func (t *SessionTable) set(group string, s *sessionSet) (old *sessionSet) {
	if s == nil {
		old, _ = t.sets.Delete(group)
	} else {
		old, _ = t.sets.Set(group, s)
		t.sum += s.rows + s.head
	}
	if old != nil {
		t.sum -= old.rows + old.head
	}
	return old
}

// get returns a group's set, or nil.
func (t *SessionTable) get(group string) *sessionSet {
	s, _ := t.sets.Get(group)
	return s
}

// put stores a group's set as the one change that a command makes to it; nil
// removes it.
func (t *SessionTable) put(tx *Tx, group string, s *sessionSet) {
	if t.owner != tx.State.generation {
		header := t.sets // see Table.own
		t.sets, t.owner = *header.Copy(), tx.State.generation
	}
	tx.State.revision++
	c := Change{Table: sessionTableName, Key: group, spec: withheldRows{}}
	if s != nil {
		c.after = s
	}
	if old := t.set(group, s); old != nil {
		c.before = old
	}
	tx.changes = append(tx.changes, c)
}

// undo implements [anyTable].
func (t *SessionTable) undo(group string, before any) {
	s, _ := before.(*sessionSet)
	t.set(group, s)
}

// recomputeSum implements [anyTable].
func (t *SessionTable) recomputeSum() (sum uint64) {
	t.sets.Scan(func(_ string, s *sessionSet) bool {
		sum += s.hashHead()
		s.tree.scan(&[16]byte{}, func(r *sessionRow) bool {
			sum += s.hash(r)
			return true
		})
		return true
	})
	return sum
}

func (s *sessionSet) hash(r *sessionRow) uint64 {
	var b [sessionRowBytes]byte
	putSessionRow(b[:], r)
	return xxh3.HashSeed(b[:], s.seed)
}

func (s *sessionSet) hashHead() uint64 { return xxh3.HashSeed(s.appendHead(nil), s.seed) }

// The rows of the snapshot's section: for each group a head and then packs of
// sessions. Each begins with the format's version and its kind.
const (
	sessionFormat   = 1
	sessionHead     = 'h'
	sessionPack     = 'p'
	sessionRowBytes = 28
	packRows        = 4096
)

func putSessionRow(b []byte, r *sessionRow) {
	copy(b, r.key[:])
	binary.LittleEndian.PutUint32(b[16:], r.slot)
	binary.LittleEndian.PutUint32(b[20:], r.epoch)
	binary.LittleEndian.PutUint32(b[24:], r.seen)
}

func getSessionRow(b []byte) (r sessionRow) {
	copy(r.key[:], b)
	r.slot = binary.LittleEndian.Uint32(b[16:])
	r.epoch = binary.LittleEndian.Uint32(b[20:])
	r.seen = binary.LittleEndian.Uint32(b[24:])
	return r
}

// appendHead writes what a set has besides its sessions.
func (s *sessionSet) appendHead(b []byte) []byte {
	b = appendBytes(append(b, sessionFormat, sessionHead), s.group)
	for _, n := range []uint64{s.totals.Assigned, s.totals.Moved, s.totals.Expired, s.totals.Deleted, uint64(len(s.slots))} {
		b = binary.AppendUvarint(b, n)
	}
	for _, slot := range s.slots {
		b = binary.AppendUvarint(b, uint64(slot.number))
		b = appendBytes(b, slot.instance)
		b = binary.AppendVarint(b, int64(slot.incarnation))
		b = binary.AppendUvarint(b, uint64(slot.count))
	}
	return b
}

// writeRows implements [anyTable].
func (t *SessionTable) writeRows(write func(raw string) error) (err error) {
	t.sets.Scan(func(_ string, s *sessionSet) bool {
		err = s.writeRows(write)
		return err == nil
	})
	return err
}

func (s *sessionSet) writeRows(write func(raw string) error) error {
	if err := write(string(s.appendHead(nil))); err != nil {
		return err
	}
	var err error
	start := appendBytes([]byte{sessionFormat, sessionPack}, s.group)
	b := append(make([]byte, 0, len(start)+packRows*sessionRowBytes), start...)
	s.tree.scan(&[16]byte{}, func(r *sessionRow) bool {
		at := len(b)
		b = b[:at+sessionRowBytes]
		putSessionRow(b[at:], r)
		if len(b) == cap(b) {
			err = write(string(b))
			b = b[:len(start)]
		}
		return err == nil
	})
	if err == nil && len(b) > len(start) {
		err = write(string(b))
	}
	return err
}

var errSessionRow = errors.New("row of table sessions does not decode")

// readRow implements [anyTable]. A restored state is nobody else's yet, and
// its nodes have the token 0, which no edit has.
func (t *SessionTable) readRow(raw []byte) error {
	if len(raw) < 2 || raw[0] != sessionFormat {
		return errSessionRow
	}
	r := reader{b: raw[2:]}
	group := string(r.bytes())
	s := t.get(group)
	switch {
	case r.bad:
		return errSessionRow
	case raw[1] == sessionHead && s == nil:
		s = newSessionSet(group)
		if !s.readHead(&r) {
			return errSessionRow
		}
	case raw[1] == sessionPack && s != nil:
		t.set(group, nil)
		if !s.readPack(r.b) {
			return errSessionRow
		}
	default:
		return errSessionRow
	}
	t.set(group, s)
	return nil
}

func (s *sessionSet) readHead(r *reader) bool {
	s.totals = SessionTotals{Assigned: r.uvarint(), Moved: r.uvarint(), Expired: r.uvarint(), Deleted: r.uvarint()}
	last := uint32(0)
	for n := r.uvarint(); n > 0 && !r.bad; n-- {
		number := r.uvarint()
		slot := sessionSlot{number: uint32(number), instance: string(r.bytes())}
		slot.incarnation = int(r.varint())
		slot.count = uint32(r.uvarint())
		if uint64(slot.number) != number || slot.number <= last {
			return false
		}
		last = slot.number
		s.slots = append(s.slots, slot)
	}
	s.head = s.hashHead()
	return r.done() == nil
}

func (s *sessionSet) readPack(b []byte) bool {
	for ; len(b) >= sessionRowBytes; b = b[sessionRowBytes:] {
		r := getSessionRow(b)
		if _, known := s.slotAt(r.slot); !known {
			return false
		}
		if _, twice := s.tree.put(0, &r); twice {
			return false
		}
		s.rows += s.hash(&r)
	}
	return len(b) == 0
}

// withheldRows is the decoder of rows that only the State tells of: watchers
// learn that a row has changed, and neither how nor to what. What a client
// keeps in its session and the keys that seal cookies must not get into
// events, and changes are kept for watchers long after their rows are gone.
type withheldRows struct{}

func (withheldRows) valueOf(any) any { return nil }

func (withheldRows) withheld() bool { return true }

// withheldRow stands for a row in a change that is shown to watchers.
type withheldRow struct{}

// withhold drops the rows that watchers are not shown from the changes of an
// entry, once nothing of it can be undone any more. An old tree would keep the
// pages of every session that was written since.
func (tx *Tx) withhold() {
	for k := range tx.changes {
		c := &tx.changes[k]
		if !c.spec.withheld() {
			continue
		}
		c.spec = withheldRows{}
		if c.before != nil {
			c.before = withheldRow{}
		}
		if c.after != nil {
			c.after = withheldRow{}
		}
	}
}
