package cluster_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// writers write distinct templates through the running nodes until stopped.
type writers struct {
	wg    sync.WaitGroup
	stop  chan struct{}
	mu    sync.Mutex
	acked []string
	errs  []error
	count atomic.Int64
}

// write starts n writers on each of the given nodes.
func write(t testing.TB, n int, nodes ...*node) *writers {
	w := &writers{stop: make(chan struct{})}
	for _, node := range nodes {
		c := node.Cluster
		for k := range n {
			w.wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-w.stop:
						return
					default:
					}
					name := fmt.Sprintf("%s-%d-%d", node.name, k, i)
					ctx, cancel := context.WithTimeout(context.Background(), patience)
					_, err := c.Propose(ctx, put(name))
					cancel()
					w.mu.Lock()
					if err != nil {
						w.errs = append(w.errs, err)
					} else {
						w.acked = append(w.acked, name)
					}
					w.mu.Unlock()
					w.count.Add(1)
				}
			})
		}
	}
	t.Cleanup(func() {
		select {
		case <-w.stop:
		default:
			close(w.stop)
		}
		w.wg.Wait()
	})
	return w
}

// progress waits until n more writes are done.
func (w *writers) progress(t testing.TB, n int64) {
	t.Helper()
	want := w.count.Load() + n
	eventually(t, "the writers go on", func() error {
		if got := w.count.Load(); got < want {
			return fmt.Errorf("%d of %d writes", got, want)
		}
		return nil
	})
}

// end stops the writers and checks every acknowledged write on a node: there,
// once.
func (w *writers) end(t testing.TB, n *node) {
	t.Helper()
	close(w.stop)
	w.wg.Wait()
	for i, err := range w.errs {
		if i < 5 {
			t.Errorf("a write failed: %v", err)
		}
	}
	s, err := n.StrongState(within(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range w.acked {
		row, ok := s.Templates.Get(name)
		if !ok {
			t.Errorf("the acknowledged write %s is lost", name)
		} else if row.Version != 1 {
			t.Errorf("the write %s was applied %d times", name, row.Version)
		}
	}
	if len(w.acked) == 0 {
		t.Error("no write was acknowledged")
	}
}

func TestLeaderKilledUnderLoad(t *testing.T) {
	f := running(t, 3)
	w := write(t, 8, f.followers()...)
	for range 1 {
		w.progress(t, 200)
		f.kill(f.leader())
		w.progress(t, 200)
	}
	w.end(t, f.leader())
}

func TestLeaderStoppedUnderLoad(t *testing.T) {
	f := running(t, 3)
	w := write(t, 8, f.followers()...)
	w.progress(t, 200)
	f.stop(f.leader())
	w.progress(t, 200)
	w.end(t, f.leader())
}

func TestWritesAcceptedByTheStoppingLeaderAreAnswered(t *testing.T) {
	f := running(t, 3)
	leader := f.leader()
	ctx := within(t)
	var wg sync.WaitGroup
	results := make(chan error, 50)
	for i := range 50 {
		wg.Go(func() {
			_, err := leader.Propose(ctx, put(fmt.Sprintf("t%d", i)))
			results <- err
		})
	}
	eventually(t, "some writes are accepted", func() error {
		if leader.State().Templates.Len() == 0 {
			return fmt.Errorf("none")
		}
		return nil
	})
	f.stop(leader)
	wg.Wait()
	for range 50 {
		if err := <-results; err != nil && fsm.KindOf(err) != fsm.Unavailable {
			t.Errorf("a write ended with %v", err)
		}
	}
}
