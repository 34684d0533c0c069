// Package fsmtest has a cluster of one for the tests of what uses package fsm:
// a real state machine without Raft around it. A test that needs failures
// embeds it and overrides what is to fail.
package fsmtest

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Term is the term of the entries, until SetTerm.
const Term = 1

// maxSets bounds the change sets that a Cluster remembers.
const maxSets = 100_000

// Cluster applies commands at once. It is safe for concurrent use.
type Cluster struct {
	// Clock stamps entries; time.Now when nil. It is set while nothing else
	// uses the cluster.
	Clock func() time.Time

	machine *fsm.Machine
	mu      sync.Mutex
	term    uint64
	sets    []fsm.ChangeSet
	lost    uint64 // change sets up to this index are forgotten
	news    chan struct{}
}

// New returns a cluster whose state is empty.
func New() *Cluster {
	return &Cluster{machine: fsm.NewMachine(), term: Term, news: make(chan struct{})}
}

// State is the state after the last entry.
func (c *Cluster) State() *fsm.State { return c.machine.State() }

// Must applies commands as one entry and returns the result of the last. It
// panics if one is refused: a test relies on them.
func (c *Cluster) Must(list ...fsm.Command) fsm.Result {
	var sealed []fsm.Envelope
	for _, cmd := range list {
		env, err := fsm.Seal(cmd, "test", "")
		if err != nil {
			panic(err)
		}
		sealed = append(sealed, env)
	}
	out, err := c.apply(sealed)
	if err != nil {
		panic(err)
	}
	for k, err := range out.Errs {
		if err != nil {
			panic(list[k].Name() + ": " + err.Error())
		}
	}
	return out.Results[len(list)-1]
}

// Propose applies a command; actor and request id come from ctx.
func (c *Cluster) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	if err := ctx.Err(); err != nil {
		return fsm.Result{}, err
	}
	env, err := fsm.Seal(cmd, fsm.ActorFrom(ctx), fsm.RequestIDFrom(ctx))
	if err != nil {
		return fsm.Result{}, err
	}
	out, err := c.apply([]fsm.Envelope{env})
	if err != nil {
		return fsm.Result{}, err
	}
	return out.Results[0], out.Errs[0]
}

// apply makes commands the next entry.
func (c *Cluster) apply(list []fsm.Envelope) (fsm.Outcome, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now
	if c.Clock != nil {
		now = c.Clock
	}
	e := fsm.Entry{Time: now(), Commands: list}
	out, err := c.machine.Apply([]fsm.LogEntry{{Index: c.State().Index() + 1, Term: c.term, Data: e.Encode()}})
	if err != nil {
		return fsm.Outcome{}, err
	}
	c.publish(fsm.ChangeSet{Index: out[0].Index, Time: c.State().Time(), Changes: out[0].Changes})
	return out[0], nil
}

// publish needs mu.
func (c *Cluster) publish(set fsm.ChangeSet) {
	if len(c.sets) >= maxSets {
		c.lost = c.sets[0].Index
		c.sets = c.sets[1:]
	}
	c.sets = append(c.sets, set)
	close(c.news)
	c.news = make(chan struct{})
}

// Watch yields the changes after an index until ctx ends, and then its error.
func (c *Cluster) Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error] {
	return func(yield func(fsm.ChangeSet, error) bool) {
		for {
			c.mu.Lock()
			sets, lost, news := c.sets, c.lost, c.news
			c.mu.Unlock()
			if from < lost {
				yield(fsm.ChangeSet{}, fsm.Errorf(fsm.Conflict, "watch", "", "lagged"))
				return
			}
			for _, set := range sets {
				if set.Index <= from {
					continue
				}
				from = set.Index
				if !yield(set, nil) {
					return
				}
			}
			select {
			case <-news:
			case <-ctx.Done():
				yield(fsm.ChangeSet{}, ctx.Err())
				return
			}
		}
	}
}

// Changes are the change sets that Watch yields from.
func (c *Cluster) Changes() []fsm.ChangeSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.sets)
}

// Forget drops the remembered changes, as a bounded ring does.
func (c *Cluster) Forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sets, c.lost = nil, c.State().Index()
}

// Replace installs another state, as a restored snapshot does.
func (c *Cluster) Replace(s *fsm.State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.machine.Replace(s)
	c.publish(fsm.ChangeSet{Index: s.Index(), Time: s.Time(), Reset: true})
}

// SetTerm makes the next entries of another leader's term.
func (c *Cluster) SetTerm(term uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.term = term
}
