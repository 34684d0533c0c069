//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// The requests which freeze a file system and let it go on.
const (
	fiFreeze = 0xC0045877
	fiThaw   = 0xC0045878
)

// loopFleet is a fleet of which each node has a file system of its own, which
// can be frozen: every write to it then waits.
func loopFleet(t testing.TB, n int) *fleet {
	t.Helper()
	needs(t, "mkfs.ext4", "mount")
	f := newFleet(t, n)
	for _, node := range f.nodes {
		image := filepath.Join(f.dir, node.name+".img")
		file, err := os.Create(image)
		must(t, err)
		must(t, file.Truncate(256<<20))
		must(t, file.Close())
		must(t, os.MkdirAll(node.dir, 0o755))
		for _, argv := range [][]string{{"mkfs.ext4", "-q", "-F", image}, {"mount", "-o", "loop", image, node.dir}} {
			if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
				t.Skipf("a file system in a file can not be mounted: %v: %s", err, out)
			}
		}
		t.Cleanup(func() {
			_ = frozen(node, fiThaw)
			unmount(node)
		})
	}
	f.startAll()
	f.whole()
	return f
}

// frozen freezes a node's file system, or lets it go on.
func frozen(n *node, request uintptr) error {
	dir, err := os.Open(n.dir)
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // only read
	if _, _, no := syscall.Syscall(syscall.SYS_IOCTL, dir.Fd(), request, 0); no != 0 {
		return fmt.Errorf("ioctl %x on %s: %w", request, n.dir, no)
	}
	return nil
}

func freezeDisk(t testing.TB, n *node) {
	t.Helper()
	if err := frozen(n, fiFreeze); err != nil {
		t.Error(err)
	}
}

func thawDisk(t testing.TB, n *node) {
	t.Helper()
	must(t, frozen(n, fiThaw))
}

// TestStalledDisk stalls the leader's disk under load: Raft alone would go on
// with heartbeats and hang every write for ever.
func TestStalledDisk(t *testing.T) {
	quick(t)
	f := loopFleet(t, 3)
	l := begin(t, f)
	for range rounds(2, 10) {
		l.goesOn(20)
		leader := f.leader()
		l.hit(leader)
		freezeDisk(t, leader)
		l.goesOn(60)
		f.leaderAmong(f.others(leader)...)
		eventually(t, settleDeadline, "the node saying that its disk has stalled", func() error { return leader.complains("disk") })
		thawDisk(t, leader)
		f.whole()
		l.heal(leader)
	}
	l.finish(true)
	f.equalStates()
}
