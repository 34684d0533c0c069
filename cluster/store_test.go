package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// entryOf is the entry of one write.
func entryOf(t *testing.T, name string, size int) []byte {
	t.Helper()
	cmd := fsm.PutTemplate{Template: fsm.Template{Name: name, Driver: "process", Command: "@sample", UserData: string(bytes.Repeat([]byte("x"), size))}}
	env, err := fsm.Seal(cmd, "", "")
	if err != nil {
		t.Fatal(err)
	}
	return (&fsm.Entry{Commands: []fsm.Envelope{env}}).Encode()
}

// newLogStore is a log store whose Raft must never lose its place.
func newLogStore(t *testing.T, below raft.LogStore) raft.LogStore {
	return cluster.NewLogStore(below, raft.NewInmemSnapshotStore(), func(err error) { t.Errorf("Raft has lost its place: %v", err) })
}

func TestLogStoreRefusesADamagedEntry(t *testing.T) {
	s := newLogStore(t, raft.NewInmemStore())
	good := entryOf(t, "t", 1)
	bad := bytes.Clone(good)
	bad[len(bad)-3] ^= 1
	if err := s.StoreLogs([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogCommand, Data: bad}}); err == nil {
		t.Error("a damaged entry was stored")
	}
	if err := s.StoreLogs([]*raft.Log{
		{Index: 1, Term: 1, Type: raft.LogCommand, Data: good},
		{Index: 2, Term: 1, Type: raft.LogNoop},
		{Index: 3, Term: 1, Type: raft.LogConfiguration, Data: []byte("not one of ours")},
	}); err != nil {
		t.Error(err)
	}
}

// TestLogStoreCacheIsTrue reads back what was stored, also after the end of
// the log was replaced, and within the cache's limit.
func TestLogStoreCacheIsTrue(t *testing.T) {
	below := raft.NewInmemStore()
	s := newLogStore(t, below)
	store := func(index, term uint64, size int) {
		t.Helper()
		l := &raft.Log{Index: index, Term: term, Type: raft.LogCommand, Data: entryOf(t, fmt.Sprintf("t-%d-%d", index, term), size)}
		if err := s.StoreLog(l); err != nil {
			t.Fatal(err)
		}
	}
	check := func(index, term uint64) {
		t.Helper()
		var got, want raft.Log
		if err := s.GetLog(index, &got); err != nil {
			t.Fatalf("index %d: %v", index, err)
		}
		if err := below.GetLog(index, &want); err != nil {
			t.Fatal(err)
		}
		if got.Term != term || got.Index != index || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("index %d is of term %d", index, got.Term)
		}
	}
	for i := range uint64(1500) {
		store(i+1, 1, 16<<10)
		if n := cluster.CachedBytes(s); n > 9<<20 {
			t.Fatalf("the cache holds %d bytes", n)
		}
	}
	for i := range uint64(1500) {
		check(i+1, 1)
	}
	if err := s.DeleteRange(1400, 1500); err != nil {
		t.Fatal(err)
	}
	var l raft.Log
	if err := s.GetLog(1450, &l); err == nil {
		t.Error("a deleted entry is read from the cache")
	}
	for i := range uint64(50) {
		store(1400+i, 2, 10)
	}
	for i := range uint64(1449) {
		term := uint64(1)
		if i+1 >= 1400 {
			term = 2
		}
		check(i+1, term)
	}
	if err := s.GetLog(1480, &l); err == nil {
		t.Error("a deleted entry is still there")
	}
}

// brittle is a store that fails when it is told to.
type brittle struct {
	raft.LogStore
	fails bool
}

func (b *brittle) StoreLogs(logs []*raft.Log) error {
	if b.fails {
		return errors.New("the disk is full")
	}
	return b.LogStore.StoreLogs(logs)
}

func noops(from, to, term uint64) (list []*raft.Log) {
	for i := from; i <= to; i++ {
		list = append(list, &raft.Log{Index: i, Term: term, Type: raft.LogNoop})
	}
	return list
}

// TestLogStoreKeepsRaftsPlace fails the append that replaces deleted entries:
// Raft would take what comes after them, as if they were there.
func TestLogStoreKeepsRaftsPlace(t *testing.T) {
	below, snaps := &brittle{LogStore: raft.NewInmemStore()}, raft.NewInmemSnapshotStore()
	lost := 0
	s := cluster.NewLogStore(below, snaps, func(error) { lost++ })
	must := func(err error) {
		t.Helper()
		if err != nil || lost > 0 {
			t.Fatalf("%v, %d times lost", err, lost)
		}
	}
	must(s.StoreLogs(noops(1, 10, 2)))
	below.fails = true
	if err := s.StoreLogs(noops(11, 12, 2)); err == nil || lost > 0 {
		t.Fatalf("an append to the end: %v, %d times lost; Raft can try again", err, lost)
	}
	below.fails = false
	must(s.StoreLogs(noops(11, 12, 2)))
	must(s.DeleteRange(1, 3)) // a compaction
	below.fails = true
	if err := s.StoreLogs(noops(13, 13, 2)); err == nil || lost > 0 {
		t.Fatalf("an append after a compaction: %v, %d times lost", err, lost)
	}
	below.fails = false
	must(s.DeleteRange(6, 12))
	below.fails = true
	if err := s.StoreLogs(noops(6, 6, 3)); err == nil || lost != 1 {
		t.Fatalf("an append in the place of others: %v, %d times lost", err, lost)
	}
	below.fails, lost = false, 0
	damaged := &raft.Log{Index: 6, Term: 3, Type: raft.LogCommand, Data: []byte("not an entry")}
	if err := s.StoreLog(damaged); err == nil || lost != 1 {
		t.Fatalf("a damaged entry in the place of others: %v, %d times lost", err, lost)
	}
	lost = 0
	if err := s.StoreLogs(noops(13, 13, 4)); err == nil || lost != 1 {
		t.Fatalf("an append that leaves a hole: %v, %d times lost", err, lost)
	}
	if last, err := below.LastIndex(); err != nil || last != 5 {
		t.Errorf("it holds entries up to %d, %v", last, err)
	}
	sink, err := snaps.Create(1, 12, 3, raft.Configuration{}, 1, nil)
	lost = 0
	must(err)
	must(sink.Close())
	must(s.StoreLogs(noops(13, 13, 4)))
}
