package wal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/cluster/wal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openDir opens the log in a real directory.
func openDir(t testing.TB, dir string) *wal.Log {
	t.Helper()
	l, err := tryDir(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryDir(t testing.TB, dir string) (*wal.Log, error) {
	t.Helper()
	files, err := wal.NewDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	l, err := wal.Open(files, testSegment)
	if err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	return l, err
}

// store appends batches of three entries with the given sizes of data.
func store(t testing.TB, l *wal.Log, from uint64, size, batches int) (all []*raft.Log) {
	t.Helper()
	for b := range batches {
		var list []*raft.Log
		for k := range 3 {
			index := from + uint64(3*b+k)
			data := bytes.Repeat([]byte{byte(index), 7}, size/2)
			list = append(list, &raft.Log{Index: index, Term: 2, Data: data})
		}
		if err := l.StoreLogs(list); err != nil {
			t.Fatal(err)
		}
		all = append(all, list...)
	}
	return all
}

func files(t testing.TB, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func span(l *wal.Log) string {
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	return fmt.Sprintf("%d-%d", first, last)
}

func TestSegmentsComeAndGo(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	all := store(t, l, 1, 300, 40)
	if n := len(files(t, dir)); n < 5 {
		t.Fatalf("120 entries of 300 bytes are in %d segments of 8 KiB", n)
	}
	if err := l.DeleteRange(1, 100); err != nil {
		t.Fatal(err)
	}
	if n := len(files(t, dir)); n > 2 || span(l) != "101-120" {
		t.Errorf("20 entries are left in %d segments: %s", n, span(l))
	}
	if err := l.DeleteRange(111, 120); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openDir(t, dir)
	if _, last, _ := strings.Cut(span(l), "-"); last != "110" {
		t.Errorf("after a restart it has %s", span(l))
	}
	for _, e := range all[100:110] {
		var got raft.Log
		if err := l.GetLog(e.Index, &got); err != nil || !same(&got, e) {
			t.Fatalf("entry %d: %v, %v", e.Index, got, err)
		}
	}
	store(t, l, 500, 300, 1)
	if n := len(files(t, dir)); n != 1 || span(l) != "500-502" {
		t.Errorf("after a gap it has %s in %d segments", span(l), n)
	}
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	var got raft.Log
	if err := l.GetLog(1, &got); !errors.Is(err, raft.ErrLogNotFound) || span(l) != "0-0" {
		t.Errorf("an empty log has %s, and gives %v", span(l), err)
	}
	store(t, l, 1, 20, 4)
	for what, err := range map[string]error{
		"an entry again":        l.StoreLog(&raft.Log{Index: 12}),
		"an entry in disorder":  l.StoreLogs([]*raft.Log{{Index: 13}, {Index: 15}}),
		"an entry too large":    l.StoreLog(&raft.Log{Index: 13, Data: make([]byte, 65<<20)}),
		"a hole in the middle":  l.DeleteRange(4, 6),
		"an entry that is gone": l.GetLog(13, &got),
	} {
		if err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	for _, r := range [][2]uint64{{5, 4}, {13, 20}, {0, 0}} {
		if err := l.DeleteRange(r[0], r[1]); err != nil || span(l) != "1-12" {
			t.Errorf("deleting %d to %d: %v, leaves %s", r[0], r[1], err, span(l))
		}
	}
	if err := errors.Join(l.Close(), l.Close()); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"store": l.StoreLog(&raft.Log{Index: 13}), "get": l.GetLog(1, &got), "delete": l.DeleteRange(1, 2),
	} {
		if err == nil {
			t.Errorf("a closed log does a %s", what)
		}
	}
}

// TestDamage flips a bit anywhere in what was written. Whatever it hits, no
// entry may go missing: the log refuses to open, or has all of them, with one
// payload other than it was.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	all := store(t, l, 1, 300, 20)
	if err := l.DeleteRange(59, 60); err != nil {
		t.Fatal(err)
	}
	all = append(all[:58], store(t, l, 59, 300, 1)...)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	refused, changed := 0, 0
	for seed := range uint64(600) {
		r := rand.New(rand.NewPCG(seed, 2))
		names := files(t, dir)
		name := names[r.IntN(len(names))]
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(len(whole))
		for whole[at] == 0 {
			at = r.IntN(len(whole))
		}
		b := bytes.Clone(whole)
		b[at] ^= 1 << r.IntN(8)
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := tryDir(t, dir)
		var damaged *wal.DamagedError
		switch {
		case errors.As(err, &damaged):
			refused++
		case err != nil:
			t.Fatalf("byte %d of %s: %v", at, name, err)
		default:
			changed += differences(t, l, all)
		}
		if err == nil {
			err = l.Close()
		}
		if errors.Join(nilIf(damaged, err), os.WriteFile(name, whole, 0o600)) != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 || changed == 0 {
		t.Errorf("%d logs were refused, %d have a damaged payload: the test does not reach both", refused, changed)
	}
}

func nilIf(damaged *wal.DamagedError, err error) error {
	if damaged != nil {
		return nil
	}
	return err
}

// differences counts the entries whose payload is another.
func differences(t *testing.T, l *wal.Log, all []*raft.Log) (n int) {
	t.Helper()
	for _, e := range all {
		var got raft.Log
		if err := l.GetLog(e.Index, &got); err != nil {
			t.Fatalf("entry %d: %v", e.Index, err)
		}
		if !same(&got, e) {
			n++
		}
	}
	if n > 1 || span(l) != "1-61" {
		t.Fatalf("%d entries of %s differ", n, span(l))
	}
	return n
}

func TestCutOffFile(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	store(t, l, 1, 300, 4)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(files(t, dir)[0], 2000); err != nil {
		t.Fatal(err)
	}
	if _, err := tryDir(t, dir); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Errorf("a file that was cut off: %v", err)
	}
}

// TestReadersBesideAChange lets readers go on while the log grows and shrinks;
// the race detector looks at it.
func TestReadersBesideAChange(t *testing.T) {
	l := openDir(t, t.TempDir())
	store(t, l, 1, 100, 1)
	done := make(chan struct{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				last, _ := l.LastIndex()
				var got raft.Log
				if err := l.GetLog(last, &got); err == nil && got.Index != last {
					t.Errorf("entry %d is entry %d", last, got.Index)
				} else if err != nil && !errors.Is(err, raft.ErrLogNotFound) {
					t.Error(err)
				}
			}
		})
	}
	for from := uint64(4); from < 400; from += 30 {
		store(t, l, from, 100, 10)
		if err := errors.Join(l.DeleteRange(from+27, from+29), l.DeleteRange(1, from)); err != nil {
			t.Error(err)
		}
		store(t, l, from+27, 100, 1)
	}
	close(done)
	wg.Wait()
}

// BenchmarkAppend compares one durable append of an entry with boltdb.
func BenchmarkAppend(b *testing.B) {
	bolt, err := raftboltdb.NewBoltStore(filepath.Join(b.TempDir(), "raft.db"))
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = bolt.Close() }()
	files, err := wal.NewDir(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	l, err := wal.Open(files, wal.SegmentSize)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	for _, size := range []int{300, 5000} {
		for name, s := range map[string]raft.LogStore{"boltdb": bolt, "wal": l} {
			b.Run(fmt.Sprintf("%s/%d", name, size), func(b *testing.B) {
				data := bytes.Repeat([]byte{1, 2}, size/2)
				last, _ := s.LastIndex()
				b.ReportAllocs()
				for b.Loop() {
					last++
					if err := s.StoreLog(&raft.Log{Index: last, Term: 1, Data: data}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}
