package wal_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/cluster/wal"
)

const testSegment = 8 << 10

var lives = flag.Int("lives", 400, "how many lives TestLives looks at")

// model is what a log must hold.
type model struct {
	list []*raft.Log
	next uint64 // where an append continues
	// cut is where a deletion that failed was to begin; entries from there on
	// may be gone or come back.
	cut uint64
	// anew are the indexes at which appends after a gap were tried in vain.
	anew map[uint64]bool
	// known are the entries that may be found at an index besides.
	known map[uint64][]*raft.Log
}

// entry makes an entry that no other is equal to.
func entry(r *rand.Rand, index uint64) *raft.Log {
	l := &raft.Log{Index: index, Term: 1 + r.Uint64N(9), Data: make([]byte, r.IntN(1500))}
	for i := range l.Data {
		l.Data[i] = byte(r.Uint32())
	}
	if r.IntN(4) == 0 { // zeros must not look like what was never written
		clear(l.Data[len(l.Data)/2:])
	}
	if r.IntN(8) == 0 {
		l.Type, l.Extensions, l.AppendedAt = raft.LogConfiguration, []byte("ext"), time.Unix(r.Int64N(1e9), 5)
	}
	if r.IntN(40) == 0 {
		l.Data = bytes.Repeat(l.Data, 20) // larger than a segment
	}
	return l
}

func batch(r *rand.Rand, from uint64) []*raft.Log {
	list := make([]*raft.Log, 1+r.IntN(4))
	for i := range list {
		list[i] = entry(r, from+uint64(i))
	}
	return list
}

// stored notes an append that was acknowledged: nothing else that was tried
// there may come up any more.
func (m *model) stored(list []*raft.Log) {
	m.forget(list[0].Index)
	if len(m.list) > 0 && list[0].Index != m.next {
		m.list = nil
	}
	m.list = append(m.list[:len(m.list):len(m.list)], list...)
	m.next, m.cut, m.anew = list[len(list)-1].Index+1, 0, nil
	for _, e := range list {
		m.known[e.Index] = []*raft.Log{e}
	}
}

func (m *model) tried(list []*raft.Log) {
	for _, e := range list {
		m.known[e.Index] = append(m.known[e.Index], e)
	}
}

func (m *model) forget(from uint64) {
	for index := range m.known {
		if index >= from {
			delete(m.known, index)
		}
	}
}

// observe compares a log with the model and takes over what it holds: all of
// must, and beyond that only what was written.
func (m *model) observe(l *wal.Log, must []*raft.Log) error {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if len(must) > 0 && (first == 0 || first > must[0].Index || last < must[len(must)-1].Index) {
		return fmt.Errorf("it has entries %d to %d, and must have %d to %d", first, last, must[0].Index, must[len(must)-1].Index)
	}
	var list []*raft.Log
	for index := max(first, 1); index <= last; index++ {
		var got raft.Log
		if err := l.GetLog(index, &got); err != nil {
			return fmt.Errorf("entry %d: %w", index, err)
		}
		list = append(list, &got)
	}
	for _, e := range must {
		if got := list[e.Index-first]; !same(got, e) {
			return fmt.Errorf("entry %d is another", e.Index)
		}
	}
	for _, e := range list {
		if !slices.ContainsFunc(m.known[e.Index], func(k *raft.Log) bool { return same(k, e) }) {
			return fmt.Errorf("entry %d was never written, or was deleted", e.Index)
		}
	}
	if m.list = list; last > 0 {
		m.next = last + 1
	}
	return nil
}

func same(a, b *raft.Log) bool {
	return a.Index == b.Index && a.Term == b.Term && a.Type == b.Type && bytes.Equal(a.Data, b.Data) &&
		bytes.Equal(a.Extensions, b.Extensions) && a.AppendedAt.Equal(b.AppendedAt)
}

// life does a number of things to a log on a disk, and returns what is wrong
// with the outcome.
func life(seed uint64, steps int, lies bool, fails float64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	d := newDisk(r)
	d.lies = lies
	l, err := wal.Open(d, testSegment)
	if err != nil {
		return err
	}
	m := &model{next: 1, known: map[uint64][]*raft.Log{}}
	for step := range steps {
		d.fails = fails
		what, err := m.step(r, d, &l)
		if err != nil {
			return fmt.Errorf("seed %d, step %d, %s: %w", seed, step, what, err)
		}
	}
	return nil
}

