package cluster_test

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

func TestSnapshotSavedAndRestored(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "kept")
	var saved bytes.Buffer
	if err := f.nodes[1].SaveSnapshot(within(t), &saved); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{f.leader(), f.followers()[0]} {
		mustPut(t, n.Cluster, "lost")
		before := f.leader().State().Index()
		if err := n.RestoreSnapshot(within(t), bytes.NewReader(saved.Bytes())); err != nil {
			t.Fatalf("restoring on %s: %v", n.name, err)
		}
		for _, other := range f.nodes {
			s, err := other.StrongState(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if !hasTemplate(s, "kept") || hasTemplate(s, "lost") {
				t.Errorf("%s has not the restored state", other.name)
			}
			if s.Index() <= before {
				t.Errorf("the index of %s went from %d to %d", other.name, before, s.Index())
			}
		}
		mustPut(t, n.Cluster, "after-"+n.name)
		same(t, f)
	}
}

func TestSnapshotOfAnotherClusterKeepsTheIdentity(t *testing.T) {
	a, b := running(t, 1), running(t, 3)
	mustPut(t, a.nodes[0].Cluster, "moved")
	var saved bytes.Buffer
	if err := a.nodes[0].SaveSnapshot(within(t), &saved); err != nil {
		t.Fatal(err)
	}
	id := b.nodes[0].Status().ClusterID
	if err := b.followers()[0].RestoreSnapshot(within(t), &saved); err != nil {
		t.Fatal(err)
	}
	for _, n := range b.nodes {
		s, err := n.StrongState(within(t))
		if err != nil {
			t.Fatal(err)
		}
		if s.ClusterID() != id || !hasTemplate(s, "moved") {
			t.Errorf("%s is of cluster %s, not %s", n.name, s.ClusterID(), id)
		}
	}
	for _, n := range b.nodes {
		b.stop(n)
	}
	b.start(b.nodes...)
	b.settled()
	sees(t, b.nodes[0], "moved")
}

func TestWatchersLearnOfARestore(t *testing.T) {
	f := running(t, 1)
	n := f.nodes[0]
	var saved bytes.Buffer
	if err := n.SaveSnapshot(within(t), &saved); err != nil {
		t.Fatal(err)
	}
	from := mustPut(t, n.Cluster, "t").Index
	if err := n.RestoreSnapshot(within(t), &saved); err != nil {
		t.Fatal(err)
	}
	for set, err := range n.Watch(within(t), from) {
		if err != nil || !set.Reset || set.Index <= from {
			t.Errorf("the watch got %+v, %v", set, err)
		}
		break
	}
}

func TestDamagedSnapshotChangesNothing(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.nodes[0].Cluster, "t")
	var saved bytes.Buffer
	if err := f.nodes[0].SaveSnapshot(within(t), &saved); err != nil {
		t.Fatal(err)
	}
	good := saved.Bytes()
	mustPut(t, f.nodes[0].Cluster, "later")
	cases := map[string][]byte{
		"empty":      nil,
		"nonsense":   []byte("hello, this is not a snapshot"),
		"truncated":  good[:len(good)-1],
		"cut in two": good[:len(good)/2],
	}
	for _, at := range []int{9, len(good) / 3, len(good) / 2, len(good) - 8} {
		flipped := bytes.Clone(good)
		flipped[at] ^= 4
		cases[fmt.Sprintf("bit %d flipped", at)] = flipped
	}
	for what, body := range cases {
		for _, n := range []*node{f.leader(), f.followers()[0]} {
			if err := n.RestoreSnapshot(within(t), bytes.NewReader(body)); fsm.KindOf(err) != fsm.Invalid {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	if s, err := f.nodes[2].StrongState(within(t)); err != nil || !hasTemplate(s, "later") {
		t.Errorf("the state was touched: %v", err)
	}
}

func TestRecoverFromLostQuorum(t *testing.T) {
	f := running(t, 3)
	for i := range 10 {
		mustPut(t, f.leader().Cluster, fmt.Sprintf("t-%d", i))
	}
	n := f.followers()[0]
	sees(t, n, "t-9")
	id := n.Status().ClusterID
	last := n.Status().Last
	if _, err := cluster.Recover(n.cfg.DataDir, cluster.RecoverOptions{Name: n.name}); fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("a running node was recovered: %v", err)
	}
	f.killAll()
	dry, err := cluster.Recover(n.cfg.DataDir, cluster.RecoverOptions{Name: n.name, DryRun: true})
	if err != nil {
		t.Fatal(err)
	}
	if !dry.DryRun || dry.LastIndex != last || dry.ClusterID != id || len(dry.OldVoters) != 3 || len(dry.NewVoters) != 1 {
		t.Errorf("the dry run says %+v; the last index was %d", dry, last)
	}
	f.start(n) // the dry run has changed nothing: no quorum
	if _, _, ok := n.Leader(); ok {
		t.Error("the dry run has made the node a leader")
	}
	f.kill(n)
	done, err := cluster.Recover(n.cfg.DataDir, cluster.RecoverOptions{Name: n.name})
	if err != nil {
		t.Fatal(err)
	}
	if done.LastIndex < last || done.NewVoters[0] != n.name {
		t.Errorf("the recovery says %+v", done)
	}
	f.start(n)
	f.settled()
	sees(t, n, "t-9")
	mustPut(t, n.Cluster, "after")
	// Another node joins the recovered cluster with an empty directory.
	var fresh *node
	for _, o := range f.nodes {
		if o != n {
			fresh = o
			break
		}
	}
	fresh.cfg.DataDir = t.TempDir()
	f.start(fresh)
	sees(t, fresh, "after")
}

func TestRecoverRefusesWhatIsNoNode(t *testing.T) {
	if _, err := cluster.Recover(t.TempDir(), cluster.RecoverOptions{Name: "n1"}); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("an empty directory: %v", err)
	}
	f := running(t, 1)
	dir := f.nodes[0].cfg.DataDir
	f.killAll()
	var e *fsm.Error
	if _, err := cluster.Recover(dir, cluster.RecoverOptions{Name: "n2"}); !errors.As(err, &e) || e.Kind != fsm.Conflict || e.Hint == "" {
		t.Errorf("another node's directory: %v", err)
	}
}
