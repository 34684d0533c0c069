package session

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Cluster is what sessions need of the cluster.
type Cluster interface {
	// Propose applies a command and returns when the local state shows it.
	Propose(ctx context.Context, c fsm.Command) (fsm.Result, error)
	// State is the local state.
	State() *fsm.State
}

// Assigner asks the cluster where sessions live. Requests for the same group
// that come while a command is under way share the next one. It is safe for
// concurrent use.
type Assigner struct {
	cluster Cluster
	life    context.Context // of the commands
	end     context.CancelFunc

	mu      sync.Mutex
	groups  map[string]*pending
	waiting int
	down    time.Time // until when nobody waits for the cluster
	closed  bool
	wg      sync.WaitGroup
}

// pending are the requests of one group that wait for a command.
type pending struct {
	list     []request
	inFlight int
}

// request is one session that waits for a command.
type request struct {
	key    [16]byte
	at     Place
	answer chan<- outcome
}

// Place is one launch of an instance; the zero value is none.
type Place struct {
	Instance    string
	Incarnation int
}

// outcome is the answer to one request.
type outcome struct {
	fsm.Assignment
	err error
}

// NewAssigner returns an assigner. Close ends it.
func NewAssigner(c Cluster) *Assigner {
	a := &Assigner{cluster: c, groups: map[string]*pending{}}
	a.life, a.end = context.WithCancel(context.Background())
	return a
}

// Assign returns where a session lives, after having it assigned when it has
// no place yet or its instance has ended. The error is of kind
// [fsm.Unavailable] when no instance can take it, and [fsm.NoLeader] when the
// cluster could not agree before ctx ended, or could not a moment ago.
func (a *Assigner) Assign(ctx context.Context, group string, key [16]byte) (fsm.Assignment, error) {
	return a.AssignAt(ctx, group, key, Place{})
}

// AssignAt is Assign for a session that lives somewhere already, because it was
// placed without the cluster or the cluster has forgotten it: it stays there, if
// the cluster knows no other place and the instance takes sessions.
func (a *Assigner) AssignAt(ctx context.Context, group string, key [16]byte, at Place) (fsm.Assignment, error) {
	answer := make(chan outcome, 1)
	if err := a.enqueue(group, request{key, at, answer}); err != nil {
		return fsm.Assignment{}, err
	}
	select {
	case o := <-answer:
		return o.Assignment, o.err
	case <-ctx.Done():
		// A client that has gone says nothing about the cluster.
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			a.setDown(time.Now().Add(downFor))
		}
		return fsm.Assignment{}, fsm.Errorf(fsm.NoLeader, "group", group, "could not assign a session in time")
	}
}

func (a *Assigner) setDown(until time.Time) {
	a.mu.Lock()
	a.down = until
	a.mu.Unlock()
}

func (a *Assigner) enqueue(group string, r request) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.closed:
		return fsm.Errorf(fsm.Unavailable, "node", "", "is stopping")
	case time.Now().Before(a.down):
		return fsm.Errorf(fsm.NoLeader, "group", group, "can not assign sessions: the cluster could not agree a moment ago")
	case a.waiting >= maxWaiting:
		return fsm.Errorf(fsm.Exhausted, "group", group, "has %d sessions waiting to be assigned", a.waiting)
	}
	p := a.groups[group]
	if p == nil {
		p = &pending{}
		a.groups[group] = p
	}
	p.list = append(p.list, r)
	a.waiting++
	if p.inFlight < maxInFlight {
		p.inFlight++
		a.wg.Go(func() { a.work(group, p) })
	}
	return nil
}

// work sends one command after the other until nobody waits.
func (a *Assigner) work(group string, p *pending) {
	for {
		a.mu.Lock()
		n := min(len(p.list), maxBatch)
		if n == 0 {
			p.inFlight--
			if p.inFlight == 0 {
				delete(a.groups, group)
			}
			a.mu.Unlock()
			return
		}
		batch := p.list[:n:n]
		p.list = p.list[n:]
		a.waiting -= n
		a.mu.Unlock()
		a.propose(group, batch)
	}
}

// propose assigns sessions with one command and tells everybody.
func (a *Assigner) propose(group string, batch []request) {
	ctx, cancel := context.WithTimeout(fsm.WithActor(a.life, "sessions"), proposeTimeout)
	defer cancel()
	res, err := a.cluster.Propose(ctx, command(group, batch))
	if err == nil {
		a.setDown(time.Time{}) // the cluster agrees again
	}
	list, _ := res.Value.([]fsm.Assignment)
	for k, r := range batch {
		switch {
		case err != nil:
			r.answer <- a.refused(group, r.key, err)
		case k < len(list):
			r.answer <- outcome{Assignment: list[k]}
		default: // the command was answered from what is remembered of it
			r.answer <- a.lookUp(group, r.key)
		}
	}
}

// command assigns the sessions of a batch.
func command(group string, batch []request) fsm.AssignSessions {
	c := fsm.AssignSessions{Group: group, Keys: make([]byte, 0, 16*len(batch))}
	for k, r := range batch {
		c.Keys = append(c.Keys, r.key[:]...)
		if r.at != (Place{}) {
			c.Wanted = append(c.Wanted, fsm.WantedPlace{Key: k, Instance: r.at.Instance, Incarnation: r.at.Incarnation})
		}
	}
	return c
}

// refused is the answer to one session of a command that has failed. A command
// is refused as a whole when there is no room or no instance for one new
// session; those that are there already must not suffer from it.
func (a *Assigner) refused(group string, key [16]byte, err error) outcome {
	if kind := fsm.KindOf(err); kind == fsm.Unavailable || kind == fsm.Exhausted {
		if v, ok := a.cluster.State().Session(group, key); ok && v.Lives {
			return outcome{Assignment: assignment(v)}
		}
	}
	return outcome{err: err}
}

func (a *Assigner) lookUp(group string, key [16]byte) outcome {
	v, ok := a.cluster.State().Session(group, key)
	if !ok {
		return outcome{err: fsm.Errorf(fsm.UnknownOutcome, "group", group, "lost the answer to an assignment").WithHint("try again")}
	}
	return outcome{Assignment: assignment(v)}
}

func assignment(v fsm.SessionView) fsm.Assignment {
	return fsm.Assignment{Slot: v.Slot, Instance: v.Instance, Incarnation: v.Incarnation, Epoch: v.Epoch}
}

// Close refuses further requests, gives up the commands that are under way,
// and returns when none is any more.
func (a *Assigner) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.end()
	a.wg.Wait()
}

func pack(keys [][16]byte) []byte {
	b := make([]byte, 0, 16*len(keys))
	for k := range keys {
		b = append(b, keys[k][:]...)
	}
	return b
}
