package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
)

// h2stream is one request of a client that speaks HTTP/2.
type h2stream struct {
	rw  http.ResponseWriter
	ctl *http.ResponseController
	r   *http.Request
	// broken says that the answer has ended in its middle.
	broken bool
	// answered says that the head of an answer has been sent.
	answered bool
}

// fillRequest writes a request of net/http as the exchange knows it. What
// becomes the request line and Host for the instance must be so by the rules of
// HTTP/1: net/http lets a :method or :path through that would be read as more
// than one.
func fillRequest(q *http1.Request, r *http.Request) bool {
	head := make([]byte, 0, len(r.Method)+len(r.RequestURI)+len(r.Host)+32)
	head = append(append(head, r.Method...), ' ')
	head = append(append(head, r.RequestURI...), " HTTP/1.1\r\nHost: "...)
	head = append(append(head, r.Host...), "\r\n\r\n"...)
	if n, err := http1.ParseRequest(head, q); err != nil || n != len(head) || len(q.Fields) != 1 || len(q.Host) == 0 {
		return false
	}
	q.Fields, q.Length = q.Fields[:0], max(r.ContentLength, 0)
	switch {
	case r.ContentLength > 0:
		q.Body = http1.BodyLength
	case r.ContentLength < 0 && r.Body != http.NoBody:
		q.Body = http1.BodyChunked
	}
	// What a client says of a body that it does not send must not reach an
	// instance, which would take the next request for the body.
	if v := r.Header["Content-Length"]; v != nil && (len(v) != 1 || v[0] != strconv.FormatInt(r.ContentLength, 10)) {
		return false
	}
	for name, values := range r.Header {
		for _, v := range values {
			q.Fields = append(q.Fields, http1.Field{Name: []byte(name), Value: []byte(v), Hop: hopByHop(name)})
		}
	}
	return true
}

// hopByHop reports whether a field, in canonical form, is for one connection
// only.
func hopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade", "Proxy-Authorization",
		"Expect": // which net/http answers
		return true
	}
	return false
}

// readSmall implements [downstream].
func (s *h2stream) readSmall(n int64) ([]byte, error) {
	_ = s.ctl.SetReadDeadline(time.Now().Add(defaultStall))
	b := make([]byte, n)
	_, err := io.ReadFull(s.r.Body, b)
	return b, err
}

// sendBody implements [downstream].
func (s *h2stream) sendBody(to *upConn, req *http1.Request, stall time.Duration, limit int64) (n int64, gone bool, err error) {
	var w io.Writer = to.Conn
	if req.Body == http1.BodyChunked {
		w = httputil.NewChunkedWriter(to.Conn)
	}
	buf := make([]byte, 16<<10)
	for {
		_ = s.ctl.SetReadDeadline(time.Now().Add(stall))
		k, err := s.r.Body.Read(buf)
		if k > 0 {
			if limit > 0 && n+int64(k) > limit {
				return n, true, &http1.Error{Status: http.StatusRequestEntityTooLarge, Reason: "the body is too large"}
			}
			to.moves(stall)
			if _, err := w.Write(buf[:k]); err != nil {
				return n, false, err
			}
			n += int64(k)
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return n, true, err
		}
	}
	if c, ok := w.(io.Closer); ok && req.Body == http1.BodyChunked {
		if err := c.Close(); err != nil { // writes the last chunk
			return n, false, err
		}
		_, err := io.WriteString(to.Conn, "\r\n")
		return n, false, err
	}
	return n, false, nil
}

// interruptBody implements [downstream].
func (s *h2stream) interruptBody() { _ = s.r.Body.Close() }

// interim implements [downstream].
func (s *h2stream) interim(_ *exchange, c *upConn) error {
	if c.resp.Status == http.StatusContinue { // net/http sends its own
		return nil
	}
	s.copyFields(&c.resp)
	s.rw.WriteHeader(c.resp.Status)
	clear(s.rw.Header())
	return nil
}

func (s *h2stream) copyFields(resp *http1.Response) {
	h := s.rw.Header()
	for k := range resp.Fields {
		if f := &resp.Fields[k]; !f.Hop {
			h.Add(string(f.Name), string(f.Value))
		}
	}
}

// reply implements [downstream].
func (s *h2stream) reply(x *exchange, c *upConn, _ bool) (bool, error) {
	s.copyFields(&c.resp)
	if v := x.appendSetCookie(nil); v != nil {
		s.rw.Header().Add("Set-Cookie", string(v))
	}
	stall := x.t.spec.Timeouts.Stall.Std()
	move := func() {
		c.readIn(c.clk.now(), stall)
		_ = s.ctl.SetWriteDeadline(time.Now().Add(stall))
	}
	move()
	if h := s.rw.Header(); h["Content-Type"] == nil {
		h["Content-Type"] = nil // net/http must not guess one
	}
	s.answered = true
	s.rw.WriteHeader(c.resp.Status)
	if c.resp.Body == http1.BodyNone {
		return true, nil
	}
	n, err := c.reader.CopyBody(s.rw, c.resp.Body, c.resp.Length, http1.CopyOptions{
		Progress: func(int64) error {
			move()
			return s.ctl.Flush()
		},
	})
	x.received = n
	var wrote *http1.WriteError
	if errors.As(err, &wrote) {
		return false, asClientGone(err)
	}
	s.broken = err != nil
	return err == nil, err
}

// upgrade implements [downstream].
func (s *h2stream) upgrade(*exchange, *upConn) error {
	return errUpgrade // of HTTP/2 no request asks for one
}

// answer implements [downstream].
func (s *h2stream) answer(a answer) bool {
	s.answered = true
	h := s.rw.Header()
	h.Set("Content-Type", "application/problem+json")
	if a.retryAfter > 0 {
		h.Set("Retry-After", strconv.FormatInt(a.retryAfterSeconds(), 10))
	}
	_ = s.ctl.SetWriteDeadline(time.Now().Add(answerTimeout))
	s.rw.WriteHeader(a.status)
	_, err := s.rw.Write(a.body())
	return err == nil
}
