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

// TestARemovedNodeLeavesNoOrigin: what is known of the batches of a node goes
// with it.
func TestARemovedNodeLeavesNoOrigin(t *testing.T) {
	m := fsm.NewMachine()
	e := fsm.Entry{Time: start, Batch: fsm.BatchID{Node: "n1", Boot: 1, Seq: 1}, Commands: []fsm.Envelope{
		seal(t, fsm.RegisterNode{Node: fsm.Node{Name: "n1", Incarnation: 1}}),
	}}
	apply(t, m, []fsm.LogEntry{{Index: 1, Term: 1, Data: e.Encode()}})
	if !m.State().Origins.Has("n1") {
		t.Fatal("the batch is not remembered")
	}
	step(t, m, 1, fsm.RemoveNode{Node: "n1"})
	if m.State().Origins.Has("n1") {
		t.Error("the origin of a removed node is kept")
	}
}
