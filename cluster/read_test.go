package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

func TestStrongReadsSeeAcknowledgedWrites(t *testing.T) {
	f := running(t, 3)
	var wg sync.WaitGroup
	for k, from := range f.nodes {
		to := f.nodes[(k+1)%3]
		wg.Go(func() {
			for i := range 60 {
				name := fmt.Sprintf("t-%d-%d", k, i)
				if _, err := from.Propose(context.Background(), put(name)); err != nil {
					t.Error(err)
					return
				}
				s, err := to.StrongState(context.Background())
				if err != nil {
					t.Error(err)
				} else if !hasTemplate(s, name) {
					t.Errorf("a strong read on %s at index %d lacks %s", to.name, s.Index(), name)
				}
			}
		})
	}
	wg.Wait()
}

func TestLeaderReadIsAsNewAsTheLeader(t *testing.T) {
	f := running(t, 3)
	for i := range 20 {
		name := fmt.Sprintf("t-%d", i)
		mustPut(t, f.leader().Cluster, name)
		for _, n := range f.nodes {
			s, err := n.LeaderState(within(t))
			if err != nil {
				t.Fatal(err)
			}
			if !hasTemplate(s, name) {
				t.Errorf("a leader read on %s lacks %s", n.name, name)
			}
		}
	}
}

func TestWithoutQuorumReadsAndWritesFailInTime(t *testing.T) {
	f := running(t, 3)
	l := f.leader()
	mustPut(t, l.Cluster, "before")
	for _, n := range f.followers() {
		f.kill(n)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := l.StrongState(ctx); fsm.KindOf(err) != fsm.NoLeader {
		t.Errorf("a strong read without quorum: %v", err)
	}
	if !hasTemplate(l.State(), "before") {
		t.Error("the local state is gone")
	}
	eventually(t, "the leader steps down", func() error {
		if _, _, ok := l.Leader(); ok {
			return errors.New("it still leads")
		}
		return nil
	})
	ctx2, cancel2 := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel2()
	_, err := l.Propose(ctx2, put("t"))
	if fsm.KindOf(err) != fsm.NoLeader {
		t.Errorf("a write without quorum: %v", err)
	}
	var e *fsm.Error
	if errors.As(err, &e) && e.Hint == "" {
		t.Error("the error has no hint")
	}
}

func TestWatchYieldsEveryChangeOnce(t *testing.T) {
	f := running(t, 3)
	n := f.followers()[0]
	s := n.State()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen := make(chan string, 1000)
	done := make(chan error, 1)
	go func() {
		for set, err := range n.Watch(ctx, s.Index()) {
			if err != nil {
				done <- err
				return
			}
			for _, c := range set.Changes {
				if c.Table == "templates" {
					seen <- c.Key
				}
			}
		}
		done <- nil
	}()
	for i := range 50 {
		mustPut(t, f.nodes[i%3].Cluster, fmt.Sprintf("t-%d", i))
	}
	for i := range 50 {
		select {
		case got := <-seen:
			if want := fmt.Sprintf("t-%d", i); got != want {
				t.Fatalf("change %d is %s", i, got)
			}
		case <-within(t).Done():
			t.Fatalf("only %d changes came", i)
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("the watch ended with %v", err)
	}
}

func TestWatchReplaysAndLags(t *testing.T) {
	f := running(t, 1)
	n := f.nodes[0]
	first := mustPut(t, n.Cluster, "first")
	for i := range 20 {
		mustPut(t, n.Cluster, fmt.Sprintf("t-%d", i))
	}
	count := 0
	for set, err := range n.Watch(within(t), first.Index) {
		if err != nil {
			t.Fatal(err)
		}
		if set.Index <= first.Index {
			t.Errorf("a set from index %d was replayed", set.Index)
		}
		if count++; count == 20 {
			break
		}
	}
	// More rows than are kept.
	var wg sync.WaitGroup
	for k := range 64 {
		wg.Go(func() {
			for i := range 300 {
				mustPut(t, n.Cluster, fmt.Sprintf("x-%d-%d", k, i))
			}
		})
	}
	wg.Wait()
	for _, err := range n.Watch(within(t), first.Index) {
		if !errors.Is(err, cluster.ErrLagged) {
			t.Errorf("an old watch got %v", err)
		}
		break
	}
}

func TestWatchEndsWithTheNode(t *testing.T) {
	f := running(t, 1)
	n := f.nodes[0]
	done := make(chan error, 1)
	go func() {
		for _, err := range n.Watch(context.Background(), n.State().Index()) {
			if err != nil {
				done <- err
			}
		}
	}()
	f.kill(n)
	select {
	case err := <-done:
		if fsm.KindOf(err) != fsm.Unavailable {
			t.Errorf("the watch ended with %v", err)
		}
	case <-within(t).Done():
		t.Fatal("the watch goes on")
	}
}

func TestWaitIndex(t *testing.T) {
	f := running(t, 3)
	res := mustPut(t, f.leader().Cluster, "t")
	for _, n := range f.nodes {
		s, err := n.WaitIndex(within(t), res.Index)
		if err != nil {
			t.Fatal(err)
		}
		if !hasTemplate(s, "t") {
			t.Errorf("%s at index %d lacks the row", n.name, s.Index())
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.nodes[0].WaitIndex(ctx, res.Index+1000); err == nil {
		t.Error("waiting for an index that does not exist returned")
	}
}

func TestStaleAge(t *testing.T) {
	f := running(t, 3)
	if d := f.leader().Stale(); d != 0 {
		t.Errorf("the leader's age is %s", d)
	}
	n := f.followers()[0]
	for _, o := range f.nodes {
		if o != n {
			f.kill(o)
		}
	}
	eventually(t, "the age grows", func() error {
		if d := n.Stale(); d < 300*time.Millisecond {
			return fmt.Errorf("it is %s", d)
		}
		return nil
	})
}

// TestCommitsAreAnnounced: a follower that did not accept a write hears of its
// commit although the leader has no reason of its own to send anything.
func TestCommitsAreAnnounced(t *testing.T) {
	f := running(t, 3, func(c *cluster.Config) {
		c.Timing = cluster.LAN()
		c.Timing.Heartbeat, c.Timing.Election, c.Timing.Lease, c.Timing.Commit = time.Minute, time.Minute, time.Minute, time.Minute-1
	})
	for k, from := range []*node{f.leader(), f.followers()[0]} {
		name := fmt.Sprint("t", k)
		mustPut(t, from.Cluster, name)
		for _, n := range f.nodes {
			f.eventually(n.name+" has "+name, func() error {
				if !hasTemplate(n.State(), name) {
					return errors.New("it is not there")
				}
				return nil
			})
		}
	}
}
