package fsm_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
)

type key = [16]byte

// treeModel is a tree and what it should hold.
type treeModel struct {
	tree *fsm.SessionTree
	want map[key]uint32
}

func (m treeModel) check(t interface {
	Fatalf(string, ...any)
}, from key) {
	var keys []key
	for k := range m.want {
		if bytes.Compare(k[:], from[:]) >= 0 {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return bytes.Compare(a[:], b[:]) })
	n := 0
	m.tree.Scan(from, func(k key, slot uint32) bool {
		if n >= len(keys) || keys[n] != k || m.want[k] != slot {
			t.Fatalf("row %d is %x in slot %d; want %d rows", n, k, slot, len(keys))
		}
		n++
		return true
	})
	if n != len(keys) || m.tree.Len() != len(m.want) {
		t.Fatalf("found %d of %d rows, length %d of %d", n, len(keys), m.tree.Len(), len(m.want))
	}
	if depth, _, _ := m.tree.Shape(); depth > 31 {
		t.Fatalf("the tree is %d deep", depth)
	}
}

// drawKey makes keys that share prefixes of any length, so that trees are deep.
func drawKey(t *rapid.T) key {
	var k key
	at := rapid.IntRange(0, 31).Draw(t, "digit")
	v := rapid.ByteRange(0, 15).Draw(t, "value")
	k[at/2] = v << (4 * (1 - at&1))
	k[15] |= rapid.ByteRange(0, 7).Draw(t, "last")
	return k
}

// edit gives every other session of some, from a key on, another slot.
func (m treeModel) edit(t *rapid.T, from key) {
	var keys []key
	for k := range m.want {
		if bytes.Compare(k[:], from[:]) >= 0 {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b key) int { return bytes.Compare(a[:], b[:]) })
	keys = keys[:min(len(keys), rapid.IntRange(0, 40).Draw(t, "limit"))]
	n, odd := 0, rapid.IntRange(0, 1).Draw(t, "odd")
	seen := m.tree.Edit(from, len(keys), func(k key) (uint32, bool) {
		if n >= len(keys) || keys[n] != k {
			t.Fatalf("row %d of the pass is %x", n, k)
		}
		n++
		if n&1 == odd {
			return 0, false
		}
		m.want[k] = uint32(n)
		return uint32(n), true
	})
	if seen != len(keys) {
		t.Fatalf("the pass saw %d of %d rows", seen, len(keys))
	}
}

// TestSessionTree compares trees with maps, for keys of every kind, and keeps
// every version to see that none changes when a later one is made of it.
func TestSessionTree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := treeModel{&fsm.SessionTree{}, map[key]uint32{}}
		var kept []treeModel
		draw := rapid.SampledFrom([]func(*rapid.T) key{drawKey, func(t *rapid.T) key {
			return key(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "key"))
		}}).Draw(t, "kind")
		for e := range rapid.IntRange(1, 8).Draw(t, "edits") {
			kept = append(kept, now)
			want := map[key]uint32{}
			for k, v := range now.want {
				want[k] = v
			}
			// The other edit of the same version stands for a dry run.
			dry := now.tree.Fork(uint64(e + 1))
			now = treeModel{now.tree.Fork(uint64(e + 1)), want}
			for range rapid.IntRange(1, 80).Draw(t, "steps") {
				k := draw(t)
				_, had := now.want[k]
				dry.Remove(k)
				if rapid.IntRange(0, 9).Draw(t, "pass") == 0 {
					now.edit(t, k)
					continue
				}
				if rapid.IntRange(0, 2).Draw(t, "step") > 0 {
					slot := rapid.Uint32().Draw(t, "slot")
					if now.tree.Put(k, slot) == had {
						t.Fatalf("put of %x, there before: %v", k, had)
					}
					now.want[k] = slot
				} else if delete(now.want, k); now.tree.Remove(k) != had {
					t.Fatalf("removal of %x, there before: %v", k, had)
				}
				slot, ok := now.tree.Get(k)
				if want, is := now.want[k]; ok != is || slot != want {
					t.Fatalf("%x is in slot %d, want %d", k, slot, want)
				}
			}
		}
		for _, m := range append(kept, now) {
			m.check(t, key{})
			m.check(t, draw(t))
		}
	})
}

