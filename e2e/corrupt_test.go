//go:build linux

package e2e_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// logFile is the file with the node's Raft log, or the newest part of it.
func (n *node) logFile() string {
	if n.store() == "boltdb" {
		return filepath.Join(n.dir, "raft", "raft.db")
	}
	segments, err := filepath.Glob(filepath.Join(n.dir, "raft", "wal", "*.seg"))
	must(n.f.t, err)
	if len(segments) == 0 {
		n.f.t.Fatalf("%s has no log", n.name)
	}
	return slices.Max(segments)
}

// alter changes a file in place.
func alter(t testing.TB, file string, change func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(file)
	must(t, err)
	must(t, os.WriteFile(file, change(b), 0o600))
}

// fillLog writes some objects, the last of them with a text to look for.
func fillLog(t testing.TB, f *fleet, canary string) {
	t.Helper()
	for i := range 40 {
		_, err := put(t.Context(), f.any(), fmt.Sprintf("t%d", i), fmt.Sprintf("%s-%d", canary, i))
		must(t, err)
	}
}

// TestFlippedEntry flips a bit inside a log entry on the disk of a stopped
// node. The store below does not notice; the node must, and must not serve
// the wrong value.
func TestFlippedEntry(t *testing.T) {
	quick(t)
	for _, at := range [][2]string{{"follower", "boltdb"}, {"leader", "boltdb"}, {"follower", "wal"}, {"leader", "wal"}} {
		which, store := at[0], at[1]
		t.Run(which+" with "+store, func(t *testing.T) {
			f := running(t, 3, "--raft-log-store", store)
			fillLog(t, f, "canary")
			n := f.leader()
			if which == "follower" {
				n = f.others(n)[0]
			}
			n.kill()
			alter(t, n.logFile(), func(b []byte) []byte {
				text := []byte("canary-17")
				if store == "wal" { // which does not keep it in the clear
					for i := range text {
						text[i] ^= 0xA5
					}
				}
				at := bytes.Index(b, text)
				if at < 0 {
					t.Fatal("the log does not hold the text")
				}
				for ; at >= 0; at = bytes.Index(b, text) { // old pages may hold copies
					b[at+8] ^= 0x04
				}
				return b
			})
			n.start()
			f.whole()
			f.equalStates()
			got, err := n.cli().GetTemplate(t.Context(), "t17")
			must(t, err)
			if v := got.Labels["v"]; v != "canary-17" {
				t.Errorf("%s serves %q", n.name, v)
			}
			_, err = put(t.Context(), n.cli(), "after", "1")
			must(t, err)
			f.equalStates()
			n.term() // and it must not come back with the damage
			n.start()
			f.whole()
			f.equalStates()
		})
	}
}

// TestDamagedLog flips bits anywhere in the log file, or cuts it off. The node
// may heal, or refuse to start and say so; it must neither crash nor differ.
func TestDamagedLog(t *testing.T) {
	quick(t)
	for _, store := range []string{"boltdb", "wal"} {
		t.Run(store, func(t *testing.T) { damagedLog(t, running(t, 3, "--raft-log-store", store)) })
	}
}

func damagedLog(t *testing.T, f *fleet) {
	fillLog(t, f, "damage")
	n := f.others(f.leader())[0]
	n.term()
	name, kept := n.logFile(), filepath.Join(f.dir, "kept")
	must(t, os.CopyFS(kept, os.DirFS(filepath.Join(n.dir, "raft"))))
	whole, err := os.ReadFile(name)
	must(t, err)
	for round := range rounds(8, 60) {
		r := rand.New(rand.NewPCG(uint64(round), 7))
		what := "cut to half"
		alter(t, name, func([]byte) []byte {
			b := bytes.Clone(whole)
			if round == 0 {
				return b[:len(b)/2]
			}
			// Most of the file is empty; damage where there is something.
			at := r.IntN(len(b))
			for b[at] == 0 {
				at = r.IntN(len(b))
			}
			bit := byte(1) << r.IntN(8)
			what = fmt.Sprintf("byte %d, page %d + %d, was %#x ^ %#x", at, at/4096, at%4096, b[at], bit)
			b[at] ^= bit
			return b
		})
		n.start()
		n.healsOrRefuses(what)
		if n.runs() {
			f.equalStates()
			n.term()
		}
		must(t, os.RemoveAll(n.dir)) // the copy is of a time that the others know
		must(t, os.CopyFS(filepath.Join(n.dir, "raft"), os.DirFS(kept)))
	}
}

// healsOrRefuses waits until a node is ready or has ended, and looks at how.
func (n *node) healsOrRefuses(what string) {
	n.f.t.Helper()
	eventually(n.f.t, settleDeadline, "the node to be ready or to end, after "+what, func() error {
		if !n.runs() {
			return nil
		}
		return n.ready()
	})
	if n.runs() {
		n.f.t.Logf("%s: it runs", what)
		return
	}
	text := n.tail(40)
	if i := strings.Index(text, "goroutine "); i >= 0 || strings.Contains(text, "panic") || strings.Contains(text, "SIGSEGV") {
		n.f.t.Errorf("%s: %s crashed (status %d):\n%s", what, n.name, n.gone(), n.tail(30))
	} else {
		n.f.t.Logf("%s: it ended with status %d: %s", what, n.gone(), n.tail(1))
	}
	must(n.f.t, os.Truncate(n.log(), 0))
}

// TestBadSnapshot sends damaged snapshots; each is refused and changes nothing.
// The undamaged one is then taken.
func TestBadSnapshot(t *testing.T) {
	quick(t)
	f := running(t, 3)
	fillLog(t, f, "saved")
	good, err := f.nodes[0].snapshot()
	must(t, err)
	must(t, f.any().DeleteTemplate(t.Context(), "t3"))
	r := rand.New(rand.NewPCG(1, 1))
	bad := map[string][]byte{
		"empty": {}, "one byte": good[:1], "half": good[:len(good)/2], "without its last byte": good[:len(good)-1],
		"not a snapshot": []byte(strings.Repeat("hello ", 100)),
	}
	for i := range 20 {
		b := bytes.Clone(good)
		at := r.IntN(len(b))
		b[at] ^= 1 << r.IntN(8)
		bad[fmt.Sprintf("flip %d at byte %d of %d", i, at, len(b))] = b
	}
	for name, b := range bad {
		n := f.nodes[r.IntN(len(f.nodes))]
		_, err := n.cli().RestoreSnapshot(t.Context(), bytes.NewReader(b))
		if err == nil {
			t.Errorf("%s: %s took it", name, n.name)
			continue
		}
		if p := problem(t, err); p.Status < 400 || p.Status >= 500 || p.Detail == "" {
			t.Errorf("%s: %s answers %d %q", name, n.name, p.Status, p.Detail)
		}
	}
	_, err = f.any().GetTemplate(t.Context(), "t3", client.WithConsistency(client.Strong))
	if client.CodeOf(err) != fsm.NotFound {
		t.Errorf("a refused snapshot has changed something: %v", err)
	}
	_, err = f.any().RestoreSnapshot(t.Context(), bytes.NewReader(good))
	must(t, err)
	for _, n := range f.nodes {
		_, err = n.cli().GetTemplate(t.Context(), "t3", client.WithConsistency(client.Strong))
		must(t, err)
	}
	f.equalStates()
	for _, n := range f.nodes { // and after a restart of all
		n.signal(syscall.SIGKILL)
	}
	for _, n := range f.nodes {
		n.gone()
	}
	f.startAll()
	f.whole()
	f.equalStates()
}
