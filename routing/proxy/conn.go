package proxy

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pacelinehq/paceline/routing/balance"
	"github.com/pacelinehq/paceline/routing/http1"
)

// conn is one connection of a client.
//
//	     ┌────────────────── answered, both sides may go on ──────────────┐
//	     ▼                                                                │
//	idle (warm, then without buffers) ──head──► request ──► exchange ─────┤
//	     │                                        │                       └─► tunnel ─► closed
//	     └─ idle timeout, closed by the client    └─ malformed: answered and closed
type conn struct {
	stream
	party
	l   *listener
	nc  net.Conn        // as it was accepted; any goroutine may close it
	raw syscall.RawConn // to wait without a buffer; nil when there is none

	phase phase
	w     *work       // nil while the connection is idle and cold
	idle  atomic.Bool // waits for a request
	cold  atomic.Bool // and has no buffer
	place place       // what it counts for
	cut   atomic.Bool // the body that is being read is of no use any more
}

// phase says which timeout the reads of a connection have.
type phase uint8

const (
	phaseIdle  phase = iota // no byte of the next request has come
	phaseHead               // a head has begun
	phaseBody               // a body is read
	phaseReady              // another part of the code has armed the deadline
)

// work is what a connection needs for a request, and gives back while it is
// idle: ten thousand idle connections cost little more than their goroutines.
type work struct {
	reader *http1.Reader
	req    http1.Request
	out    []byte // towards the client
	up     []byte // towards the instance
	body   []byte // a small body, in the reader's buffer
	tried  [maxAttempts]int32
	pick   balance.Request
}

var workPool = sync.Pool{New: func() any { return &work{reader: http1.NewReader(nil, readerLimits())} }}

func (c *conn) getWork() {
	c.w = workPool.Get().(*work)
	c.w.reader.Reset(c)
}

// forget drops the last request, whose slices may be of a buffer that belongs
// to somebody else by now.
func (w *work) forget() { w.req = http1.Request{Fields: w.req.Fields[:0]} }

func (c *conn) putWork() {
	w := c.w
	c.w = nil
	w.reader.Release()
	w.reader.Reset(nil)
	w.put()
}

func (w *work) put() {
	w.forget()
	w.body = nil
	for _, b := range []*[]byte{&w.out, &w.up} {
		if cap(*b) > scratchLimit {
			*b = nil
		}
	}
	workPool.Put(w)
}

// serve answers requests until the connection ends.
func (c *conn) serve() {
	defer c.end()
	for c.await() && c.request() {
	}
}

func (c *conn) end() {
	c.place.give(c.peer)
	if c.w != nil {
		c.putWork()
	}
	_ = c.Close()
}

// await reads the head of the next request, and reports whether there is one.
func (c *conn) await() bool {
	idleSince := c.now()
	for {
		c.phase = phaseIdle
		c.idle.Store(true)
		if c.w == nil {
			c.cold.Store(true)
			if !c.sleep(idleSince) {
				return false
			}
			c.cold.Store(false)
			c.getWork()
		}
		if c.w.forget(); c.w.reader.Buffered() > 0 { // a part of the next head, perhaps
			c.idle.Store(false)
			c.phase, c.readBy = phaseHead, 0
		}
		err := c.w.reader.ReadRequest(&c.w.req)
		if err == nil {
			c.idle.Store(false)
			return true
		}
		cold := c.phase == phaseIdle && errors.Is(err, os.ErrDeadlineExceeded)
		switch {
		case cold && c.raw != nil:
			c.putWork()
		default:
			if !cold {
				c.refuseHead(err)
			}
			return false
		}
	}
}

// Read implements [io.Reader] for the request reader: it arms the deadline
// that the phase wants.
func (c *conn) Read(b []byte) (int, error) {
	switch c.phase {
	case phaseIdle:
		wait := c.idleWait()
		if c.raw != nil {
			wait = min(wait, c.p.waits.warm)
		}
		c.readIn(c.now(), wait)
		n, err := c.Conn.Read(b)
		if n > 0 {
			c.idle.Store(false)
			c.phase = phaseHead
			c.readBy = 0 // the rest of the head, if any is missing, has its own time
		}
		return n, err
	case phaseHead:
		if c.readBy == 0 {
			c.readIn(c.now(), c.p.waits.head)
		}
	case phaseBody:
		c.readIn(c.now(), c.stallTimeout())
		if c.cut.Load() { // after arming, so that the interruption is not lost
			return 0, os.ErrDeadlineExceeded
		}
	}
	return c.Conn.Read(b)
}

// sleep waits until the client sends something, without a buffer. It reports
// whether the client did.
func (c *conn) sleep(since time.Duration) bool {
	if c.raw == nil {
		return true
	}
	left := min(since+c.l.idleTimeout()-c.now(), c.idleWait())
	if left <= 0 {
		return false
	}
	c.readIn(c.now(), left)
	ready := false
	err := c.raw.Read(func(fd uintptr) bool {
		ready = readable(fd)
		return ready
	})
	return err == nil && ready
}

// idleWait is how long the connection may wait for a request from now on.
func (c *conn) idleWait() time.Duration {
	if c.l.draining.Load() {
		return min(c.l.idleTimeout(), c.p.waits.drain)
	}
	return c.l.idleTimeout()
}

// stallTimeout is how long a body of the client may stand still.
func (c *conn) stallTimeout() time.Duration {
	if c.place.of != nil {
		if t := c.p.plan.Load().targets[c.place.of.group]; t != nil {
			return t.spec.Timeouts.Stall.Std()
		}
	}
	return defaultStall
}

// refuseHead answers a head that is not one.
func (c *conn) refuseHead(err error) {
	var bad *http1.Error
	switch {
	case errors.As(err, &bad) && bytes.HasPrefix(c.w.reader.Peek(len(http2Preface)), http2Preface):
		c.p.front.servePlain(c, c.w.reader.Peek(c.w.reader.Buffered()))
	case errors.As(err, &bad):
		c.p.stats.malformed.Add(1)
		c.answer(answer{status: bad.Status, code: "invalid", message: "the request is not valid HTTP/1.1: " + bad.Reason, close: true})
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.p.stats.slowHeads.Add(1)
		c.answer(answer{status: 408, code: "timeout", message: "the request's head did not arrive in time", close: true})
	}
}

// linger reads what a refused client still sends, within bounds: closing a
// connection with unread bytes resets it, and the client may never see its
// answer.
func (c *conn) linger() {
	if half, ok := c.Conn.(closeWriter); ok {
		_ = half.CloseWrite()
	}
	c.phase = phaseReady
	c.readBy = 0
	c.readIn(c.now(), lingerTimeout)
	_, _ = io.CopyN(io.Discard, c.Conn, lingerBytes)
}

// count makes the connection count for a service's limits, and reports
// whether those allow it.
func (c *conn) count(t *target, now time.Duration) bool { return c.place.take(t, c.peer, now) }
