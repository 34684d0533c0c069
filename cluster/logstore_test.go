package cluster_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// onBothStores runs a test with each store of the Raft log.
func onBothStores(t *testing.T, test func(t *testing.T, store option)) {
	for _, store := range []string{cluster.LogStoreBolt, cluster.LogStoreWAL} {
		t.Run(store, func(t *testing.T) {
			test(t, func(c *cluster.Config) { c.LogStore = store })
		})
	}
}

// TestLogStoreServes lets a cluster crash as a whole, and brings a follower
// back that was away for longer than the others keep entries for: it gets a
// snapshot, which leaves a gap in its log, and goes on from there.
func TestLogStoreServes(t *testing.T) {
	onBothStores(t, func(t *testing.T, store option) {
		f := running(t, 3, store, func(c *cluster.Config) {
			c.Timing = cluster.LAN()
			c.Timing.TrailingLogs = 3
		})
		mustPut(t, f.leader().Cluster, "before")
		away := f.followers()[0]
		f.kill(away)
		for i := range 30 {
			mustPut(t, f.leader().Cluster, fmt.Sprintf("t%d", i))
		}
		if err := f.leader().SnapshotNow(); err != nil {
			t.Fatal(err)
		}
		f.start(away)
		sees(t, away, "t29")
		for i := range 5 { // into the log after the gap
			mustPut(t, away.Cluster, fmt.Sprintf("later%d", i))
		}
		f.killAll()
		f.start(f.nodes...)
		f.settled()
		for _, n := range f.nodes {
			for _, name := range []string{"before", "t29", "later4"} {
				sees(t, n, name)
			}
		}
		mustPut(t, away.Cluster, "after")
		same(t, f)
	})
}

// TestLogStoreIsKept starts a node with another store than the one that has
// its log: it would begin with an empty one, and lose what it has acknowledged.
func TestLogStoreIsKept(t *testing.T) {
	onBothStores(t, func(t *testing.T, store option) {
		f := running(t, 1, store)
		n := f.nodes[0]
		mustPut(t, n.Cluster, "kept")
		f.stop(n)
		was := n.cfg.LogStore
		n.cfg.LogStore = map[string]string{cluster.LogStoreBolt: cluster.LogStoreWAL, cluster.LogStoreWAL: cluster.LogStoreBolt}[was]
		err := f.tryStart(n)
		if fsm.KindOf(err) != fsm.Conflict || !strings.Contains(err.Error(), was) {
			t.Errorf("it was not refused: %v", err)
		}
		report, err := cluster.Recover(n.cfg.DataDir, cluster.RecoverOptions{Name: n.name, DryRun: true})
		if err != nil || report.LastIndex == 0 {
			t.Errorf("recover does not find the log: %+v, %v", report, err)
		}
		n.cfg.LogStore = was
		f.start(n)
		f.settled()
		sees(t, n, "kept")
	})
}
