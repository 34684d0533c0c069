package routing_test

import (
	"context"
	"errors"
	"iter"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source is a cluster whose watch the test scripts.
type source struct {
	m    *fsm.Machine
	sets chan fsm.ChangeSet
	errs chan error
	from []uint64
}

func newSource() *source {
	return &source{m: fsm.NewMachine(), sets: make(chan fsm.ChangeSet), errs: make(chan error)}
}

func (s *source) State() *fsm.State { return s.m.State() }

func (s *source) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	s.from = append(s.from, from)
	return func(yield func(fsm.ChangeSet, error) bool) {
		for {
			select {
			case set := <-s.sets:
				if !yield(set, nil) {
					return
				}
			case err := <-s.errs:
				yield(fsm.ChangeSet{}, err)
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// apply makes the next index, with a group that has a service.
func (s *source) apply(t *testing.T, index uint64, name string) {
	t.Helper()
	var list []fsm.Envelope
	for _, c := range []fsm.Command{
		fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: "@sample"}},
		fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MaxSize: 1, Service: &fsm.Service{Hosts: []string{name}}}},
	} {
		env, err := fsm.Seal(c, "test", "")
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, env)
	}
	e := fsm.Entry{Time: time.Unix(int64(index), 0).UTC(), Commands: list}
	if _, err := s.m.Apply([]fsm.LogEntry{{Index: index, Term: 1, Data: e.Encode()}}); err != nil {
		t.Fatal(err)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		var used []uint64
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			routing.Follow(ctx, s, func(st *fsm.State) { used = append(used, st.Index()) })
		}()
		seen := func(want ...uint64) {
			t.Helper()
			synctest.Wait()
			if !slices.Equal(used, want) {
				t.Fatalf("states %v were used, want %v", used, want)
			}
		}
		change := func(index uint64, table string) {
			s.sets <- fsm.ChangeSet{Index: index, Changes: []fsm.Change{{Table: "activities"}, {Table: table}}}
		}
		seen(0) // the state at the beginning, without waiting for a change
		s.apply(t, 1, "a")
		change(1, "serviceIndexes")
		seen(0, 1)
		s.apply(t, 2, "b")
		change(2, "instances") // without its index: nothing that is routed
		seen(0, 1)
		change(3, "nodes")
		change(4, "sessionKeys")
		seen(0, 1, 2, 2)
		s.apply(t, 9, "c")
		change(5, "serviceIndexes") // the state is newer: the changes up to it are taken together
		change(6, "serviceIndexes")
		change(9, "serviceIndexes")
		seen(0, 1, 2, 2, 9)
		s.apply(t, 10, "d")
		s.errs <- errors.New("lagged behind")
		synctest.Wait()
		<-time.After(time.Second) // virtual: the pause between full passes
		seen(0, 1, 2, 2, 9, 10)
		s.sets <- fsm.ChangeSet{Reset: true}
		synctest.Wait()
		<-time.After(time.Second)
		seen(0, 1, 2, 2, 9, 10, 10)
		if !slices.Equal(s.from, []uint64{0, 10, 10}) {
			t.Errorf("the watches began at %v", s.from)
		}
		cancel()
		<-done
	})
}

// A watch that ends again and again does not make the follower spin.
func TestFollowPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSource()
		n := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() {
			for {
				select {
				case s.errs <- errors.New("again"):
				case <-ctx.Done():
					return
				}
			}
		}()
		routing.Follow(ctx, s, func(*fsm.State) { n++ })
		if n < 2 || n > 60 {
			t.Errorf("%d passes in a second", n)
		}
	})
}
