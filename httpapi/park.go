package httpapi

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// A reader that waits for a service may wait for minutes, and there may be ten
// thousand of them. What net/http keeps for a running request, two goroutines
// with deep stacks and three buffers, is 27 KB then. So such a request is
// parked: its connection is taken from net/http, together with the head of the
// request, and waits in a goroutine that only reads. When the wait is over the
// connection comes in by a listener once more, the head first, and the request
// is answered like any other, with all checks, headers and keep-alive.
//
//	request ─► handler has nothing new ─► parked ─┬─ news, the end of the wait, shutdown ─► returns ─► answered
//	                                              ├─ more bytes of the client ─► returns (one answer, early)
//	                                              └─ the client has gone ─► closed
type parking struct {
	back   chan net.Conn
	closed chan struct{}
	shut   sync.Once

	mu      sync.Mutex
	closing bool
	waiting sync.WaitGroup
}

func newParking() *parking {
	return &parking{back: make(chan net.Conn, 256), closed: make(chan struct{})}
}

// errParked says that the handler has nothing to answer: the request returns.
var errParked = errors.New("the request is parked")

// connection is what the server knows of the connection of a request.
type connection struct {
	conn  net.Conn
	home  func()    // see parkedConn; nil when it was not parked
	again *returned // of a parked request that has returned, until it is served
}

// returned is what stays the same when a parked request is served again.
type returned struct {
	requestID string
	begun     time.Time
}

type connectionKey struct{}

// connectionOf returns nil when somebody else's server has the connection: its
// requests are not parked.
func connectionOf(r *http.Request) *connection {
	c, _ := r.Context().Value(connectionKey{}).(*connection)
	return c
}

func withConnection(ctx context.Context, conn net.Conn) context.Context {
	c := &connection{conn: conn}
	if p, ok := conn.(*parkedConn); ok {
		c.again, c.home = p.again, p.home
	}
	return context.WithValue(ctx, connectionKey{}, c)
}

// parkedConn gives the head of its request before it goes on with what the
// client sends.
type parkedConn struct {
	net.Conn
	head  []byte
	again *returned
	home  func() // once: the request is served, or never will be
}

// Read implements [net.Conn].
func (p *parkedConn) Read(b []byte) (int, error) {
	if len(p.head) == 0 {
		return p.Conn.Read(b)
	}
	n := copy(b, p.head)
	if p.head = p.head[n:]; len(p.head) == 0 {
		p.head = nil
	}
	return n, nil
}

// waiter is a connection outside of net/http that waits for news of a feed.
type waiter struct {
	conn net.Conn
	feed *feed
	more [1]byte
}

// parked is a request that waits.
type parked struct {
	waiter
	head  []byte
	again *returned
	until time.Time
	over  func() bool // there is something new
}

// park takes the request from net/http until over says so, or a time. It
// reports false when the request has to wait where it is.
func (c *call) park(f *feed, until time.Time, over func() bool, release func()) bool {
	r, method := c.c.Request, http.MethodGet
	if wasHead(r) {
		method = http.MethodHead
	}
	var head bytes.Buffer
	_, _ = fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, r.RequestURI, r.Host)
	_ = r.Header.Write(&head) // a buffer takes everything
	head.WriteString("\r\n")
	if head.Len() > maxHeaderBytes { // written anew it may be longer than it came, and would be refused
		return false
	}
	conn, early, ok := c.takeConnection()
	if !ok {
		return false
	}
	head.Write(early)
	w := &parked{
		waiter: waiter{conn: conn, feed: f}, head: bytes.Clone(head.Bytes()), again: &returned{c.requestID, c.begun}, until: until, over: over,
	}
	go c.s.wait(w, len(early) > 0, release)
	return true
}

// takeConnection takes the request's connection from net/http, with what the
// client has sent since. The lot counts it until waiting.Done is called. ok is
// false when the connection has to stay where it is.
func (c *call) takeConnection() (conn net.Conn, early []byte, ok bool) {
	r, lot := c.c.Request, c.s.parking
	if connectionOf(r) == nil || r.ProtoMajor != 1 || r.ProtoMinor < 1 || r.ContentLength != 0 || r.Header.Get("Expect") != "" {
		return nil, nil, false
	}
	if !lot.enter() {
		return nil, nil, false
	}
	conn, buffered, err := c.c.Writer.Hijack()
	if err != nil {
		lot.waiting.Done()
		return nil, nil, false
	}
	if p, parked := conn.(*parkedConn); parked {
		conn = p.Conn // or each wait would add a layer
	}
	early, _ = buffered.Peek(buffered.Reader.Buffered())
	return conn, early, true
}

// wait is the life of a parked request.
func (s *Server) wait(w *parked, early bool, release func()) {
	s.directory.park(&w.waiter)
	stays := early || s.listen(w)
	s.directory.leaves(&w.waiter)
	release()
	if !stays {
		_ = w.conn.Close()
		s.parking.waiting.Done()
		return
	}
	_ = w.conn.SetReadDeadline(time.Time{})
	s.parking.give(&parkedConn{Conn: w.conn, head: w.head, again: w.again, home: sync.OnceFunc(s.parking.waiting.Done)})
}

// listen reads until the wait is over, and reports whether the client is still
// there. Whoever has news ends the read by its deadline: that set here comes
// before the look at the state, so that no news is lost between the two.
func (s *Server) listen(w *parked) bool {
	for {
		if w.conn.SetReadDeadline(w.until) != nil {
			return false
		}
		if w.over() || s.open.Err() != nil || !time.Now().Before(w.until) {
			return true
		}
		n, err := w.conn.Read(w.more[:])
		if n > 0 {
			w.head = append(w.head, w.more[0])
			return true
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
}

// wake ends the read of one who waits.
func (w *waiter) wake() { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) }

func (p *parking) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closing {
		p.waiting.Add(1)
	}
	return !p.closing
}

// leave lets no request in any more, and returns when all have returned or ended.
// When ctx ends first, cutAll closes their connections.
func (p *parking) leave(ctx context.Context, wakeAll, cutAll func()) {
	p.mu.Lock()
	p.closing = true
	p.mu.Unlock()
	wakeAll()
	defer context.AfterFunc(ctx, cutAll)()
	p.waiting.Wait()
}

func (p *parking) give(c *parkedConn) {
	select {
	case p.back <- c:
	case <-p.closed:
		_ = c.Close()
		c.home()
	}
}

// known is told by net/http what becomes of connections. A parked request is
// on its way until it is served: in a shutdown, net/http drops those before.
func known(c net.Conn, state http.ConnState) {
	if p, parked := c.(*parkedConn); parked && state == http.StateClosed {
		p.home()
	}
}

// parkingListener is where parked connections come back in.
type parkingListener struct {
	*parking
	addr net.Addr
}

// Accept implements [net.Listener].
func (p parkingListener) Accept() (net.Conn, error) {
	select {
	case c := <-p.back:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (p parkingListener) Close() error {
	p.shut.Do(func() { close(p.closed) })
	return nil
}

// Addr implements [net.Listener].
func (p parkingListener) Addr() net.Addr { return p.addr }