// TestSessionTreeShape: whatever keys somebody chooses, the depth is bounded,
// the memory is proportional to the keys, and a set that shrinks gives it back.
func TestSessionTreeShape(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for name, c := range map[string]struct {
		key                   func(k int) key
		perPage, deep, branch float64
	}{
		"random":                {func(int) key { return randomKey(r) }, 10, 6, 1},
		"sequential":            {func(k int) (x key) { binary.BigEndian.PutUint64(x[8:], uint64(k)); return }, 8, 31, 1},
		"little-endian counter": {func(k int) (x key) { binary.LittleEndian.PutUint64(x[:], uint64(k)); return }, 8, 31, 1},
		"one in each branch": {func(k int) (x key) {
			// 21 keys that agree in 30 digits, of as many families as there are.
			binary.BigEndian.PutUint64(x[:], uint64(k/21)*0x9E3779B97F4A7C15)
			x[15] = byte(k % 21)
			return x
		}, 3, 31, 3},
	} {
		t.Run(name, func(t *testing.T) {
			tree := (&fsm.SessionTree{}).Fork(1)
			var keys []key
			const n = 50_000
			for k := range n {
				keys = append(keys, c.key(k))
				tree.Put(keys[k], 1)
			}
			depth, pages, branches := tree.Shape()
			if depth > int(c.deep) || float64(n)/float64(pages) < c.perPage || float64(branches)/float64(n) > c.branch {
				t.Errorf("%d pages, %d branches, depth %d", pages, branches, depth)
			}
			t.Logf("%d pages, %d branches, depth %d, %.0f bytes a session", pages, branches, depth, (576*float64(pages)+288*float64(branches))/n)
			for _, k := range keys[100:] {
				tree.Remove(k)
			}
			if _, pages, branches := tree.Shape(); pages > 100 || branches > 400 {
				t.Errorf("100 sessions are left in %d pages and %d branches", pages, branches)
			}
			for _, k := range keys[:100] {
				tree.Remove(k)
			}
			if _, pages, branches := tree.Shape(); pages != 0 || branches > 1 {
				t.Errorf("nothing is left in %d pages and %d branches", pages, branches)
			}
		})
	}
}

func randomKey(r *rand.Rand) (k key) {
	binary.LittleEndian.PutUint64(k[:], r.Uint64())
	binary.LittleEndian.PutUint64(k[8:], r.Uint64())
	return k
}

// TestSessionKey: ids of the proxy are the key itself, other texts are hashed.
func TestSessionKey(t *testing.T) {
	k := key{0xab, 15: 0x01}
	if got := fsm.SessionKey(fmt.Sprintf("%x", k)); got != k {
		t.Errorf("got %x", got)
	}
	if fsm.SessionKey("AB000000000000000000000000000001") != k {
		t.Error("hexadecimal digits in upper case are another key")
	}
	// sha256("alice") by another tool.
	if got := fmt.Sprintf("%x", fsm.SessionKey("alice")); got != "2bd806c97f0e00af1a1fc3328fa763a9" {
		t.Errorf("got %s", got)
	}
	if fsm.SessionKey("zz000000000000000000000000000001") == (key{}) {
		t.Error("a text of 32 letters is not hashed")
	}
	for id, ok := range map[string]bool{"": false, "a": true, string(make([]byte, 256)): true, string(make([]byte, 257)): false, "\xff": false, "é": true} {
		if err := fsm.CheckSessionID(id); (err == nil) != ok {
			t.Errorf("%d bytes: %v", len(id), err)
		}
	}
}

// TestSessionTreeCollapse: a branch whose last but one page goes becomes that
// page in the next version, and stays what it was in the one before.
func TestSessionTreeCollapse(t *testing.T) {
	old := treeModel{(&fsm.SessionTree{}).Fork(1), map[key]uint32{}}
	at := func(digit, k byte) key { return key{0x50 | digit, 15: k} }
	for k := range byte(21) { // more than a page, so that they get a branch
		old.tree.Put(at(8, k), 1)
	}
	old.tree.Put(at(0, 0), 1)
	old.want[at(0, 0)] = 1
	for k := range byte(21) {
		if k < 10 {
			old.want[at(8, k)] = 1
			continue
		}
		old.tree.Remove(at(8, k))
	}
	_, _, before := old.tree.Shape()
	next := treeModel{old.tree.Fork(2), map[key]uint32{}}
	for k := range byte(10) {
		next.want[at(8, k)] = 1
	}
	next.tree.Remove(at(0, 0))
	if _, pages, branches := next.tree.Shape(); pages != 1 || branches >= before {
		t.Fatalf("%d branches have become %d, with %d pages", before, branches, pages)
	}
	old.check(t, key{})
	next.check(t, key{})
}
