package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

// script is a leader as the proposer sees it: what each attempt comes to.
type script struct {
	mu       sync.Mutex
	leader   string
	changed  chan struct{}
	attempts []cluster.Attempt
	answer   func(n int, a cluster.Attempt) error
}

func newScript(leader string, answer func(n int, a cluster.Attempt) error) *script {
	return &script{leader: leader, answer: answer}
}

func (s *script) route() (string, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.leader, s.changed
}

func (s *script) elect(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leader = name
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *script) send(ctx context.Context, a cluster.Attempt) error {
	s.mu.Lock()
	s.attempts = append(s.attempts, a)
	n := len(s.attempts)
	s.mu.Unlock()
	err := s.answer(n, a)
	if errors.Is(err, errHang) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

var (
	errHang = errors.New("never answers")
	errLost = errors.New("the connection was lost")
)

// sends runs body in virtual time with a proposer that speaks to a script.
func sends(t *testing.T, s *script, body func(t *testing.T, p *cluster.TestProposer)) {
	synctest.Test(t, func(t *testing.T) {
		s.changed = make(chan struct{}) // of the bubble
		p := cluster.NewTestProposer(t.Context(), s.route, s.send)
		body(t, p)
		p.Close()
	})
}

func TestLostAnswerIsAskedForUnderTheSameID(t *testing.T) {
	s := newScript("a", func(n int, _ cluster.Attempt) error {
		if n < 4 {
			return errLost
		}
		return nil
	})
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		if err := p.Propose(t.Context(), put("t")); err != nil {
			t.Fatal(err)
		}
	})
	for _, a := range s.attempts {
		if a.ID != s.attempts[0].ID || a.Commands != 1 {
			t.Errorf("an attempt is %+v, the first was %+v", a, s.attempts[0])
		}
	}
}

func TestWriteWaitsForALeader(t *testing.T) {
	s := newScript("", func(int, cluster.Attempt) error { return nil })
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		done := make(chan error, 1)
		go func() { done <- p.Propose(t.Context(), put("t")) }()
		synctest.Wait()
		if len(s.attempts) != 0 {
			t.Error("it was sent to nobody")
		}
		s.elect("a")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestGivingUpSaysWhatIsKnown(t *testing.T) {
	notLeader := func(int, cluster.Attempt) error { return cluster.ErrNotLeader }
	cases := []struct {
		what   string
		leader string
		answer func(int, cluster.Attempt) error
		want   fsm.Kind
	}{
		{"no leader at all", "", nil, fsm.NoLeader},
		{"only definite refusals", "a", notLeader, fsm.Unavailable},
		{"an answer that never comes", "a", func(int, cluster.Attempt) error { return errHang }, fsm.UnknownOutcome},
		{"a lost answer, then refusals", "a", func(n int, a cluster.Attempt) error {
			if n == 1 {
				return errLost
			}
			return cluster.ErrNotLeader
		}, fsm.UnknownOutcome},
	}
	for _, c := range cases {
		s := newScript(c.leader, c.answer)
		sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if err := p.Propose(ctx, put("t")); fsm.KindOf(err) != c.want {
				t.Errorf("%s: %v", c.what, err)
			}
		})
	}
}

// TestAbandonedWriteIsNotSentLater: who was told "not applied" must be right.
func TestAbandonedWriteIsNotSentLater(t *testing.T) {
	s := newScript("", func(int, cluster.Attempt) error { return nil })
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Propose(ctx, put("t")); fsm.KindOf(err) != fsm.NoLeader {
			t.Errorf("it ended with %v", err)
		}
		s.elect("a")
		if err := p.Propose(t.Context(), put("next")); err != nil {
			t.Error(err)
		}
	})
	if len(s.attempts) != 1 || s.attempts[0].Commands != 1 {
		t.Errorf("the attempts are %+v", s.attempts)
	}
}

