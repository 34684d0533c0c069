package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// waiter is one write that somebody waits for. Its fields below done are
// guarded by the proposer's lock.
type waiter struct {
	env  fsm.Envelope
	done chan struct{}

	batch    *batch
	gone     bool // nobody waits any more, and the write must not be sent
	finished bool
	res      fsm.Result
	err      error
}

// batch is writes that travel together, under one id for ever.
//
//	queued ──sealed──► dirty ──answered, or applied here──► settled
//	            ▲        │
//	            └─clean──┘   the attempt is known to have appended nothing
//
// While a batch is clean its content may still change; once an attempt may
// have been appended, every further attempt carries the same bytes, and the
// machine drops the repetition.
type batch struct {
	id      fsm.BatchID
	waiters []*waiter
	dirty   bool
	live    int
	dead    chan struct{} // closed when nobody waits any more
	done    chan struct{} // closed when settled
	settled bool
	flight  flight
	// unsure says that an attempt may have been appended; it stays.
	unsure bool

	envs    []fsm.Envelope // frozen while dirty
	encoded []byte
}

// proposer gathers the writes of this node into batches and carries them to
// the leader, again and again, until this node has seen what became of them.
type proposer struct {
	node string
	boot uint64
	met  *metrics
	// route is the leader to send to, and a channel that is closed when that
	// may have changed. name is "" while there is none.
	route func() (name string, changed <-chan struct{})
	// send makes one attempt.
	send func(ctx context.Context, leader string, b *batch) (batchReply, error)
	// follow waits until this node has applied up to the reply's index.
	follow func(ctx context.Context, leader string, r batchReply) error

	ctx    context.Context
	cancel context.CancelFunc
	wg     tasks
	wake   chan struct{}

	mu     sync.Mutex
	queue  []*waiter
	bytes  int
	seq    uint64
	flying map[uint64]*batch
	gather gather
	closed bool
}

func newProposer(node string, boot uint64, met *metrics) *proposer {
	p := &proposer{node: node, boot: boot, met: met, wake: make(chan struct{}, 1), flying: map[uint64]*batch{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// propose has a command applied and waits for its result.
func (p *proposer) propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	env, err := fsm.Seal(cmd, fsm.ActorFrom(ctx), fsm.RequestIDFrom(ctx))
	if err != nil {
		return fsm.Result{}, err
	}
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultProposeWait)
		defer cancel()
	}
	start := time.Now()
	w := &waiter{env: env, done: make(chan struct{})}
	if err := p.enqueue(w); err != nil {
		p.met.proposals.WithLabelValues("refused").Inc()
		return fsm.Result{}, err
	}
	select {
	case <-w.done:
	case <-ctx.Done():
		p.giveUp(w, time.Since(start))
	}
	p.met.observeProposal(w.err, time.Since(start))
	return w.res, w.err
}

func (p *proposer) enqueue(w *waiter) error {
	p.mu.Lock()
	switch {
	case p.closed:
		p.mu.Unlock()
		return errStopped()
	case len(p.queue) >= maxQueued || p.bytes+len(w.env.Body) > maxQueuedBytes:
		p.mu.Unlock()
		return errQueueFull()
	}
	p.queue = append(p.queue, w)
	p.bytes += len(w.env.Body)
	p.met.queueDepth.Set(float64(len(p.queue)))
	// The first write sets the timer of a queue that grows; the last of those
	// awaited ends it. The others need not wake anybody.
	due := len(p.queue) == 1 || p.hold(time.Now()) == 0
	p.mu.Unlock()
	if due {
		p.poke()
	}
	return nil
}

