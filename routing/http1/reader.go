package http1

import (
	"bytes"
	"io"
)

// Reader reads messages from one connection, one after the other: a head, then
// its body, then the next head. What one peer sends ahead stays in its buffer.
// A Reader is used by one goroutine at a time.
type Reader struct {
	src    io.Reader
	limits Limits

	buf  *buffer // nil while nothing is buffered
	held *buffer // the head, when its body needed a larger buffer
	base int     // where the head in buf ends and its body may be read to
	r, w int     // the unread bytes of buf
	err  error   // what the source said together with the last bytes
	bad  int     // the status of what is refused: 400, or 502 in a response

	idle  waiter
	first [64]byte // takes what ends an idle time, where a waiter does not
}

// NewReader makes a Reader of a connection.
func NewReader(src io.Reader, limits Limits) *Reader {
	r := &Reader{limits: limits.withDefaults()}
	r.Reset(src)
	return r
}

// Reset forgets everything and reads from another connection.
func (r *Reader) Reset(src io.Reader) {
	r.drop()
	r.src, r.err = src, nil
	r.idle.reset()
}

// Buffered is how many bytes were received and not read yet.
func (r *Reader) Buffered() int { return r.w - r.r }

// Release gives the buffer back when nothing is buffered. The last head is not
// valid after that. The next read takes a buffer when there is something to read.
func (r *Reader) Release() {
	if r.r == r.w {
		r.drop()
	}
}

func (r *Reader) drop() {
	putBuffer(r.buf)
	putBuffer(r.held)
	r.buf, r.held = nil, nil
	r.base, r.r, r.w = 0, 0, 0
}

// Peek returns up to n buffered bytes without reading from the connection.
func (r *Reader) Peek(n int) []byte {
	if r.buf == nil {
		return nil
	}
	end := r.r + min(max(n, 0), r.Buffered())
	return r.buf.b[r.r:end:end]
}

// Take is Peek for bytes that are then done with. They stay valid as long as
// the head before them.
func (r *Reader) Take(n int) []byte {
	b := r.Peek(n)
	r.r += len(b)
	// What is read next must not overwrite them.
	r.base = r.r
	return b
}

// ReadRequest reads the head of the next request. The error is io.EOF when the
// peer has closed the connection between messages, io.ErrUnexpectedEOF when it
// did so within one, an *Error for what is refused, or that of the source.
func (r *Reader) ReadRequest(q *Request) error {
	r.begin(statusBadRequest)
	if err := r.skipEmptyLines(); err != nil {
		return err
	}
	return r.readHead(q, nil, nil)
}

// ReadResponse reads the head of the next response, which answers a request of
// the given method. Its errors are those of ReadRequest.
func (r *Reader) ReadResponse(method []byte, p *Response) error {
	r.begin(statusBadGateway)
	return r.readHead(nil, p, method)
}

// begin forgets the last head.
func (r *Reader) begin(bad int) {
	r.bad = bad
	putBuffer(r.held)
	r.held = nil
	if r.r == r.w {
		r.r, r.w = 0, 0
		if r.buf != nil && len(r.buf.b) > r.limits.InitialBuffer {
			r.drop()
		}
	}
	r.base = r.r
}

// skipEmptyLines skips what some clients send behind a body (RFC 9112 §2.2).
func (r *Reader) skipEmptyLines() error {
	for lines := 0; ; {
		switch b := r.Peek(2); {
		case len(b) == 2 && b[0] == '\r' && b[1] == '\n':
			if lines++; lines > maxEmptyLines {
				return refuse(statusBadRequest, "there are too many empty lines before the request")
			}
			r.r += 2
		case len(b) == 2 || len(b) == 1 && b[0] != '\r':
			return nil
		default:
			if err := r.fillHead(); err != nil {
				return unexpected(err, len(b) > 0)
			}
		}
	}
}

