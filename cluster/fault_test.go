package cluster_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// stallStorage is a node's directory whose appends can be made to hang.
type stallStorage struct {
	cluster.Storage
	gate atomic.Pointer[chan struct{}]
}

func (s *stallStorage) Open() (cluster.Stores, error) {
	stores, err := s.Storage.Open()
	stores.Log = &stallLog{stores.Log, s}
	return stores, err
}

// stall makes appends hang until the returned function is called.
func (s *stallStorage) stall() (release func()) {
	gate := make(chan struct{})
	s.gate.Store(&gate)
	return sync.OnceFunc(func() {
		s.gate.Store(nil)
		close(gate)
	})
}

type stallLog struct {
	raft.LogStore
	s *stallStorage
}

func (l *stallLog) StoreLogs(logs []*raft.Log) error {
	if gate := l.s.gate.Load(); gate != nil {
		<-*gate
	}
	return l.LogStore.StoreLogs(logs)
}

func TestStalledDiskOfTheLeader(t *testing.T) {
	f := newFleet(t, 3)
	disks := map[*node]*stallStorage{}
	for _, n := range f.nodes {
		disks[n] = &stallStorage{Storage: cluster.NewDirStorage(n.cfg.DataDir, n.cfg.LogStore, logger(t, n.name))}
		n.cfg.Storage = disks[n]
	}
	f.start(f.nodes...)
	l := f.settled()
	// Writers on all nodes, the stalled one too: none may see an error.
	w := write(t, 4, f.nodes...)
	w.progress(t, 100)
	release := disks[l].stall()
	t.Cleanup(release)
	w.progress(t, 300)
	f.eventually("another node leads", func() error {
		for _, n := range f.nodes {
			// The stalled node may not learn who leads as long as its disk hangs.
			if name, _, _ := n.Leader(); name == l.name || (name == "" && n != l) {
				return fmt.Errorf("%s sees %q", n.name, name)
			}
		}
		return nil
	})
	if p := l.Status().Problem; p == "" {
		t.Error("the stalled node names no problem")
	}
	release()
	w.progress(t, 100)
	f.eventually("the stalled node catches up", func() error {
		if p := l.Status().Problem; p != "" {
			return fmt.Errorf("its problem is %s", p)
		}
		return nil
	})
	w.end(t, f.leader())
}

func TestStalledDiskOfASingleNodeIsWaitedFor(t *testing.T) {
	f := newFleet(t, 1)
	n := f.nodes[0]
	disk := &stallStorage{Storage: cluster.NewDirStorage(n.cfg.DataDir, n.cfg.LogStore, logger(t, n.name))}
	n.cfg.Storage = disk
	f.start(n)
	f.settled()
	release := disk.stall()
	t.Cleanup(release)
	done := make(chan error, 1)
	ctx := within(t)
	go func() {
		_, err := n.Propose(ctx, put("t"))
		done <- err
	}()
	ctx2, cancel := context.WithTimeout(context.Background(), 3*cluster.LAN().DiskStall)
	defer cancel()
	<-ctx2.Done() // longer than the watch bears of a leader with followers
	if name, _, _ := n.Leader(); name != n.name {
		t.Error("the only node gave leadership up, to nobody")
	}
	release()
	if err := <-done; err != nil {
		t.Errorf("the write failed: %v", err)
	}
}

// damage flips a bit in the last command entry of a stopped node's log.
func damage(t *testing.T, n *node, mark string) {
	t.Helper()
	db, err := bbolt.Open(filepath.Join(n.cfg.DataDir, "raft.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("logs"))
		c := b.Cursor()
		for k, v := c.First(); k != nil; k, v = c.Next() {
			at := bytes.Index(v, []byte(mark))
			if at < 0 {
				continue
			}
			bad := bytes.Clone(v)
			bad[at] ^= 1
			found = true
			return b.Put(bytes.Clone(k), bad)
		}
		return nil
	})
	if err == nil {
		err = db.Close()
	}
	if err != nil || !found {
		t.Fatalf("no entry was damaged: %v", err)
	}
}

func TestDamagedEntryHeals(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.leader().Cluster, "victim")
	n := f.followers()[0]
	sees(t, n, "victim")
	f.stop(n)
	for i := range 5 {
		mustPut(t, f.leader().Cluster, fmt.Sprintf("t-%d", i))
	}
	damage(t, n, "victim")
	f.start(n)
	sees(t, n, "victim")
	sees(t, n, "t-4")
	mustPut(t, n.Cluster, "after")
	same(t, f)
	// The damaged entry must not be met again.
	f.stop(n)
	f.start(n)
	sees(t, n, "after")
	if p := n.Status().Problem; p != "" && p != "no leader" {
		t.Errorf("after another start: %s", p)
	}
}

// same waits until all running nodes have equal states.
func same(t *testing.T, f *fleet) {
	t.Helper()
	f.eventually("all states are equal", func() error {
		var first *fsm.State
		for _, n := range f.nodes {
			if !n.up {
				continue
			}
			s := n.State()
			if first == nil {
				first = s
			}
			if s.Index() != first.Index() || s.Digest() != first.Digest() {
				return fmt.Errorf("%s is at index %d with digest %x, another at %d with %x", n.name, s.Index(), s.Digest(), first.Index(), first.Digest())
			}
		}
		return nil
	})
}

