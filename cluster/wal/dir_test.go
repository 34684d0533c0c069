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

// varied fills a log with all that a log may hold: payloads of any length and
// none, of zeros, of the mask, and with the records of another log in them; a
// deletion in the middle and others in the place of what was deleted; many
// batches, the last one of four entries.
func varied(t testing.TB, l *wal.Log, withLast bool) (all []*raft.Log) {
	t.Helper()
	other := t.TempDir()
	o := openDir(t, other)
	store(t, o, 500, 100, 3)
	foreign, err := os.ReadFile(files(t, other)[0])
	if err != nil {
		t.Fatal(err)
	}
	for i := range foreign {
		foreign[i] ^= 0xA5 // the mask makes it a record again
	}
	payloads := [][]byte{nil, make([]byte, 1100), bytes.Repeat([]byte{0xA5}, 1100), foreign[:1500], []byte("x"), bytes.Repeat([]byte{1, 0}, 300)}
	put := func(index, term uint64, n int) {
		t.Helper()
		var list []*raft.Log
		for k := range uint64(n) {
			i := index + k
			list = append(list, &raft.Log{Index: i, Term: term, Data: payloads[i%uint64(len(payloads))]})
		}
		if err := l.StoreLogs(list); err != nil {
			t.Fatal(err)
		}
		all = append(all[:index-1], list...)
	}
	for i := range uint64(20) {
		put(1+2*i, 2, 2)
	}
	if err := l.DeleteRange(31, 40); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(4) {
		put(31+2*i, 3, 2)
	}
	if withLast {
		put(39, 3, 4)
	}
	return all
}

