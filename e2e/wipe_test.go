//go:build linux

package e2e_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/pacelinehq/paceline/client"
)

// TestNewDisk gives a dead voter a new, empty disk, in the way that the guide
// tells: it is removed first, and joins as a node that knows nothing.
func TestNewDisk(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	n := f.leader()
	l.hit(n)
	n.kill()
	must(t, os.RemoveAll(n.dir))
	l.goesOn(10)
	eventually(t, settleDeadline, "the dead node being removed", func() error {
		args := []string{"node", "remove", n.name, "--wait"}
		for _, o := range f.others(n) {
			args = append(args, "--endpoint", o.api())
		}
		out, code := paceline(t.Context(), args...)
		if code != 0 {
			return fmt.Errorf("exit status %d: %s", code, out)
		}
		return nil
	})
	n.start()
	f.whole()
	l.heal(n)
	l.goesOn(20)
	l.finish(true)
	f.equalStates()
}

// TestWipedVoter starts a voter whose disk was lost without removing it first,
// at the worst time: it has acknowledged a write that only the dead leader has
// as well. The two nodes without that write must not go on as a majority.
func TestWipedVoter(t *testing.T) {
	quick(t)
	f := running(t, 3)
	leader := f.leader()
	wiped, behind := f.others(leader)[0], f.others(leader)[1]
	behind.kill()
	_, err := put(t.Context(), leader.cli(), "acknowledged", "1")
	must(t, err)
	wiped.kill()
	leader.kill()
	must(t, os.RemoveAll(wiped.dir))
	behind.start()
	wiped.start()
	for _, n := range []*node{behind, wiped} {
		eventually(t, settleDeadline, n.name+" answering", func() error {
			_, err := n.status()
			return err
		})
	}
	ctx, cancel := behind.ctx(attemptDeadline)
	defer cancel()
	_, err = put(ctx, behind.cli(), "by-the-wrong-majority", "1", client.Once())
	t.Logf("a write to the two others: %v", err)
	leader.start()
	f.whole()
	if _, err := f.any().GetTemplate(t.Context(), "acknowledged", client.WithConsistency(client.Strong)); err != nil {
		t.Errorf("an acknowledged write is lost: %v", err)
	}
	f.equalStates()
}