func (m *model) step(r *rand.Rand, d *disk, l **wal.Log) (what string, err error) {
	switch n := r.IntN(20); {
	case n < 13:
		return "append", m.append(*l, batch(r, m.next))
	case n == 13:
		return "append after a gap", m.append(*l, batch(r, m.next+1+r.Uint64N(50)))
	case n == 14 && len(m.list) > 0:
		return "delete older", m.deleteOlder(*l, m.list[0].Index+r.Uint64N(uint64(len(m.list))))
	case n == 15 && len(m.list) > 1:
		return "delete newer", m.deleteNewer(*l, m.list[0].Index+1+r.Uint64N(uint64(len(m.list)-1)))
	case n == 16 && len(m.list) > 0:
		return "delete all", m.deleteNewer(*l, m.list[0].Index)
	case n == 17:
		d.fails = 0
		if err := (*l).Close(); err != nil {
			return "close", err
		}
		*l, err = m.reopen(d)
		return "open again", err
	case n >= 18:
		d.fails = 0
		d.crash()
		*l, err = m.reopen(d)
		return "crash", err
	}
	return "", nil
}

func (m *model) reopen(d *disk) (*wal.Log, error) {
	l, err := wal.Open(d, testSegment)
	if err != nil {
		return nil, err
	}
	must := m.list
	if m.cut > 0 { // a deletion that failed may have happened all the same
		must = slices.DeleteFunc(slices.Clone(must), func(e *raft.Log) bool { return e.Index >= m.cut })
	}
	if first, _ := l.FirstIndex(); m.anew[first] { // and so may an append after a gap
		must = nil
	}
	m.cut, m.anew = 0, nil
	return l, m.observe(l, must)
}

func (m *model) append(l *wal.Log, list []*raft.Log) error {
	gap := list[0].Index != m.next
	if err := l.StoreLogs(list); err != nil {
		m.tried(list)
		if !errors.Is(err, errDisk) {
			return err
		}
		if gap {
			if m.anew == nil {
				m.anew = map[uint64]bool{}
			}
			m.anew[list[0].Index] = true
		}
		return m.observe(l, m.list)
	}
	m.stored(list)
	return m.observe(l, m.list)
}

func (m *model) deleteOlder(l *wal.Log, to uint64) error {
	if to == m.next-1 {
		return m.deleteNewer(l, m.list[0].Index) // that is all
	}
	err := l.DeleteRange(m.list[0].Index, to)
	if err != nil && !errors.Is(err, errDisk) {
		return err
	}
	next := m.next
	must := slices.DeleteFunc(slices.Clone(m.list), func(e *raft.Log) bool { return e.Index <= to })
	if first, _ := l.FirstIndex(); err == nil && len(must) > 0 && first != to+1 {
		return fmt.Errorf("the first entry is %d, not %d", first, to+1)
	}
	err = m.observe(l, must)
	m.next = next
	return err
}

func (m *model) deleteNewer(l *wal.Log, from uint64) error {
	err := l.DeleteRange(from, m.next-1)
	if err != nil && !errors.Is(err, errDisk) {
		return err
	}
	if err != nil {
		if m.cut == 0 || from < m.cut {
			m.cut = from
		}
		return m.observe(l, m.list)
	}
	must := slices.DeleteFunc(slices.Clone(m.list), func(e *raft.Log) bool { return e.Index >= from })
	m.forget(from)
	m.next = from
	return m.observe(l, must)
}

// TestLives lets logs live through appends, deletions, failing disks and
// crashes: what was acknowledged is there, and nothing else is.
//
// Longer: go test ./cluster/wal -run TestLives -args -lives 60000
func TestLives(t *testing.T) {
	for seed := range uint64(*lives) {
		if err := life(seed, 120, false, 0); err != nil {
			t.Fatal(err)
		}
		if err := life(seed, 120, false, 0.05); err != nil {
			t.Fatalf("with a disk that fails: %v", err)
		}
	}
}

// TestLivesCatch has the same disk ignore syncs, as it would if the log did
// not ask for them: the check above must notice.
func TestLivesCatch(t *testing.T) {
	caught := 0
	for seed := range uint64(50) {
		if life(seed, 120, true, 0) != nil {
			caught++
		}
	}
	if caught < 45 {
		t.Errorf("logs that were never synced were found out in %d of 50 lives", caught)
	}
}
