package proxy

import (
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
)

// bodyFraming is how a body is told from what follows it.
type bodyFraming uint8

const (
	framingAsIs    bodyFraming = iota // none, or its length
	framingChunked                    // chunks
	framingClose                      // the end of the connection
)

// framingFor chooses the framing towards the client: a client of HTTP/1.0
// knows no chunks.
func framingFor(resp *http1.Response, clientMinor int) bodyFraming {
	switch {
	case resp.Body != http1.BodyChunked && resp.Body != http1.BodyUntilClose:
		return framingAsIs
	case clientMinor == 0:
		return framingClose
	}
	return framingChunked
}

// readSmall implements [downstream].
func (c *conn) readSmall(n int64) ([]byte, error) {
	c.phase = phaseBody
	if _, err := c.w.reader.Fill(int(n)); err != nil {
		return nil, err
	}
	return c.w.reader.Take(int(n)), nil // valid as long as the head is
}

// sendBody implements [downstream].
func (c *conn) sendBody(to *upConn, req *http1.Request, stall time.Duration, limit int64) (int64, bool, error) {
	c.phase = phaseBody
	n, err := c.w.reader.CopyBody(to.Conn, req.Body, req.Length, http1.CopyOptions{
		Rechunk: req.Body == http1.BodyChunked, MaxBytes: limit,
		Progress: func(int64) error {
			to.moves(stall)
			return nil
		},
	})
	var read *http1.ReadError
	return n, errors.As(err, &read), err
}

// interruptBody implements [downstream].
func (c *conn) interruptBody() {
	c.cut.Store(true)
	c.interrupt()
}

// interim implements [downstream].
func (c *conn) interim(x *exchange, up *upConn) error {
	if c.w.req.Minor == 0 { // which knows none
		return nil
	}
	b := http1.AppendStatusLine(nil, up.resp.Status, up.resp.Reason)
	for k := range up.resp.Fields {
		if f := &up.resp.Fields[k]; !f.Hop {
			b = http1.AppendField(b, f.Name, f.Value)
		}
	}
	c.writeIn(c.now(), x.t.spec.Timeouts.Stall.Std())
	_, err := c.Conn.Write(append(b, "\r\n"...))
	return asClientGone(err)
}

// reply implements [downstream].
func (c *conn) reply(x *exchange, up *upConn, early bool) (again bool, err error) {
	framing := framingFor(&up.resp, c.w.req.Minor)
	closing := early || c.w.req.Close || framing == framingClose || c.l.draining.Load()
	if err := c.replyBody(x, up, framing, closing); err != nil {
		var read *http1.ReadError
		if errors.As(err, &read) && !read.Started { // not even the head has been written
			x.joinUpload(up)
			return x.own(answer{status: 502, code: "unavailable", message: "the instance's answer is not valid HTTP/1.1", close: true}), err
		}
		if tcp, ok := c.nc.(*net.TCPConn); ok && framing == framingClose {
			_ = tcp.SetLinger(0) // a plain end would make a part look like the whole
			_ = tcp.Close()      // without TLS' own end, which would as well
		}
		return false, err
	}
	if early {
		x.joinUpload(up)
		c.linger()
	}
	return !closing, nil
}

// replyBody writes the head and what there is of the body at once, then the
// rest as it comes, however long that takes as long as it moves.
func (c *conn) replyBody(x *exchange, up *upConn, framing bodyFraming, closing bool) error {
	resp := &up.resp
	stall := x.t.spec.Timeouts.Stall.Std()
	out := x.appendAnswerHead(c.w.out[:0], resp, framing, closing)
	now := c.now()
	c.writeIn(now, stall)
	small := resp.Body == http1.BodyLength && resp.Length <= int64(up.reader.Buffered())
	if small {
		out = append(out, up.reader.Take(int(resp.Length))...)
		x.received = resp.Length
	}
	c.w.out = out[:0]
	if small || resp.Body == http1.BodyNone {
		_, err := c.Conn.Write(out)
		return asClientGone(err)
	}
	up.readIn(now, stall)
	n, err := up.reader.CopyBody(c.Conn, resp.Body, resp.Length, http1.CopyOptions{
		Head: out, Rechunk: framing == framingChunked,
		Progress: func(int64) error {
			now := c.now()
			up.readIn(now, stall)
			c.writeIn(now, stall)
			return nil
		},
	})
	x.received = n
	var wrote *http1.WriteError
	if errors.As(err, &wrote) {
		return asClientGone(err)
	}
	return err
}

// appendAnswerHead appends the head of an answer as the client gets it.
func (x *exchange) appendAnswerHead(b []byte, resp *http1.Response, framing bodyFraming, closing bool) []byte {
	b = http1.AppendStatusLine(b, resp.Status, resp.Reason)
	for k := range resp.Fields {
		f := &resp.Fields[k]
		if f.Hop || framing == framingChunked && isContentLength(f.Name) {
			continue
		}
		b = http1.AppendField(b, f.Name, f.Value)
	}
	if framing == framingChunked {
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	b = x.appendCookie(b)
	switch {
	case resp.Status == 101:
		b = append(b, "Connection: Upgrade\r\n"...)
		b = http1.AppendField(b, "Upgrade", resp.Upgrade)
	case closing:
		b = append(b, "Connection: close\r\n"...)
	case x.w.req.Minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	return append(b, "\r\n"...)
}

// upgrade implements [downstream].
func (c *conn) upgrade(x *exchange, up *upConn) error {
	out := x.appendAnswerHead(c.w.out[:0], &up.resp, framingAsIs, false)
	out = append(out, up.reader.Take(up.reader.Buffered())...)
	c.w.out = out[:0]
	c.writeIn(c.now(), x.t.spec.Timeouts.Stall.Std())
	if _, err := c.Conn.Write(out); err != nil {
		return asClientGone(err)
	}
	if early := c.w.reader.Take(c.w.reader.Buffered()); len(early) > 0 {
		up.writeIn(c.now(), x.t.spec.Timeouts.Stall.Std())
		if _, err := up.Conn.Write(early); err != nil {
			return err
		}
	}
	c.p.tunnels.Add(1)
	defer c.p.tunnels.Add(-1)
	x.received = join(&c.stream, &up.stream, x.t.spec.Timeouts.Tunnel.Std())
	return nil
}

// answer implements [downstream].
func (c *conn) answer(a answer) bool {
	a.close = a.close || c.w == nil || c.w.req.Close || c.l.draining.Load()
	body := a.body()
	var b []byte
	head := false
	if c.w != nil {
		b = c.w.out[:0]
		head = string(c.w.req.Method) == "HEAD"
	}
	b = http1.AppendStatusLine(b, a.status, nil)
	b = append(b, "Content-Type: application/problem+json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(body)), 10)
	b = append(b, "\r\n"...)
	if a.retryAfter > 0 {
		b = append(b, "Retry-After: "...)
		b = strconv.AppendInt(b, a.retryAfterSeconds(), 10)
		b = append(b, "\r\n"...)
	}
	switch {
	case a.close:
		b = append(b, "Connection: close\r\n"...)
	case c.w.req.Minor == 0:
		b = append(b, "Connection: keep-alive\r\n"...)
	}
	b = append(b, "\r\n"...)
	if !head {
		b = append(b, body...)
	}
	c.writeIn(c.now(), answerTimeout)
	if _, err := c.Conn.Write(b); err != nil {
		return false
	}
	if a.close {
		c.linger()
	}
	return !a.close
}