func (p *proposer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// giveUp ends a wait. The error says whether the write can still be applied.
func (p *proposer) giveUp(w *waiter, waited time.Duration) {
	leader, _ := p.route()
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.finished {
		return
	}
	w.finished = true
	b := w.batch
	switch {
	case b != nil && b.dirty:
		w.err = errUnknownOutcome()
	case leader == "":
		w.gone, w.err = true, errNoLeader(waited)
	default:
		w.gone, w.err = true, errOverloaded(waited)
	}
	if b != nil {
		if b.live--; b.live == 0 {
			close(b.dead)
		}
	}
}

// run forms batches until the proposer is closed.
func (p *proposer) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		name, changed := p.route()
		if name == "" {
			select {
			case <-changed:
				continue
			case <-p.ctx.Done():
				return
			}
		}
		b, hold := p.next()
		if b != nil {
			if !p.wg.Go(func() { p.carry(b) }) {
				return
			}
			continue
		}
		var held <-chan time.Time
		if hold > 0 {
			timer.Reset(hold)
			held = timer.C
		}
		select {
		case <-p.wake:
		case <-held:
		case <-changed:
		case <-p.ctx.Done():
			return
		}
	}
}

// next takes a batch off the queue, or returns nil when there is none to send,
// with the time after which to look again when the queue should still grow.
func (p *proposer) next() (*batch, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.queue) == 0 || len(p.flying) >= maxBatchesFlying || !p.withinSpread() {
		return nil, 0
	}
	now := time.Now()
	if hold := p.hold(now); hold > 0 {
		return nil, hold
	}
	b := &batch{dead: make(chan struct{}), done: make(chan struct{})}
	size, taken := 0, 0
	for _, w := range p.queue {
		if len(b.waiters) >= maxBatchCommands || size >= maxBatchBytes {
			break
		}
		taken++
		p.bytes -= len(w.env.Body)
		if w.gone {
			continue
		}
		w.batch = b
		b.waiters = append(b.waiters, w)
		size += len(w.env.Body)
	}
	clear(p.queue[:taken])
	if p.queue = p.queue[taken:]; len(p.queue) == 0 {
		p.queue = nil
	}
	p.met.queueDepth.Set(float64(len(p.queue)))
	if len(b.waiters) == 0 {
		return nil, 0
	}
	p.seq++
	b.id = fsm.BatchID{Node: p.node, Boot: p.boot, Seq: p.seq}
	b.live = len(b.waiters)
	b.flight = flight{size: b.live, since: now}
	p.flying[p.seq] = b
	return b, 0
}

// withinSpread keeps a slow batch from falling out of the window in which the
// machine recognises repetitions.
func (p *proposer) withinSpread() bool {
	for seq := range p.flying {
		if p.seq-seq >= maxBatchSpread {
			return false
		}
	}
	return true
}

// carry sends a batch until it is settled or nobody waits for it.
func (p *proposer) carry(b *batch) {
	defer func() {
		p.mu.Lock()
		delete(p.flying, b.id.Seq)
		p.mu.Unlock()
		p.poke()
	}()
	wait := retryWaitMin
	for attempt := 0; ; attempt++ {
		leader, changed := p.route()
		if leader != "" {
			if !p.seal(b) {
				return
			}
			if attempt > 0 {
				p.met.retries.Inc()
			}
			if p.attempt(b, leader, changed) {
				return
			}
			before := leader
			if leader, changed = p.route(); leader != before {
				wait = retryWaitMin
				if leader != "" {
					continue
				}
			}
		}
		t := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-changed:
		case <-t.C:
			wait = min(wait*2, retryWaitMax)
		case <-b.done:
		case <-b.dead:
		case <-p.ctx.Done():
		}
		t.Stop()
		if p.over(b) {
			return
		}
	}
}

func (p *proposer) over(b *batch) bool {
	select {
	case <-b.done:
		return true
	case <-b.dead:
		return true
	case <-p.ctx.Done():
		return true
	default:
		return false
	}
}

// seal freezes the content of a batch for an attempt.
func (p *proposer) seal(b *batch) bool {
	p.mu.Lock()
	if b.settled {
		p.mu.Unlock()
		return false
	}
	frozen := b.dirty
	if !frozen {
		kept := b.waiters[:0:0]
		for _, w := range b.waiters {
			if !w.gone {
				kept = append(kept, w)
			}
		}
		frozen = len(kept) == len(b.waiters) && b.envs != nil
		b.waiters, b.dirty = kept, len(kept) > 0
	}
	p.mu.Unlock()
	if len(b.waiters) == 0 {
		return false
	}
	if !frozen {
		b.envs, b.encoded = make([]fsm.Envelope, len(b.waiters)), nil
		for k, w := range b.waiters {
			b.envs[k] = w.env
		}
		p.met.batchSize.Observe(float64(len(b.envs)))
	}
	return true
}

