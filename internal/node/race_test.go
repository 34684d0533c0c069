package node_test

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
	"github.com/pacelinehq/paceline/routing/session"
)

// TestRacingSessions lets two nodes place the same new sessions at the same
// time. BenchmarkRacingSessions does it as often as one likes.
func TestRacingSessions(t *testing.T) {
	nodes := threeNodes(t, false)
	raceSessions(t, nodes[:2], 20_000)
	raceSessions(t, nodes[1:], 5_000)
}

// BenchmarkRacingSessions is meant for -benchtime 1000000x.
func BenchmarkRacingSessions(b *testing.B) {
	nodes := threeNodes(b, false)
	b.ResetTimer()
	began := time.Now()
	first := raceSessions(b, nodes[:2], b.N)
	b.ReportMetric(float64(b.N)/time.Since(began).Seconds(), "races/s")
	b.ReportMetric(100*float64(first)/float64(b.N), "%-won-by-one")
	b.ReportMetric(0, "ns/op")
}

const (
	racers    = 1024 // requests that wait on a node at one time
	maxWindow = 2048
)

// raceSessions sends n new sessions through the assigners of two nodes, which
// are what a proxy and the API ask, and fails where they say two things. Both
// nodes have the same sessions under way, in windows of a random size that
// each goes through in an order of its own. It returns how many sessions were
// made by the first node.
func raceSessions(t testing.TB, nodes []*node.Node, n int) (first int) {
	t.Helper()
	before := sessionTotals(t, nodes[0])
	keys := make([][16]byte, n)
	random := rand.NewChaCha8([32]byte{byte(rand.Uint32()), byte(rand.Uint32())})
	for k := range keys {
		_, _ = random.Read(keys[k][:])
	}
	var answers [2][]fsm.Assignment
	var lanes [2]chan int
	var wg sync.WaitGroup
	for side := range lanes {
		answers[side], lanes[side] = make([]fsm.Assignment, n), make(chan int)
		a := session.NewAssigner(nodes[side].Cluster())
		defer a.Close()
		for range min(racers, n) {
			wg.Go(func() {
				for k := range lanes[side] {
					ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
					got, err := a.Assign(ctx, "web", keys[k])
					cancel()
					if err != nil {
						t.Errorf("session %d, node %d: %v", k, side, err)
					}
					answers[side][k] = got
				}
			})
		}
	}
	feedRace(n, lanes)
	wg.Wait()
	if t.Failed() {
		return 0
	}
	differ := 0
	for k := range keys {
		x, y := answers[0][k], answers[1][k]
		if x.Created {
			first++
		}
		if x.Created == y.Created || x.Slot != y.Slot || x.Instance != y.Instance || x.Incarnation != y.Incarnation || x.Epoch != y.Epoch {
			if differ++; differ <= 5 {
				t.Errorf("session %d: %+v and %+v", k, x, y)
			}
		}
	}
	if after := sessionTotals(t, nodes[1]); differ > 0 || after-before != uint64(n) {
		t.Errorf("%d of %d sessions have two answers; %d were assigned", differ, n, after-before)
	}
	if n > maxWindow && (first == 0 || first == n) {
		t.Errorf("one node made %d of %d sessions: this was no race", first, n)
	}
	return first
}

// feedRace sends the numbers below n into both lanes, window by window, and
// closes them. One lane, now this and now that, begins a window when the other
// has sent some of it: the leader's own requests would win nearly always.
func feedRace(n int, lanes [2]chan int) {
	for from := 0; from < n; {
		size := min(1+rand.IntN(maxWindow), n-from)
		late, head, begun := rand.IntN(len(lanes)), rand.IntN(size), make(chan struct{})
		var both sync.WaitGroup
		for side, lane := range lanes {
			both.Go(func() {
				if side == late {
					<-begun
				}
				for at, k := range rand.Perm(size) {
					if side != late && at == head {
						close(begun)
					}
					lane <- from + k
				}
			})
		}
		both.Wait()
		from += size
	}
	for _, lane := range lanes {
		close(lane)
	}
}

// sessionTotals is how many sessions were ever made, as a node knows it once it
// has seen all that was agreed on.
func sessionTotals(t testing.TB, n *node.Node) uint64 {
	t.Helper()
	s, err := n.Cluster().StrongState(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.SessionStats("web").Assigned
}