func TestDivergedNodeHeals(t *testing.T) {
	f := running(t, 3, func(c *cluster.Config) {
		c.Timing = cluster.LAN()
		c.Timing.Digest = c.Timing.Heartbeat
	})
	for _, victim := range []*node{f.followers()[0], f.leader()} {
		mustPut(t, victim.Cluster, "t-"+victim.name)
		f.eventually("all have it", func() error {
			for _, n := range f.nodes {
				if !hasTemplate(n.State(), "t-"+victim.name) {
					return fmt.Errorf("%s lacks it", n.name)
				}
			}
			return nil
		})
		victim.Diverge(func(s *fsm.State) *fsm.State { return s.OfCluster("another") })
		if victim.State().ClusterID() != "another" {
			t.Fatal("the state was not changed")
		}
		f.eventually("the node heals", func() error {
			if id := victim.State().ClusterID(); id == "another" {
				return fmt.Errorf("%s is still wrong", victim.name)
			}
			return nil
		})
		f.eventually("the node serves", func() error { return victim.Ready() })
		mustPut(t, victim.Cluster, "after-"+victim.name)
		same(t, f)
	}
}

func TestTwoVoicesOnlyAlarm(t *testing.T) {
	regs := []*prometheus.Registry{prometheus.NewRegistry(), prometheus.NewRegistry()}
	next := 0
	f := running(t, 2, func(c *cluster.Config) {
		c.Timing = cluster.LAN()
		c.Timing.Digest = c.Timing.Heartbeat / 4
		c.Metrics = regs[next]
		next++
	})
	n := f.followers()[0]
	n.Diverge(func(s *fsm.State) *fsm.State { return s.OfCluster("another") })
	for i, n := range f.nodes {
		f.eventually(n.name+" has compared several times", func() error {
			if s := n.Status(); s.DigestAlarm == "" {
				return errors.New("there is no alarm")
			}
			if got := counted(t, regs[i], "paceline_cluster_digest_mismatches_total"); got < 8 {
				return fmt.Errorf("%v mismatches were counted", got)
			}
			return nil
		})
		if s := n.Status(); s.Problem != "" || counted(t, regs[i], "paceline_cluster_heals_total") > 0 {
			t.Errorf("%s took itself for the wrong one: %s", n.name, s.Problem)
		}
	}
	if n.State().ClusterID() != "another" {
		t.Error("a node healed without a majority to say which state is right")
	}
}

// counted is the value of a counter.
func counted(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	t.Fatalf("there is no %s", name)
	return 0
}

// TestSnapshotThatEndsInAConfiguration: the last entries are Raft's own, which
// the state's index does not count, and readers wait for them.
func TestSnapshotThatEndsInAConfiguration(t *testing.T) {
	f := running(t, 3)
	mustPut(t, f.leader().Cluster, "t")
	extra := f.add(3)
	f.start(extra)
	sees(t, extra, "t")
	n := f.followers()[0]
	f.eventually("the change of members is the last entry", func() error {
		s := n.Status()
		if s.Index != f.leader().Status().Last || s.Index <= n.State().Index() {
			return fmt.Errorf("position %d, state at %d", s.Index, n.State().Index())
		}
		return nil
	})
	if err := n.SnapshotNow(); err != nil {
		t.Fatal(err)
	}
	f.kill(n)
	f.start(n)
	f.settled()
	if _, err := n.StrongState(within(t)); err != nil {
		t.Errorf("a strong read after a start from the snapshot: %v", err)
	}
}

// TestOutcomeFromTheLeader has a node that never sees its own entries applied,
// as one that takes a snapshot in their place.
func TestOutcomeFromTheLeader(t *testing.T) {
	f := running(t, 3)
	n := f.followers()[0]
	n.ForgetBatch()
	res := mustPut(t, n.Cluster, "t")
	if !res.Replayed || res.Value != nil || !hasTemplate(n.State(), "t") {
		t.Errorf("the result is %+v", res)
	}
	if _, err := n.Propose(within(t), fsm.DeleteTemplate{Template: "none"}); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("the leader's error is lost: %v", err)
	}
}

func TestSnapshotAndCatchUp(t *testing.T) {
	f := running(t, 3, func(c *cluster.Config) {
		c.Timing = cluster.LAN()
		c.Timing.TrailingLogs = 1
	})
	n := f.followers()[0]
	f.kill(n)
	for i := range 30 {
		mustPut(t, f.leader().Cluster, fmt.Sprintf("t-%d", i))
	}
	for _, other := range f.nodes {
		if other.up {
			if err := other.SnapshotNow(); err != nil {
				t.Fatal(err)
			}
		}
	}
	mustPut(t, f.leader().Cluster, "last")
	f.start(n)
	sees(t, n, "t-0")
	sees(t, n, "last")
	if _, err := n.StrongState(within(t)); err != nil {
		t.Error(err)
	}
	same(t, f)
	// And from its own snapshot.
	if err := n.SnapshotNow(); err != nil {
		t.Fatal(err)
	}
	f.stop(n)
	f.start(n)
	sees(t, n, "last")
	if _, err := n.StrongState(within(t)); err != nil {
		t.Error(err)
	}
	same(t, f)
}