func unexpected(err error, within bool) error {
	if err == io.EOF && within {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readHead parses what is there whenever a line was completed, so that a bad
// one is refused at once. The number of lines is bounded, and with it the work.
func (r *Reader) readHead(q *Request, p *Response, method []byte) error {
	for seen := 0; ; {
		b := r.Peek(r.Buffered())
		fresh := b[seen:]
		if len(fresh) >= headStep || len(b) >= r.limits.MaxHead || bytes.IndexByte(fresh, '\n') >= 0 {
			n, err := r.parse(b, q, p, method)
			if err != ErrShort {
				r.r += n
				r.base = r.r
				return err
			}
			seen = len(b)
		}
		if err := r.fillHead(); err != nil {
			if err != io.EOF || len(b) == 0 {
				return err
			}
			// What is wrong with the beginning says more than its end.
			if _, err := r.parse(b, q, p, method); err != ErrShort {
				return err
			}
			return io.ErrUnexpectedEOF
		}
	}
}

func (r *Reader) parse(b []byte, q *Request, p *Response, method []byte) (int, error) {
	if q != nil {
		return parseRequest(b, q, &r.limits)
	}
	return parseResponse(b, method, p, &r.limits)
}

// fillHead reads more of a head. It may move what is buffered.
func (r *Reader) fillHead() error {
	if r.buf == nil {
		return r.wake(r.limits.InitialBuffer)
	}
	if r.w == len(r.buf.b) {
		r.base = 0
		if r.r > 0 {
			r.w = copy(r.buf.b, r.buf.b[r.r:r.w])
			r.r = 0
		} else {
			r.enlarge(2 * len(r.buf.b))
			putBuffer(r.held)
			r.held = nil
		}
	}
	return r.read(len(r.buf.b) - r.w)
}

// enlarge moves the unread bytes to a larger buffer. The old one is held if it
// has the head, and else left to the collector: bytes of it may have been taken.
func (r *Reader) enlarge(size int) {
	b := getBuffer(size)
	r.w = copy(b.b, r.buf.b[r.r:r.w])
	if r.held == nil {
		r.held = r.buf
	}
	r.buf, r.r, r.base = b, 0, 0
}

// fillBody reads up to most bytes of a body behind the head, which stays where
// it is. There is room for need bytes in one piece, of which fewer are buffered.
func (r *Reader) fillBody(need int, most int64) error {
	if r.buf == nil {
		size := r.limits.InitialBuffer
		if need > size {
			size = max(copyBuffer, need)
		}
		return r.wake(size)
	}
	if r.r == r.w {
		r.r, r.w = r.base, r.base
	}
	if len(r.buf.b)-r.r < need {
		if len(r.buf.b)-r.base < need {
			r.enlarge(max(copyBuffer, need))
		} else {
			r.w = r.base + copy(r.buf.b[r.base:], r.buf.b[r.r:r.w])
			r.r = r.base
		}
	}
	return r.read(int(min(int64(len(r.buf.b)-r.w), most)))
}

// Fill reads until n bytes are buffered, at most 16 KiB, and returns them as
// Peek does. The head stays valid. With an error there are fewer bytes.
func (r *Reader) Fill(n int) ([]byte, error) {
	n = min(n, maxFill)
	for r.Buffered() < n {
		if err := r.fillBody(n, int64(n-r.Buffered())); err != nil {
			return r.Peek(n), unexpected(err, true)
		}
	}
	return r.Peek(n), nil
}

// read reads up to n bytes, at least one, to the end of what is buffered.
func (r *Reader) read(n int) error {
	n, err := r.readTo(r.buf.b[r.w : r.w+n])
	r.w += n
	return err
}

// readTo keeps an error that came with bytes for the next time.
func (r *Reader) readTo(b []byte) (int, error) {
	if err := r.err; err != nil {
		r.err = nil
		return 0, err
	}
	for range maxEmptyReads {
		n, err := r.src.Read(b)
		if n > 0 {
			r.err = err
			return n, nil
		}
		if err != nil {
			return 0, err
		}
	}
	return 0, io.ErrNoProgress
}

// wake reads the first bytes after an idle time. The buffer is taken when they
// are there, so that a connection that waits has none.
func (r *Reader) wake(size int) error {
	if r.err == nil && r.idle.open(r.src) {
		b, n, err := r.idle.read(size)
		if err != nil {
			return err
		}
		r.buf, r.w = b, n
		return nil
	}
	n, err := r.readTo(r.first[:])
	if err != nil {
		return err
	}
	r.buf = getBuffer(size)
	r.w = copy(r.buf.b, r.first[:n])
	return nil
}
