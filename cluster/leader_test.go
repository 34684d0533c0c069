package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// spell is one run of a leader's job.
type spell struct {
	node string
	term uint64
	ctx  context.Context
}

// withJobs registers a job on every node and reports its runs.
func withJobs(t *testing.T, f *fleet, run func(s spell) error) {
	t.Helper()
	for _, n := range f.nodes {
		n.cfg.Incarnation = incarnations.Add(1)
		c, err := cluster.Open(n.cfg)
		if err != nil {
			t.Fatal(err)
		}
		c.WhileLeader("job", func(ctx context.Context, term uint64) error {
			return run(spell{n.name, term, ctx})
		})
		n.Cluster = c
	}
	var wg sync.WaitGroup
	for _, n := range f.nodes {
		wg.Go(func() {
			if err := n.Start(context.Background()); err != nil {
				t.Error(err)
			}
			n.up = true
		})
	}
	wg.Wait()
	f.settled()
}

func TestLeaderWorkFollowsLeadership(t *testing.T) {
	f := newFleet(t, 3)
	spells := make(chan spell, 100)
	withJobs(t, f, func(s spell) error {
		spells <- s
		<-s.ctx.Done()
		return s.ctx.Err()
	})
	next := func() spell {
		select {
		case s := <-spells:
			return s
		case <-within(t).Done():
			t.Fatal("no job runs")
		}
		return spell{}
	}
	first := next()
	if first.node != f.leader().name {
		t.Errorf("the job runs on %s, the leader is %s", first.node, f.leader().name)
	}
	if err := f.leader().TransferLeadership(within(t), ""); err != nil {
		t.Fatal(err)
	}
	<-first.ctx.Done()
	second := next()
	if second.term <= first.term || second.node == first.node {
		t.Errorf("the job ran on %s in term %d, then on %s in term %d", first.node, first.term, second.node, second.term)
	}
	// A transfer asked of a follower, to a named voter.
	if err := f.followers()[0].TransferLeadership(within(t), first.node); err != nil {
		t.Fatal(err)
	}
	<-second.ctx.Done()
	if third := next(); third.node != first.node {
		t.Errorf("leadership went to %s, not to %s", third.node, first.node)
	}
	if err := f.leader().TransferLeadership(within(t), "n9"); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("a transfer to an unknown node: %v", err)
	}
}

func TestLeaderWorkIsTriedAgain(t *testing.T) {
	f := newFleet(t, 1)
	var mu sync.Mutex
	runs := 0
	withJobs(t, f, func(s spell) error {
		mu.Lock()
		runs++
		n := runs
		mu.Unlock()
		switch n {
		case 1:
			return errors.New("a failure")
		case 2:
			panic("a bug")
		}
		<-s.ctx.Done()
		return nil
	})
	eventually(t, "the job runs a third time", func() error {
		mu.Lock()
		defer mu.Unlock()
		if runs < 3 {
			return fmt.Errorf("%d runs", runs)
		}
		return nil
	})
}

func TestPoisonousCommandIsRefusedAlone(t *testing.T) {
	f := running(t, 3)
	for _, n := range f.nodes {
		n.PoisonOn(func(e fsm.Envelope) bool { return e.RequestID == "poison" })
	}
	for _, n := range f.nodes {
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				ctx := within(t)
				if i == 7 {
					_, err := n.Propose(fsm.WithRequestID(ctx, "poison"), put("poison"))
					if fsm.KindOf(err) != fsm.Internal {
						t.Errorf("the poisonous command on %s: %v", n.name, err)
					}
					return
				}
				if _, err := n.Propose(ctx, put(fmt.Sprintf("%s-%d", n.name, i))); err != nil {
					t.Errorf("a write beside it on %s: %v", n.name, err)
				}
			})
		}
		wg.Wait()
		if hasTemplate(n.State(), "poison") {
			t.Error("the poisonous command was applied")
		}
	}
}

// stranger is a command of a version that nobody here has.
type stranger struct{}

func (stranger) Name() string               { return "FromTheFuture" }
func (stranger) Apply(*fsm.Tx) (any, error) { return nil, nil }

func TestUnknownCommandIsNotProposed(t *testing.T) {
	f := running(t, 3)
	for _, n := range f.nodes {
		if _, err := n.Propose(within(t), stranger{}); fsm.KindOf(err) != fsm.Internal {
			t.Errorf("an unknown command: %v", err)
		}
		mustPut(t, n.Cluster, "after-"+n.name)
	}
}

func TestErrorsOfCommandsComeBack(t *testing.T) {
	f := running(t, 3)
	for _, n := range f.nodes {
		_, err := n.Propose(within(t), fsm.DeleteTemplate{Template: "none"})
		if fsm.KindOf(err) != fsm.NotFound {
			t.Errorf("deleting nothing on %s: %v", n.name, err)
		}
	}
}

func TestRequestIDAppliesOnce(t *testing.T) {
	f := running(t, 3)
	for i, n := range f.nodes {
		res, err := n.Propose(fsm.WithRequestID(within(t), "same"), put("t"))
		if err != nil {
			t.Fatal(err)
		}
		if res.Replayed != (i > 0) {
			t.Errorf("attempt %d is replayed: %v", i, res.Replayed)
		}
	}
	if row, _ := f.nodes[2].State().Templates.Get("t"); row.Version != 1 {
		t.Errorf("the template has version %d", row.Version)
	}
}

func TestCallsBetweenNodes(t *testing.T) {
	f := running(t, 3)
	for _, n := range f.nodes {
		n.Handle("echo", func(_ context.Context, req []byte) ([]byte, error) {
			return append([]byte(n.name+":"), req...), nil
		})
		n.Handle("fail", func(context.Context, []byte) ([]byte, error) {
			return nil, fsm.Errorf(fsm.NotFound, "log", "x", "does not exist").WithHint("a hint")
		})
		n.Handle("panic", func(context.Context, []byte) ([]byte, error) { panic("a bug") })
		n.Handle("big", func(context.Context, []byte) ([]byte, error) { return make([]byte, 9<<20), nil })
	}
	for _, from := range f.nodes {
		for _, to := range f.nodes {
			got, err := from.Call(within(t), to.name, "echo", []byte("hi"))
			if err != nil || string(got) != to.name+":hi" {
				t.Errorf("%s to %s: %q, %v", from.name, to.name, got, err)
			}
		}
	}
	a, b := f.nodes[0], f.nodes[1].name
	if _, err := a.Call(within(t), b, "fail", nil); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("an error of the handler: %v", err)
	}
	for method, kind := range map[string]fsm.Kind{"panic": fsm.Internal, "nothing": fsm.Unavailable, "big": fsm.TooLarge} {
		if _, err := a.Call(within(t), b, method, nil); fsm.KindOf(err) != kind {
			t.Errorf("%s: %v", method, err)
		}
	}
	if _, err := a.Call(within(t), b, "echo", make([]byte, 9<<20)); err == nil {
		t.Error("a request beyond the limit was sent")
	}
	if _, err := a.Call(within(t), "n9", "echo", nil); fsm.KindOf(err) != fsm.NotFound {
		t.Errorf("an unknown node: %v", err)
	}
	if got, err := a.Call(within(t), b, "echo", []byte("x")); err != nil || string(got) != b+":x" {
		t.Errorf("after all that: %q, %v", got, err)
	}
}
