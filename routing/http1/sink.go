package http1

import "io"

// chunkRoom is what a chunk has in front of its data: four digits and CRLF.
const chunkRoom = 6

// sink is where a body goes. It gathers the head and small pieces, so that they
// are written together, and puts chunks around them where it should.
type sink struct {
	w io.Writer
	o CopyOptions

	buf  *buffer // head, room for the size of a chunk, data
	head int     // bytes of o.Head that were not written yet
	data int     // bytes of data behind it

	taken   int64 // bytes of the body that were let through
	n       int64 // bytes of the body that were written
	started bool
}

// begin takes the buffer that pieces are gathered in.
func (s *sink) begin() {
	if s.buf == nil {
		s.buf = getBuffer(copyBuffer)
	}
}

// from is where data begins in the buffer. A head that is larger than half of
// it is not copied but written alone.
func (s *sink) from() int {
	from := 0
	if s.head <= copyBuffer/2 {
		from = s.head
	}
	if s.o.Rechunk {
		from += chunkRoom
	}
	return from
}

// add takes a piece of the body. It is written or copied before add returns.
func (s *sink) add(b []byte) error {
	if !s.o.Rechunk && s.head == 0 && s.data == 0 && len(b) >= copyBuffer/8 {
		return s.write(b, len(b))
	}
	s.begin()
	for len(b) > 0 {
		from := s.from() + s.data
		n := copy(s.buf.b[from:len(s.buf.b)-len("\r\n0\r\n\r\n")], b)
		s.data += n
		b = b[n:]
		if len(b) > 0 {
			if err := s.flush(false); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush writes what was gathered, and the last chunk behind it if asked to.
func (s *sink) flush(last bool) error {
	if s.head == 0 && s.data == 0 && !last {
		return nil
	}
	s.begin()
	out, from := s.buf.b, s.from()
	to := from + s.data
	start := from
	if s.o.Rechunk {
		if s.data > 0 {
			start = chunkSize(out[:from], s.data)
			to += copy(out[to:], "\r\n")
		}
		if last {
			to += copy(out[to:], "0\r\n\r\n")
		}
	}
	switch {
	case s.head > copyBuffer/2:
		if err := s.write(s.o.Head, 0); err != nil {
			return err
		}
	case s.head > 0:
		start -= s.head
		copy(out[start:], s.o.Head)
	}
	s.head = 0
	data := s.data
	s.data = 0
	if start == to {
		return nil
	}
	return s.write(out[start:to], data)
}

// chunkSize writes the size of a chunk at the end of b and returns where it
// begins.
func chunkSize(b []byte, size int) int {
	const digits = "0123456789abcdef"
	i := len(b) - 2
	b[i], b[i+1] = '\r', '\n'
	for size > 0 {
		i--
		b[i] = digits[size&15]
		size >>= 4
	}
	return i
}

// end writes the rest of a body that has ended well.
func (s *sink) end(body bool) error { return s.flush(body && s.o.Rechunk) }

// write writes b, of which data bytes are of the body.
func (s *sink) write(b []byte, data int) error {
	s.started = true
	n, err := s.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return &WriteError{Err: err}
	}
	return s.wrote(int64(data))
}

// wrote counts bytes of the body and tells the caller.
func (s *sink) wrote(n int64) error {
	s.n += n
	if s.o.Progress == nil {
		return nil
	}
	return s.o.Progress(s.n)
}
