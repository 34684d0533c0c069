package http1

import (
	"io"
	"net"
)

// CopyOptions say how a body is passed on.
type CopyOptions struct {
	// Head is written in front of the body, in one write with its first bytes
	// where some are there already.
	Head []byte
	// Rechunk writes the body as chunks of our own making, and the last one
	// when the body has ended well. Else its bytes are written as they are.
	Rechunk bool
	// MaxBytes bounds the body. A larger one is refused; 0 is no bound.
	MaxBytes int64
	// Progress, where given, is called after each write with the bytes of the
	// body that were written so far, so that deadlines can be moved. An error
	// ends the copy and is returned as it is.
	Progress func(n int64) error
}

// CopyBody writes the body behind the head just read to w and returns how many
// of its bytes were written. Errors are a *ReadError, a *WriteError, or that of
// Progress. After an error the connection is in the middle of a message and
// can only be closed. Trailers and chunk extensions are checked and dropped.
//
// The head stays valid, but for BodyUntilClose, after which no other follows.
// That kind also serves for a tunnel, on which it holds no buffer while waiting.
func (r *Reader) CopyBody(w io.Writer, kind BodyKind, length int64, o CopyOptions) (n int64, err error) {
	s := sink{w: w, o: o}
	defer func() { putBuffer(s.buf) }()
	if len(o.Head) > 0 {
		s.begin()
		s.head = len(o.Head)
	}
	switch kind {
	case BodyLength:
		err = r.copyLength(&s, length)
	case BodyChunked:
		err = r.copyChunked(&s)
	case BodyUntilClose:
		err = r.copyUntilClose(&s)
	}
	if err == nil {
		err = s.end(kind != BodyNone)
	}
	if e, ok := err.(*ReadError); ok {
		e.Started = s.started
	}
	return s.n, err
}

// readError wraps what went wrong on the reading side.
func readError(err error) error { return &ReadError{Err: err} }

// refuseBody refuses what was read in a body.
func (r *Reader) refuseBody(status int, reason string) error {
	if r.bad == statusBadGateway {
		status = r.bad
	}
	return readError(refuse(status, reason))
}

// allow refuses a body that is to grow by more bytes than it may.
func (r *Reader) allow(s *sink, more int64) error {
	if s.o.MaxBytes > 0 && more > s.o.MaxBytes-s.taken {
		return r.refuseBody(statusTooLarge, "the body is too large")
	}
	s.taken += more
	return nil
}

// next takes up to n buffered bytes, whose place is used for the next ones.
func (r *Reader) next(n int64) []byte {
	b := r.Peek(int(min(n, int64(r.Buffered()))))
	r.r += len(b)
	return b
}

func (r *Reader) copyLength(s *sink, left int64) error {
	if err := r.allow(s, left); err != nil {
		return err
	}
	for tried := s.o.Rechunk; left > 0; {
		if r.Buffered() == 0 && r.err == nil && left >= spliceFrom && !tried {
			tried = true
			if done, err := r.spliceTo(s, left); done {
				return err
			}
		}
		b, err := r.some(s, left)
		if err != nil {
			return err
		}
		if err := s.add(b); err != nil {
			return err
		}
		left -= int64(len(b))
	}
	return nil
}

// some takes what is buffered, at most n bytes, and reads only when that is
// nothing. What waits to be written goes first then: the peer may be waiting
// for it before it sends more.
func (r *Reader) some(s *sink, n int64) ([]byte, error) {
	if r.Buffered() == 0 {
		if err := s.flush(false); err != nil {
			return nil, err
		}
		if err := r.fillBody(int(min(n, bodyWindow)), n); err != nil {
			return nil, readError(unexpected(err, true))
		}
	}
	return r.next(n), nil
}

// spliceTo lets the kernel move a body between two sockets. It is not done
// where the kernel can not.
func (r *Reader) spliceTo(s *sink, n int64) (done bool, err error) {
	src, ok := r.src.(*net.TCPConn)
	if !ok {
		return false, nil
	}
	dst, ok := s.w.(*net.TCPConn)
	if !ok {
		return false, nil
	}
	if err := s.flush(false); err != nil {
		return true, err
	}
	return splice(dst, src, n, s)
}

// copyUntilClose gives the buffer back, and the head with it, before it waits.
func (r *Reader) copyUntilClose(s *sink) error {
	for {
		if r.Buffered() == 0 {
			if err := s.flush(false); err != nil {
				return err
			}
			r.drop()
			if err := r.wake(copyBuffer); err == io.EOF {
				return nil
			} else if err != nil {
				return readError(err)
			}
		}
		b := r.next(int64(r.Buffered()))
		if err := r.allow(s, int64(len(b))); err != nil {
			return err
		}
		if err := s.add(b); err != nil {
			return err
		}
	}
}
