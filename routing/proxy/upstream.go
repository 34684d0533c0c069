package proxy

import (
	"context"
	"math"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/balance"
	"github.com/pacelinehq/paceline/routing/http1"
)

// upstream is an instance as one plan has it. It is immutable.
type upstream struct {
	fsm.Endpoint
	*instance
}

// instance is what this node knows of one incarnation of an instance. It
// outlives the plans that it stands in.
type instance struct {
	id, group, addr string
	since           time.Duration // when it became usable; the planner's own
	load            balance.Load
	stats           counters
	ejection        ejection
	before          reading // of the last sample; Sample's own
	quiet           quiet   // the janitor's own
	dialled         *connSet[*upConn]

	mu    sync.Mutex
	idle  []*upConn // the one used last is the last
	gone  bool      // no plan has it; connections are closed after use
	dials map[*dialling]struct{}
}

// upConn is one connection to an instance.
type upConn struct {
	stream
	inst   *instance
	reader *http1.Reader
	resp   http1.Response
	used   bool // it has answered a request before
	parked time.Duration
	raw    syscall.RawConn
	look   func(fd uintptr) // sets quiet; kept because making it anew allocates
	quiet  bool             // no bytes and no end have come
	moved  atomic.Int64     // when a part of a request's body was written last
	awaits atomic.Int64     // since when a head is awaited; see await
}

// moves notes that a part of a body was written, and gives the next part its
// time.
func (c *upConn) moves(stall time.Duration) {
	now := c.clk.now()
	c.moved.Store(int64(now))
	c.writeIn(now, stall)
}

// connect is [instance.connect] for a service. Those that were refused try
// again when an instance takes a connection.
func (t *target) connect(p *Proxy, u *upstream, fresh bool) (*upConn, error) {
	c, err := u.connect(p.life, p.clock, t.spec.Timeouts.Connect.Std(), fresh)
	if err == nil && !c.used {
		t.refused.wake(math.MaxInt)
	}
	return c, err
}

// connect returns an idle connection or dials. fresh wants one that was never
// used. A request must not be lost to a connection that the instance has closed
// while it was idle, nor get for an answer what nobody has asked for, so idle
// ones are looked at first.
func (i *instance) connect(ctx context.Context, clk clock, timeout time.Duration, fresh bool) (*upConn, error) {
	for !fresh {
		c := i.takeIdle()
		if c == nil {
			break
		}
		if c.alive() {
			return c, nil
		}
		_ = c.Close()
	}
	nc, err := i.dial(ctx, clk, timeout)
	if err != nil {
		return nil, err
	}
	c := &upConn{stream: stream{Conn: nc, clk: clk}, inst: i}
	c.reader = http1.NewReader(nc, readerLimits())
	if s, ok := nc.(syscall.Conn); ok {
		c.raw, _ = s.SyscallConn() // without it nothing can be looked at
		c.look = func(fd uintptr) { c.quiet = !readable(fd) }
	}
	i.dialled.add(c, math.MaxInt)
	if err := ctx.Err(); err != nil { // the proxy may have closed all before this one was known
		_ = c.Close()
		return nil, err
	}
	return c, nil
}

// answerHead reads the head of the final answer to a request, and calls interim
// for each one before it.
func (c *upConn) answerHead(method []byte, interim func() error) *failure {
	for n := range maxInterim {
		if err := c.reader.ReadResponse(method, &c.resp); err != nil {
			return &failure{err: err, stale: n == 0 && c.used && c.reader.Buffered() == 0 && !isTimeout(err)}
		}
		if c.resp.Status >= 200 || c.resp.Status == http.StatusSwitchingProtocols {
			return nil
		}
		if err := interim(); err != nil {
			return &failure{err: err}
		}
	}
	return &failure{err: errTooManyInterim}
}

// Close implements [net.Conn].
func (c *upConn) Close() error {
	c.inst.dialled.remove(c)
	return c.Conn.Close()
}

func readerLimits() http1.Limits { return http1.Limits{MaxHead: maxHead, MaxFields: maxFields} }

func (i *instance) takeIdle() *upConn {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := len(i.idle)
	if n == 0 {
		return nil
	}
	c := i.idle[n-1]
	i.idle[n-1] = nil
	i.idle = i.idle[:n-1]
	return c
}

// park keeps a connection for the next request, or closes it.
func (i *instance) park(c *upConn, now time.Duration) {
	c.used, c.parked = true, now
	c.reader.Release()
	i.mu.Lock()
	keep := !i.gone && len(i.idle) < maxIdlePerInstance
	if keep {
		i.idle = append(i.idle, c)
	}
	i.mu.Unlock()
	if !keep {
		_ = c.Close()
	}
}

// expire closes connections that have been idle since before a time, and
// reports how many are left.
func (i *instance) expire(before time.Duration) int {
	i.mu.Lock()
	old := 0
	for old < len(i.idle) && i.idle[old].parked < before {
		old++
	}
	closing := append([]*upConn(nil), i.idle[:old]...)
	i.idle = append(i.idle[:0], i.idle[old:]...)
	clear(i.idle[len(i.idle):cap(i.idle)])
	left := len(i.idle)
	i.mu.Unlock()
	for _, c := range closing {
		_ = c.Close()
	}
	return left
}

// retire closes the idle connections of an instance that left the plans;
// requests that it has go on.
func (i *instance) retire() {
	i.mu.Lock()
	i.gone = true
	idle := i.idle
	i.idle = nil
	i.mu.Unlock()
	for _, c := range idle {
		_ = c.Close()
	}
	if i.ejection.silent.Load() { // it was not heard of, and now the cluster says that it has ended
		i.release(true)
	}
}

// counters count what went to an instance or a service.
type counters struct {
	requests atomic.Uint64
	failures atomic.Uint64    // no answer could be had
	codes    [6]atomic.Uint64 // answers by class; 0 is none
	inflight atomic.Int64
	latency  histogram // until the head of the answer
	// latencySum is the sum of what latency counts, in nanoseconds.
	latencySum atomic.Uint64
	received   atomic.Uint64
	sent       atomic.Uint64
}

// begin counts a request as in flight, and reports whether there may be one
// more. It never counts one that may not: another would be refused for it.
func (c *counters) begin(limit int64) bool {
	if limit == 0 {
		c.inflight.Add(1)
		return true
	}
	for {
		n := c.inflight.Load()
		if n >= limit {
			return false
		}
		if c.inflight.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (c *counters) count(status int, latency time.Duration) {
	c.requests.Add(1)
	c.codes[codeClass(status)].Add(1)
	c.latency.observe(latency)
	c.latencySum.Add(uint64(latency))
}

func codeClass(status int) int {
	if status < 100 || status > 599 {
		return 0
	}
	return status / 100
}

// alive reports whether a connection that was idle still is open, and nothing
// has come on it that nobody asked for.
func (c *upConn) alive() bool {
	if c.raw == nil {
		return true
	}
	return c.raw.Control(c.look) == nil && c.quiet
}