// TestAbandonedWriteLeavesACleanBatch: the same within a batch that was
// refused before.
func TestAbandonedWriteLeavesACleanBatch(t *testing.T) {
	allow := make(chan struct{})
	s := newScript("a", func(int, cluster.Attempt) error {
		select {
		case <-allow:
			return nil
		default:
			return cluster.ErrNotLeader
		}
	})
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := p.Propose(ctx, put("short")); err == nil {
				t.Error("it was applied")
			}
		})
		wg.Go(func() {
			if err := p.Propose(t.Context(), put("long")); err != nil {
				t.Error(err)
			}
		})
		time.Sleep(1500 * time.Millisecond) //archtest:ok virtual time of testing/synctest
		close(allow)
		wg.Wait()
	})
	if last := s.attempts[len(s.attempts)-1]; last.Commands != 1 {
		t.Errorf("the last attempt carries %d commands", last.Commands)
	}
}

func TestFrozenLeaderHoldsNobody(t *testing.T) {
	s := newScript("a", func(_ int, a cluster.Attempt) error {
		if a.Leader == "a" {
			return errHang
		}
		return nil
	})
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		done := make(chan error, 1)
		go func() { done <- p.Propose(t.Context(), put("t")) }()
		synctest.Wait()
		s.elect("b")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if len(s.attempts) != 2 || s.attempts[0].ID != s.attempts[1].ID {
		t.Errorf("the attempts are %+v", s.attempts)
	}
}

func TestBatchesAreBounded(t *testing.T) {
	var most, flying, worst int
	var mu sync.Mutex
	var gate chan struct{}
	s := newScript("a", nil)
	s.answer = func(_ int, a cluster.Attempt) error {
		mu.Lock()
		most = max(most, a.Commands)
		flying++
		worst = max(worst, flying)
		mu.Unlock()
		<-gate
		mu.Lock()
		flying--
		mu.Unlock()
		return nil
	}
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		gate = make(chan struct{})
		var wg sync.WaitGroup
		for i := range 5000 {
			wg.Go(func() {
				if err := p.Propose(t.Context(), put(fmt.Sprintf("t-%d", i))); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
	})
	if most > 1024 || worst > 2 || len(s.attempts) < 5 {
		t.Errorf("%d commands in a batch, %d batches at once, %d batches", most, worst, len(s.attempts))
	}
}

// TestSlowBatchStaysInTheWindow: newer batches must not push one that is still
// on its way out of the machine's memory, where it would count as applied.
func TestSlowBatchStaysInTheWindow(t *testing.T) {
	var allow chan struct{}
	s := newScript("a", nil)
	s.answer = func(_ int, a cluster.Attempt) error {
		if a.ID.Seq == 1 {
			<-allow
		}
		return nil
	}
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		allow = make(chan struct{})
		slow := make(chan error, 1)
		go func() { slow <- p.Propose(t.Context(), put("slow")) }()
		synctest.Wait()
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for i := range 40 {
					if err := p.Propose(t.Context(), put(fmt.Sprintf("t-%d", i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		synctest.Wait()
		s.mu.Lock()
		for _, a := range s.attempts {
			if a.ID.Seq > 63 {
				t.Errorf("batch %d was sent while batch 1 was on its way", a.ID.Seq)
				break
			}
		}
		s.mu.Unlock()
		close(allow)
		if err := <-slow; err != nil {
			t.Error(err)
		}
		wg.Wait()
	})
}

func TestQueueIsBounded(t *testing.T) {
	s := newScript("", nil)
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range p.Limit() {
			wg.Go(func() { _ = p.Propose(ctx, put("t")) }) // ends with ctx
		}
		synctest.Wait()
		if err := p.Propose(ctx, put("t")); fsm.KindOf(err) != fsm.Exhausted {
			t.Errorf("beyond the limit: %v", err)
		}
		cancel()
		wg.Wait()
	})
}

func TestClosingAnswersEverybody(t *testing.T) {
	s := newScript("a", func(int, cluster.Attempt) error { return errHang })
	sends(t, s, func(t *testing.T, p *cluster.TestProposer) {
		errs := make(chan error, 10)
		for range 10 {
			go func() { errs <- p.Propose(t.Context(), put("t")) }()
		}
		synctest.Wait()
		p.Close()
		for range 10 {
			if k := fsm.KindOf(<-errs); k != fsm.Unavailable && k != fsm.UnknownOutcome {
				t.Errorf("a write ended with %s", k)
			}
		}
		if err := p.Propose(t.Context(), put("t")); fsm.KindOf(err) != fsm.Unavailable {
			t.Errorf("after the end: %v", err)
		}
	})
}