// TestDamage flips a bit anywhere in what was written. Whatever it hits, no
// entry may go missing: the log refuses to open, or has all of them, with one
// payload other than it was.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	all := varied(t, l, true)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	refused, changed := 0, 0
	for _, name := range files(t, dir) {
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		written := len(bytes.TrimRight(whole, "\x00"))
		for at := 0; at < written; at += 13 {
			b := bytes.Clone(whole)
			b[at] ^= 1 << (at % 8)
			if damaged(t, dir, name, b, all, fmt.Sprintf("byte %d of %s", at, name)) {
				refused++
			} else {
				changed++
			}
		}
		if err := os.WriteFile(name, whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if refused == 0 || changed == 0 {
		t.Errorf("%d logs were refused, %d were opened: the test does not reach both", refused, changed)
	}
}

// damaged puts other content into a file, and reports whether the log refuses
// it. If not, the log must have all entries, one at most with other data.
func damaged(t *testing.T, dir, name string, content []byte, all []*raft.Log, what string) (refused bool) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := tryDir(t, dir)
	if e := (*wal.DamagedError)(nil); errors.As(err, &e) {
		return true
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	if want := fmt.Sprintf("1-%d", len(all)); span(l) != want {
		t.Fatalf("%s: it has %s, not %s", what, span(l), want)
	}
	differ := 0
	for _, e := range all {
		var got raft.Log
		if err := l.GetLog(e.Index, &got); err != nil || got.Term != e.Term {
			t.Fatalf("%s: entry %d: %v, of term %d", what, e.Index, err, got.Term)
		}
		if !same(&got, e) {
			differ++
		}
	}
	if differ > 1 {
		t.Fatalf("%s: %d entries differ", what, differ)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return false
}

// newest returns the newest file of a log, its content, and how much of that
// was written.
func newest(t testing.TB, dir string) (name string, content []byte, written int) {
	t.Helper()
	names := files(t, dir)
	name = names[len(names)-1]
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return name, content, len(bytes.TrimRight(content, "\x00"))
}

// TestLostSectors reads one sector as zeros. In the last batch that is what a
// crash does, and the batch goes as far as it was written; before it, it is
// damage, which the log has to notice.
func TestLostSectors(t *testing.T) {
	without, dir := t.TempDir(), t.TempDir()
	l := openDir(t, without)
	before := varied(t, l, false)
	_, _, from := newest(t, without)
	l = openDir(t, dir)
	all := varied(t, l, true)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	name, whole, to := newest(t, dir)
	if from > to-3*sector {
		t.Fatalf("the last batch is at %d to %d", from, to)
	}
	for at := 0; at < to; at += sector {
		b := bytes.Clone(whole)
		clear(b[at : at+sector])
		if at < from && at+sector > from {
			continue // the end of what was acknowledged, and the start of the last batch
		}
		if at < from {
			damaged(t, dir, name, b, all, fmt.Sprintf("without the sector at %d of %d", at, from))
			continue
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		l, err := tryDir(t, dir)
		if err != nil {
			t.Fatalf("without the sector at %d, of a batch from %d on: %v", at, from, err)
		}
		last, _ := l.LastIndex()
		if last < 38 || last > 41 {
			t.Errorf("without the sector at %d it ends with entry %d", at, last)
		}
		for _, e := range before {
			var got raft.Log
			if err := l.GetLog(e.Index, &got); err != nil || !same(&got, e) {
				t.Fatalf("without the sector at %d, entry %d: %v", at, e.Index, err)
			}
		}
		store(t, l, last+1, 10, 1) // into a segment of its own
		added, _, _ := newest(t, dir)
		if err := errors.Join(l.Close(), os.Remove(added)); err != nil || added == name {
			t.Fatalf("it goes on in %s, %v", added, err)
		}
	}
}

// TestFailedDeletionIsTriedAgain has the disk refuse to delete files, and an
// append that was begun in vain before.
func TestFailedDeletionIsTriedAgain(t *testing.T) {
	d := newDisk(rand.New(rand.NewPCG(1, 1)))
	l, err := wal.Open(d, testSegment)
	if err != nil {
		t.Fatal(err)
	}
	all := store(t, l, 151, 700, 10)
	d.unsynced = true
	if l.StoreLogs([]*raft.Log{{Index: 181, Data: make([]byte, testSegment)}}) == nil {
		t.Fatal("an append was not synced")
	}
	d.fails, d.unsynced = 1, false
	for range 2 {
		if l.DeleteRange(151, 180) == nil {
			t.Fatal("a disk that fails has served")
		}
	}
	m := &model{list: all, next: 181, known: map[uint64][]*raft.Log{}}
	m.tried(all)
	if err := m.observe(l, all); err != nil {
		t.Fatalf("after deletions that failed: %v", err)
	}
	d.fails = 0
	if err := l.DeleteRange(151, 180); err != nil {
		t.Fatal(err)
	}
	if l, err = wal.Open(d, testSegment); err != nil || span(l) != "0-0" || len(d.now) > 1 {
		t.Errorf("after a deletion and a restart it has %s in %d files, %v", span(l), len(d.now), err)
	}
}

// TestMissingSegment takes a file away from the middle.
func TestMissingSegment(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	store(t, l, 1, 300, 40)
	if err := errors.Join(l.Close(), os.Remove(files(t, dir)[2])); err != nil {
		t.Fatal(err)
	}
	if _, err := tryDir(t, dir); err == nil || !strings.Contains(err.Error(), "should be") {
		t.Errorf("a file was taken away: %v", err)
	}
}

// TestDamagedPayload has a flipped bit in the data of an entry. That of a
// command is for the machine to notice; others would change Raft unnoticed.
func TestDamagedPayload(t *testing.T) {
	dir := t.TempDir()
	l := openDir(t, dir)
	data := bytes.Repeat([]byte("data"), 50)
	if err := l.StoreLogs([]*raft.Log{{Index: 1, Data: data}, {Index: 2, Type: raft.LogConfiguration, Data: data}, {Index: 3}}); err != nil {
		t.Fatal(err)
	}
	name := files(t, dir)[0]
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{32 + 48 + 100, 32 + 48 + 200 + 48 + 100} {
		b[at] ^= 1
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l = openDir(t, dir)
	var got raft.Log
	if err := l.GetLog(1, &got); err != nil || bytes.Equal(got.Data, data) {
		t.Errorf("a damaged command: %v, %q", err, got.Data)
	}
	if e := (*wal.DamagedError)(nil); !errors.As(l.GetLog(2, &got), &e) {
		t.Errorf("a damaged configuration was read: %q", got.Data)
	}
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
