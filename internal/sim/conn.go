package sim

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is one end of a simulated stream. Each end owns the stream of bytes
// that comes in; writing puts chunks into the other end's.
type conn struct {
	net                   *Network
	local, remote         address
	localHost, remoteHost string
	in                    *stream
	peer                  *conn
	read, write           deadline
}

func newPair(n *Network, from, addr string) (near, far *conn) {
	to := hostOf(addr)
	near = &conn{net: n, local: address(from + ":0"), remote: address(addr), localHost: from, remoteHost: to, in: newStream()}
	far = &conn{net: n, local: address(addr), remote: address(from + ":0"), localHost: to, remoteHost: from, in: newStream()}
	near.peer, far.peer = far, near
	for _, c := range []*conn{near, far} {
		c.read.init()
		c.write.init()
	}
	return near, far
}

// Read implements [net.Conn].
func (c *conn) Read(b []byte) (int, error) {
	for {
		if c.read.expired() {
			return 0, os.ErrDeadlineExceeded
		}
		cut := c.net.path(c.remoteHost, c.localHost).CutStreams
		n, wait, err := c.in.take(b, cut)
		if n > 0 || err != nil {
			return n, err
		}
		var due <-chan time.Time
		if wait > 0 {
			t := time.NewTimer(wait)
			defer t.Stop()
			due = t.C
		}
		select {
		case <-c.in.wake:
		case <-due:
		case <-c.read.wait():
		}
	}
}

// Write implements [net.Conn]. Like a socket's buffer it takes what fits and
// blocks on the rest.
func (c *conn) Write(b []byte) (int, error) {
	delay, _ := c.net.transit(c.localHost, c.remoteHost)
	delay += c.net.resends(resendAfter, c.localHost, c.remoteHost)
	for {
		if c.write.expired() {
			return 0, os.ErrDeadlineExceeded
		}
		if c.in.isClosed() {
			return 0, net.ErrClosed
		}
		if c.net.isDark(c.remoteHost) {
			return len(b), nil // the sender can not know
		}
		ok, err := c.peer.in.add(b, time.Now().Add(delay))
		if err != nil {
			return 0, &net.OpError{Op: "write", Net: "tcp", Err: err}
		}
		if ok {
			return len(b), nil
		}
		select {
		case <-c.peer.in.room:
		case <-c.write.wait():
		}
	}
}

// Close implements [net.Conn]. The other end reads what was sent, then EOF.
func (c *conn) Close() error {
	c.in.close(net.ErrClosed)
	c.peer.in.finish(io.EOF)
	c.net.forget(c)
	return nil
}

// LocalAddr implements [net.Conn].
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements [net.Conn].
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements [net.Conn].
func (c *conn) SetDeadline(t time.Time) error {
	c.read.set(t)
	c.write.set(t)
	return nil
}

// SetReadDeadline implements [net.Conn].
func (c *conn) SetReadDeadline(t time.Time) error { c.read.set(t); return nil }

// SetWriteDeadline implements [net.Conn].
func (c *conn) SetWriteDeadline(t time.Time) error { c.write.set(t); return nil }

// stream is the bytes on their way to one end.
type stream struct {
	mu     sync.Mutex
	chunks []chunk
	size   int
	err    error // no more bytes come after the chunks
	wake   chan struct{}
	room   chan struct{}
}

type chunk struct {
	data []byte
	at   time.Time
}

func newStream() *stream {
	return &stream{wake: make(chan struct{}, 1), room: make(chan struct{}, 1)}
}

func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *stream) wakeReader() { signal(s.wake) }

// add queues a copy of b to arrive at a time, after what is queued already.
func (s *stream) add(b []byte, at time.Time) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false, syscall.ECONNRESET
	}
	if s.size > 0 && s.size+len(b) > maxBuffered {
		return false, nil
	}
	if k := len(s.chunks); k > 0 && s.chunks[k-1].at.After(at) {
		at = s.chunks[k-1].at
	}
	s.chunks = append(s.chunks, chunk{append([]byte(nil), b...), at})
	s.size += len(b)
	signal(s.wake)
	return true, nil
}

// take reads what has arrived; with nothing there it says how long to wait, 0
// for until woken.
func (s *stream) take(b []byte, cut bool) (n int, wait time.Duration, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == net.ErrClosed || (s.err != nil && len(s.chunks) == 0 && !cut) {
		signal(s.wake) // for other readers
		return 0, 0, s.err
	}
	if cut || len(s.chunks) == 0 {
		return 0, 0, nil
	}
	first := &s.chunks[0]
	if d := time.Until(first.at); d > 0 {
		return 0, d, nil
	}
	n = copy(b, first.data)
	first.data = first.data[n:]
	s.size -= n
	if len(first.data) == 0 {
		s.chunks = s.chunks[1:]
	}
	signal(s.room)
	return n, 0, nil
}

// finish lets the reader have what was sent and then the error.
func (s *stream) finish(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	signal(s.wake)
	signal(s.room)
}

// close drops what was sent.
func (s *stream) close(err error) {
	s.mu.Lock()
	s.chunks, s.size = nil, 0
	if s.err == nil || err == net.ErrClosed {
		s.err = err
	}
	s.mu.Unlock()
	signal(s.wake)
	signal(s.room)
}

func (s *stream) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == net.ErrClosed
}

// deadline is a time at which a channel closes; it may be moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	ch    chan struct{}
}

func (d *deadline) init() { d.ch = make(chan struct{}) }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	select {
	case <-d.ch:
		d.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	ch := d.ch
	if wait := time.Until(t); wait > 0 {
		d.timer = time.AfterFunc(wait, func() { d.fire(ch) })
		return
	}
	close(ch)
}

func (d *deadline) fire(ch chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ch != ch {
		return
	}
	select {
	case <-ch:
	default:
		close(ch)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

func (d *deadline) expired() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