// attempt sends a batch once and reports whether that was the end of it. A
// leader that is lost meanwhile ends the attempt.
func (p *proposer) attempt(b *batch, leader string, changed <-chan struct{}) bool {
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	type outcome struct {
		reply batchReply
		err   error
	}
	definite := false
	defer func() {
		p.mu.Lock()
		b.unsure = b.unsure || !definite
		b.dirty = b.unsure
		p.mu.Unlock()
	}()
	result := make(chan outcome, 1)
	if !p.wg.Go(func() {
		r, err := p.send(ctx, leader, b)
		result <- outcome{r, err}
	}) {
		definite = true
		return true
	}
	for {
		select {
		case o := <-result:
			if o.err == nil {
				return p.conclude(ctx, b, leader, o.reply)
			}
			definite = errors.Is(o.err, errNotLeader) || errors.Is(o.err, errNotSent)
			return p.over(b)
		case <-changed:
			var now string
			if now, changed = p.route(); now != leader {
				return p.over(b)
			}
		case <-b.done:
			return true
		case <-b.dead:
			return true
		case <-p.ctx.Done():
			return true
		}
	}
}

// conclude waits until this node has seen the batch applied, and answers from
// the leader's reply where this node never will.
func (p *proposer) conclude(ctx context.Context, b *batch, leader string, r batchReply) bool {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	p.wg.Go(func() {
		select {
		case <-b.done:
		case <-b.dead:
		case <-stop:
		}
		cancel()
	})
	err := p.follow(ctx, leader, r)
	if p.over(b) {
		return true
	}
	if err != nil && ctx.Err() != nil {
		return false
	}
	results, errs := make([]fsm.Result, len(b.waiters)), make([]error, len(b.waiters))
	for k := range b.waiters {
		results[k] = fsm.Result{Index: r.Index, Replayed: true}
		if r.Duplicate {
			errs[k] = errUnknownOutcome()
		} else if e := r.Errs[k]; e != nil {
			errs[k] = e
		}
	}
	p.deliver(b, results, errs)
	return true
}

// settle takes what this node has just applied.
func (p *proposer) settle(o *fsm.Outcome, data []byte) {
	if o.Batch.Node != p.node || o.Batch.Boot != p.boot || o.Duplicate || o.Skipped {
		return
	}
	p.mu.Lock()
	b := p.flying[o.Batch.Seq]
	ours := b != nil && len(o.Results) == len(b.waiters)
	p.mu.Unlock()
	if !ours {
		return
	}
	p.deliver(b, o.Results, withRejections(o.Errs, data))
}

// deliver answers everybody who waits for a batch.
func (p *proposer) deliver(b *batch, results []fsm.Result, errs []error) {
	p.mu.Lock()
	if b.settled {
		p.mu.Unlock()
		return
	}
	b.settled = true
	delete(p.flying, b.id.Seq)
	for k, w := range b.waiters {
		if !w.finished {
			w.finished, w.res, w.err = true, results[k], errs[k]
			close(w.done)
		}
	}
	p.gather.answered(b.flight, len(p.queue), time.Now())
	p.mu.Unlock()
	close(b.done)
	p.poke()
}

// close refuses further writes and answers those that wait.
func (p *proposer) close() {
	p.mu.Lock()
	p.closed = true
	fail := func(w *waiter, err error) {
		if !w.finished {
			w.finished, w.gone, w.err = true, true, err
			close(w.done)
		}
	}
	for _, w := range p.queue {
		fail(w, errStopped())
	}
	p.queue = nil
	for _, b := range p.flying {
		for _, w := range b.waiters {
			if b.dirty {
				fail(w, errUnknownOutcome())
			} else {
				fail(w, errStopped())
			}
		}
	}
	p.mu.Unlock()
	p.cancel()
	p.wg.wait()
}

// idle reports whether no write is waiting or under way.
func (p *proposer) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.queue) == 0 && len(p.flying) == 0
}
