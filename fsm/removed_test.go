package fsm_test

import (
	"fmt"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// TestRemovedNodesAreBounded: the newest 256 removed nodes are remembered, in
// whatever order their names are.
func TestRemovedNodesAreBounded(t *testing.T) {
	const kept = 256
	m := fsm.NewMachine()
	name := func(k int) string { return fmt.Sprintf("n%d", (k*37)%1000) }
	for k := range 2 * kept {
		step(t, m, 0, fsm.RemoveNode{Node: name(k), Process: 1})
	}
	s := m.State()
	if n := s.RemovedNodes.Len(); n != kept {
		t.Fatalf("%d removed nodes are remembered, want %d", n, kept)
	}
	for k := range 2 * kept {
		if got := s.NodeRemoved(name(k), 1); got != (k >= kept) {
			t.Errorf("removal %d of %d is remembered: %v", k, 2*kept, got)
		}
	}
}
