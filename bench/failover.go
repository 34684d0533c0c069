package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// failoverResult is what clients saw of one fault of the leader.
type failoverResult struct {
	// firstAck is the time from the signal to the first acknowledgement of a
	// write that was begun after it.
	firstAck time.Duration
	// gap is the longest time without any acknowledgement.
	gap time.Duration
	// before is the longest such time in the steady part, before the signal:
	// what the machine alone does.
	before time.Duration
	// errors are answers of healthy nodes that were not a success; hung are
	// attempts at healthy nodes without an answer in time.
	errors, hung int
	// moved are attempts at the node under fault that broke and were sent
	// again to another one.
	moved int
	// lost are writes that were never acknowledged; missing are those that
	// were, and can not be read afterwards.
	lost, missing int
	acked         int
	texts         []string
}

// trial is one fault: writes at a steady rate, before, through and after it.
type trial struct {
	conns  []conn
	target int
	sig    syscall.Signal
	prefix string
	// steady is how long writes run before the signal; after is how long they
	// go on once the cluster has answered again; limit bounds the whole.
	steady, after, limit time.Duration

	// exited is closed when the target's process has ended: from then on its
	// port refuses, which every client notices at once.
	exited <-chan struct{}

	gone     atomic.Bool // clients know that the target does not answer
	struck   atomic.Bool
	signalAt time.Time // set before struck
	endAt    time.Time // when the last write was begun
	first    atomic.Int64

	mu    sync.Mutex
	acks  []ack
	count failoverResult
}

// ack is one acknowledged write.
type ack struct {
	key   string
	begun time.Time
	at    time.Time
}

// run writes at the fixed rate and strikes the target on the way.
func (t *trial) run(strike func() error) error {
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxInFlight)
	begin := time.Now()
	next := begin
	for n := 0; time.Since(begin) < t.limit && !t.done(); n++ {
		if !t.struck.Load() && time.Since(begin) >= t.steady {
			if err := t.strike(strike); err != nil {
				wg.Wait()
				return err
			}
		}
		select {
		case slots <- struct{}{}:
			wg.Go(func() {
				defer func() { <-slots }()
				t.write(n)
			})
		default:
			t.note(func(r *failoverResult) { r.lost++ }) // never begun: the cluster is stuck
		}
		select {
		case <-t.exited:
			t.gone.Store(true)
		default:
		}
		next = next.Add(time.Second / failoverRate)
		time.Sleep(time.Until(next))
	}
	t.endAt = time.Now()
	wg.Wait()
	return nil
}

// strike does the fault and remembers when.
func (t *trial) strike(do func() error) error {
	t.signalAt = time.Now()
	if t.sig != syscall.SIGTERM { // a node told to stop still answers for a while
		t.gone.Store(true)
	}
	t.struck.Store(true)
	return do()
}

// done reports whether the cluster has been answering again for long enough.
func (t *trial) done() bool {
	first := t.first.Load()
	return first != 0 && time.Since(t.signalAt) > time.Duration(first)+t.after
}

// write does one write with all its attempts.
func (t *trial) write(n int) {
	key := fmt.Sprintf("%s-%d", t.prefix, n)
	value := valueOf(n, 0)
	begun := time.Now()
	fresh := t.struck.Load()
	node := n % nodes
	for attempt := 0; time.Since(begun) < writeDeadline; attempt++ {
		if node == t.target && t.gone.Load() {
			node = t.other(n + attempt)
		}
		timeout := attemptDeadline
		if node == t.target && t.struck.Load() {
			timeout = targetDeadline
		}
		err := t.conns[node].put(n, key, value, key, timeout)
		if err == nil {
			t.acked(ack{key, begun, time.Now()}, fresh)
			return
		}
		t.failed(node, err)
		node = t.other(n + attempt + 1)
		time.Sleep(retryPause)
	}
	t.note(func(r *failoverResult) { r.lost++ })
}

// other chooses among the nodes which are not the target.
func (t *trial) other(n int) int { return (t.target + 1 + n%(nodes-1)) % nodes }

func (t *trial) acked(a ack, fresh bool) {
	t.mu.Lock()
	t.acks = append(t.acks, a)
	t.mu.Unlock()
	if fresh {
		t.first.CompareAndSwap(0, int64(max(a.at.Sub(t.signalAt), 1)))
	}
}

