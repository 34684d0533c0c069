//go:build linux

package e2e_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallDisk is the size of a data directory that is to be filled.
const smallDisk = 64 << 20

// tmpfs mounts a file system of a fixed size as a node's data directory.
func tmpfs(t testing.TB, n *node, size int) {
	t.Helper()
	must(t, os.MkdirAll(n.dir, 0o755))
	if err := syscall.Mount("paceline-e2e", n.dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("a tmpfs can not be mounted: %v", err)
	}
}

// unmount lets go of a node's data directory, after its process and those of
// its instances have ended.
func unmount(n *node) {
	n.end()
	n.endInstances()
	if err := syscall.Unmount(n.dir, 0); err != nil {
		_ = syscall.Unmount(n.dir, syscall.MNT_DETACH)
	}
}

// fill takes all the space that is left, and returns how to give it back.
func fill(t testing.TB, dir string) (free func()) {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.Create(name)
	must(t, err)
	defer f.Close() //nolint:errcheck // its content does not matter
	for _, size := range []int{1 << 20, 4096, 1} {
		chunk := make([]byte, size)
		for err = nil; err == nil; {
			_, err = f.Write(chunk)
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() { must(t, os.Remove(name)) }
}

// TestFullDisk fills the leader's disk under load. It must hand over and say
// why it is not well, the others go on, and it recovers when there is space.
func TestFullDisk(t *testing.T) {
	quick(t)
	needs(t)
	f := newFleet(t, 3)
	for _, n := range f.nodes {
		tmpfs(t, n, smallDisk)
		t.Cleanup(func() { unmount(n) })
	}
	f.startAll()
	f.whole()
	l := begin(t, f)
	l.goesOn(50)
	for range rounds(1, 5) {
		leader := f.leader()
		l.hit(leader)
		free := fill(t, leader.dir)
		eventually(t, settleDeadline, "another leader", func() error {
			st, err := f.others(leader)[0].status()
			if err == nil && (st.Leader == leader.name || st.Leader == "") {
				err = fmt.Errorf("%q leads", st.Leader)
			}
			return err
		})
		l.goesOn(100)
		eventually(t, settleDeadline, "the node saying that its disk is full", func() error { return leader.complains("space") })
		if !leader.runs() {
			t.Fatalf("%s has ended", leader.name)
		}
		free()
		f.whole()
		l.heal(leader)
		l.goesOn(20)
	}
	l.finish(true)
	f.equalStates()
}

// complains reports nil when the node is not ready, or says in its status that
// it has a problem, with a text.
func (n *node) complains(text string) error {
	st, err := n.status()
	if err != nil {
		return err
	}
	ready := n.ready()
	if strings.Contains(st.Problem, text) || (ready != nil && strings.Contains(ready.Error(), text)) {
		return nil
	}
	return fmt.Errorf("%s says %q, and is it ready: %v", n.name, st.Problem, ready)
}
