package fsm

import (
	"encoding/json"
	"fmt"
	"iter"

	"github.com/tidwall/btree"
	"github.com/zeebo/xxh3"
)

// Table is an ordered, immutable set of rows of one noun. The tables of one
// [State] never change: a transaction works on copies that share structure
// with it (a copy-on-write B-tree). All methods are safe for concurrent use.
//
// Rows must not be modified by readers. Tables of nouns that are many and
// seldom read are kept encoded (see tableSpec.encoded): a row then costs the
// bytes of its JSON, and each read decodes a fresh copy.
type Table[T any] struct {
	spec *tableSpec[T]
	rows btree.Map[string, *row[T]]
	sum  uint64
	// owner is the generation of the state that may change this version of
	// the table in place; see own.
	owner uint64
}

// degree is the least number of children of a node of the tree. Each change
// copies the nodes on the way to its row: small ones make that cheap.
const degree = 16

// newTable returns an empty table.
func newTable[T any](spec *tableSpec[T]) Table[T] {
	return Table[T]{spec: spec, rows: *btree.NewMap[string, *row[T]](degree)}
}

// row is one entry: decoded rows carry value and sum, encoded rows raw only
// (their sum is the hash of raw, and is recomputed when the row goes).
type row[T any] struct {
	value *T
	raw   string
	sum   uint64
}

// tableSpec says what a table holds. It is shared by every version of the
// table.
type tableSpec[T any] struct {
	name    string // section name in snapshots, table name in changes
	noun    string // the word in error messages
	encoded bool
	private bool // watchers are not shown its rows; see Tx.withhold
	key     func(*T) string
	stamp   func(*T, uint64) // sets the revision; nil for rows without one
}

// Name returns the table's name, as it appears in changes and snapshots.
func (t *Table[T]) Name() string { return t.spec.name }

// Len returns the number of rows.
func (t *Table[T]) Len() int { return t.rows.Len() }

// Get returns the row with a key. The row must not be modified.
func (t *Table[T]) Get(key string) (*T, bool) {
	r, ok := t.rows.Get(key)
	if !ok {
		return nil, false
	}
	return t.spec.decode(r), true
}

// Has reports whether there is a row with a key, without decoding it.
func (t *Table[T]) Has(key string) bool {
	_, ok := t.rows.Get(key)
	return ok
}

// Lookup is Get with a [NotFound] error.
func (t *Table[T]) Lookup(key string) (*T, error) {
	v, ok := t.Get(key)
	if !ok {
		return nil, notFound(t.spec.noun, key)
	}
	return v, nil
}

// All yields every row in key order.
func (t *Table[T]) All() iter.Seq2[string, *T] { return t.From("") }

// From yields the rows whose key is pivot or greater, in key order.
func (t *Table[T]) From(pivot string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		t.rows.Ascend(pivot, func(key string, r *row[T]) bool {
			return yield(key, t.spec.decode(r))
		})
	}
}

// Prefix yields the rows whose key begins with prefix, in key order.
func (t *Table[T]) Prefix(prefix string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		t.rows.Ascend(prefix, func(key string, r *row[T]) bool {
			if len(key) < len(prefix) || key[:len(prefix)] != prefix {
				return false
			}
			return yield(key, t.spec.decode(r))
		})
	}
}

// Backward yields the rows whose key begins with prefix, last key first.
func (t *Table[T]) Backward(prefix string) iter.Seq2[string, *T] {
	return func(yield func(string, *T) bool) {
		t.rows.Descend(prefix+"\xff", func(key string, r *row[T]) bool {
			if len(key) < len(prefix) || key[:len(prefix)] != prefix {
				return false
			}
			return yield(key, t.spec.decode(r))
		})
	}
}

// own makes t a version that the state of a generation may change, while other
// states that share its structure are read. It is called before each change,
// so that a transaction pays for the tables that it writes only. The tree's
// own Copy writes to the tree that it copies; it is given a header that
// nobody else has.
func (t *Table[T]) own(generation uint64) {
	if t.owner == generation {
		return
	}
	header := t.rows
	t.rows, t.owner = *header.Copy(), generation
}

// set stores a row and returns the one it replaces, or nil. Only a table that
// is owned may be changed.
func (t *Table[T]) set(key string, r *row[T]) (old *row[T]) {
	prev, had := t.rows.Set(key, r)
	t.sum += t.spec.sumOf(key, r)
	if !had {
		return nil
	}
	t.sum -= t.spec.sumOf(key, prev)
	return prev
}

// remove deletes a row and returns it, or nil.
func (t *Table[T]) remove(key string) (old *row[T]) {
	prev, had := t.rows.Delete(key)
	if !had {
		return nil
	}
	t.sum -= t.spec.sumOf(key, prev)
	return prev
}

// recomputeSum hashes every row again, to compare with the rolling sum.
func (t *Table[T]) recomputeSum() uint64 {
	var sum uint64
	t.rows.Scan(func(key string, r *row[T]) bool {
		raw := r.raw
		if !t.spec.encoded {
			raw = t.spec.marshal(r.value)
		}
		sum += t.spec.hash(key, raw)
		return true
	})
	return sum
}

func (s *tableSpec[T]) encode(key string, v *T) *row[T] {
	raw := s.marshal(v)
	if s.encoded {
		return &row[T]{raw: raw}
	}
	return &row[T]{value: v, sum: s.hash(key, raw)}
}

// valueOf implements [rowDecoder].
func (s *tableSpec[T]) valueOf(r any) any {
	if r == nil {
		return nil
	}
	return s.decode(r.(*row[T]))
}

// withheld implements [rowDecoder].
func (s *tableSpec[T]) withheld() bool { return s.private }

func (s *tableSpec[T]) decode(r *row[T]) *T {
	if !s.encoded {
		return r.value
	}
	v := new(T)
	if err := decodeJSON([]byte(r.raw), v); err != nil {
		// The words of a panic become a row of the quarantine: see Envelope.Open.
		panic(fmt.Sprintf("fsm: row of table %s does not decode", s.name))
	}
	return v
}

func (s *tableSpec[T]) marshal(v *T) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("fsm: row of table %s does not encode: %v", s.name, err))
	}
	return string(raw)
}

func (s *tableSpec[T]) sumOf(key string, r *row[T]) uint64 {
	if s.encoded {
		return s.hash(key, r.raw)
	}
	return r.sum
}

// hash mixes table, key and content, so that equal rows of different tables
// do not cancel out in the state's digest.
func (s *tableSpec[T]) hash(key, raw string) uint64 {
	return xxh3.HashStringSeed(raw, xxh3.HashStringSeed(key, xxh3.HashString(s.name)))
}