// failed counts an attempt by whose fault it was.
func (t *trial) failed(node int, err error) {
	if node == t.target && t.struck.Load() {
		t.gone.Store(true)
		t.note(func(r *failoverResult) { r.moved++ })
		return
	}
	t.note(func(r *failoverResult) {
		if isTimeout(err) {
			r.hung++
		} else {
			r.errors++
		}
		if text := err.Error(); len(r.texts) < maxErrorTexts && !slices.Contains(r.texts, text) {
			r.texts = append(r.texts, text)
		}
	})
}

func (t *trial) note(change func(*failoverResult)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	change(&t.count)
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fasthttp.ErrTimeout) ||
		status.Code(err) == codes.DeadlineExceeded || errors.As(err, &n) && n.Timeout()
}

// result sums up the trial after run. Gaps are looked for while writes were
// begun: later there is nothing to acknowledge but what had to be repeated.
func (t *trial) result() *failoverResult {
	r := t.count
	slices.SortFunc(t.acks, func(a, b ack) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	r.acked = len(t.acks)
	last := t.signalAt
	r.firstAck = -1
	for i, a := range t.acks {
		if a.at.Before(t.signalAt) {
			if i > 0 {
				r.before = max(r.before, a.at.Sub(t.acks[i-1].at))
			}
			continue
		}
		if a.at.Before(t.endAt) {
			r.gap = max(r.gap, a.at.Sub(last))
			last = a.at
		}
		if r.firstAck < 0 && a.begun.After(t.signalAt) {
			r.firstAck = a.at.Sub(t.signalAt)
		}
	}
	r.gap = max(r.gap, t.endAt.Sub(last))
	return &r
}

// failover strikes the leader of a running cluster once and heals it again.
func failover(ctx context.Context, c *cluster, sig syscall.Signal, number int) (*failoverResult, error) {
	leader, err := c.leader(ctx, c.endpoints)
	if err != nil {
		return nil, err
	}
	conns, err := c.connect(nodes)
	if err != nil {
		return nil, err
	}
	defer func() { closeAll(conns) }()
	t := &trial{
		conns: conns, target: leader, sig: sig, prefix: fmt.Sprintf("f%d-%d", number, os.Getpid()),
		steady: time.Second, after: time.Second, limit: 25 * time.Second,
	}
	p := c.nodes[leader]
	t.exited = p.exited
	if err := t.run(func() error { return p.signal(sig) }); err != nil {
		return nil, err
	}
	if err := heal(ctx, c, p, sig); err != nil {
		return nil, err
	}
	r := t.result()
	if r.firstAck < 0 {
		return nil, fmt.Errorf("%s: no write was acknowledged within %s of %v", c.name(), t.limit, sig)
	}
	r.missing, err = missing(conns[t.other(0)], t.acks)
	return r, err
}

// heal ends the fault and waits until the cluster is whole.
func heal(ctx context.Context, c *cluster, p *proc, sig syscall.Signal) error {
	ctx, cancel := context.WithTimeout(ctx, healDeadline)
	defer cancel()
	if sig == syscall.SIGSTOP {
		if err := p.signal(syscall.SIGCONT); err != nil {
			return err
		}
	} else {
		p.stop() // what was told to stop has to have done so
		if err := p.start(); err != nil {
			return err
		}
	}
	if err := c.waitWhole(ctx); err != nil {
		return err
	}
	return c.settle(ctx)
}

// settle waits until each node acknowledges writes quickly, several in a row.
func (c *cluster) settle(ctx context.Context) error {
	conns, err := c.connect(nodes)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	const wanted = 20
	for good := 0; good < wanted*nodes; {
		if ctx.Err() != nil {
			return fmt.Errorf("%s did not settle: %w", c.name(), ctx.Err())
		}
		if conns[good%nodes].put(0, "settle", valueOf(good, 1), "", time.Second) == nil {
			good++
		} else {
			good = 0
			time.Sleep(retryPause)
		}
	}
	return nil
}

// missing counts the acknowledged writes that a strong read does not find.
func missing(c conn, acks []ack) (int, error) {
	n := 0
	for _, a := range acks {
		err := c.get(0, a.key, true, attemptDeadline)
		if errors.Is(err, errNotFound) {
			n++
		} else if err != nil {
			return n, fmt.Errorf("read back %s: %w", a.key, err)
		}
	}
	return n, nil
}
