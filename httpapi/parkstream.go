package httpapi

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"
)

// A stream of a service waits as a blocking reader does, and for longer, so it is
// parked too: its head is written here, and one goroutine both waits for the client
// to go and writes what is new, in chunks. The connection ends with the stream.
type parkedStream struct {
	waiter
	stream *serviceStream
	rest   int // bytes that the client may still send
}

// parkStream takes a stream from net/http, before its head. It reports false when
// the stream has to stay there.
func (c *call) parkStream(w *serviceStream, release func()) bool {
	conn, _, ok := c.takeConnection()
	if !ok {
		return false
	}
	h := c.c.Writer.Header()
	c.streamHeaders(h, typeEvents)
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close")
	h.Set("Transfer-Encoding", "chunked")
	head := buffers.Get().(*buffer)
	defer putBuffer(head)
	head.WriteString("HTTP/1.1 200 OK\r\n")
	_ = h.Write(head) // a buffer takes everything
	head.WriteString("\r\n")
	p := &parkedStream{waiter: waiter{conn: conn, feed: w.feed}, stream: w, rest: maxStreamInput}
	c.s.directory.park(&p.waiter)
	_ = conn.SetWriteDeadline(time.Now().Add(streamTimeout))
	_, err := conn.Write(head.Bytes())
	if err == nil {
		err = p.send(streamBegin())
	}
	go c.s.runParked(p, err == nil, release)
	return true
}

// runParked is the life of a parked stream.
func (s *Server) runParked(p *parkedStream, open bool, release func()) {
	defer s.parking.waiting.Done()
	defer release()
	defer p.conn.Close() //nolint:errcheck // whatever it is, it ends
	defer s.directory.leaves(&p.waiter)
	if open && s.feed(p) {
		_ = p.send(nil) // the last chunk: the stream has ended, and was not cut
	}
}

// feed sends what is new until the stream is over, or reports false when the
// client has gone. As for [Server.listen], the deadline set here comes before the
// look at the state.
func (s *Server) feed(p *parkedStream) bool {
	for {
		beat := time.Now().Add(heartbeat)
		if p.conn.SetReadDeadline(beat) != nil {
			return false
		}
		if s.open.Err() != nil {
			return true
		}
		frame, last := p.stream.next()
		if frame != nil && p.send(frame) != nil {
			return false
		}
		if last {
			return true
		}
		if !p.quiet() {
			return false
		}
		if !time.Now().Before(beat) && p.send(signOfLife) != nil {
			return false
		}
	}
}

// quiet reads until there is news or it is time for a sign of life, and reports
// whether the client is still there. It has nothing to say any more.
func (p *parkedStream) quiet() bool {
	for p.rest > 0 {
		n, err := p.conn.Read(p.more[:])
		p.rest -= n
		if err != nil {
			return errors.Is(err, os.ErrDeadlineExceeded)
		}
	}
	return false
}

// send writes one chunk at once; an empty one ends the answer. A client that does
// not take it in time is cut off: it can resume.
func (p *parkedStream) send(b []byte) error {
	_ = p.conn.SetWriteDeadline(time.Now().Add(streamTimeout))
	chunk := buffers.Get().(*buffer)
	defer putBuffer(chunk)
	_, _ = fmt.Fprintf(chunk, "%x\r\n", len(b))
	if len(b) > maxCopiedFrame { // thousands of streams may be at this one at once
		parts := net.Buffers{chunk.Bytes(), b, []byte("\r\n")}
		_, err := parts.WriteTo(p.conn)
		return err
	}
	chunk.Write(b)
	chunk.WriteString("\r\n")
	_, err := p.conn.Write(chunk.Bytes())
	return err
}
