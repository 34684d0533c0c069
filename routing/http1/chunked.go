package http1

import "bytes"

// copyChunked decodes chunks (RFC 9112 §7.1) without any of the leniencies that
// make parsers disagree: a size is digits, a line ends with CRLF.
func (r *Reader) copyChunked(s *sink) error {
	var extensions int64
	for {
		size, extension, err := r.chunkLine(s)
		if err != nil {
			return err
		}
		// Data pays for extensions, as there may be some on each chunk.
		if extensions = max(0, extensions-size) + int64(extension); extensions > maxExtensions {
			return r.refuseBody(statusBadRequest, "the chunks have more extensions than data")
		}
		if size == 0 {
			return r.trailers(s)
		}
		if err := r.allow(s, size); err != nil {
			return err
		}
		for size > 0 {
			b, err := r.some(s, size)
			if err != nil {
				return err
			}
			size -= int64(len(b))
			if err := s.add(b); err != nil {
				return err
			}
		}
		if err := r.chunkEnd(s); err != nil {
			return err
		}
	}
}

// gather waits until more than have bytes are buffered, with room for a line of
// most bytes in one piece.
func (r *Reader) gather(s *sink, have, most int) error {
	for r.Buffered() <= have {
		if err := s.flush(false); err != nil {
			return err
		}
		if err := r.fillBody(most, 1<<62); err != nil {
			return readError(unexpected(err, true))
		}
	}
	return nil
}

// chunkLine reads the line in front of a chunk.
func (r *Reader) chunkLine(s *sink) (size int64, extension int, err error) {
	most := r.limits.MaxChunkLine
	for have := 0; ; {
		if err := r.gather(s, have, most); err != nil {
			return 0, 0, err
		}
		b := r.Peek(most)
		if classes[b[0]]&classHex == 0 {
			return 0, 0, r.refuseBody(statusBadRequest, "the size of a chunk is not a hexadecimal number")
		}
		end := bytes.IndexByte(b[have:], '\n')
		if end < 0 && len(b) < most {
			have = len(b)
			continue
		}
		if end < 0 {
			return 0, 0, r.refuseBody(statusBadRequest, "the line of a chunk is too long")
		}
		line := b[:have+end+1]
		r.r += len(line)
		size, extension, reason := parseChunkLine(line)
		if reason != "" {
			return 0, 0, r.refuseBody(statusBadRequest, reason)
		}
		return size, extension, nil
	}
}

// parseChunkLine parses a line with its LF that begins with a digit.
func parseChunkLine(line []byte) (size int64, extension int, reason string) {
	n := len(line) - 2
	if n < 0 || line[n] != '\r' {
		return 0, 0, "the line of a chunk ends with a bare LF"
	}
	line = line[:n]
	i := 0
	for i < n && classes[line[i]]&classHex != 0 {
		if size > 1<<59-1 {
			return 0, 0, "the size of a chunk is not a number of at most 63 bits"
		}
		size = size<<4 | int64(hexValue(line[i]))
		i++
	}
	switch {
	case i > 16:
		return 0, 0, "the size of a chunk has too many digits"
	case i == n:
		return size, 0, ""
	case line[i] != ';':
		return 0, 0, "there is something other than an extension behind the size of a chunk"
	case !all(line[i:], classText):
		return 0, 0, "there is a control character in the extension of a chunk"
	}
	return size, n - i, ""
}

func hexValue(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}

// chunkEnd reads the line break behind the data of a chunk.
func (r *Reader) chunkEnd(s *sink) error {
	if err := r.gather(s, 1, 2); err != nil {
		return err
	}
	if b := r.next(2); b[0] != '\r' || b[1] != '\n' {
		return r.refuseBody(statusBadRequest, "a chunk is longer than its size")
	}
	return nil
}

// trailers reads the fields behind the last chunk, which are dropped: a proxy
// can not know which of them are safe to merge into a head.
func (r *Reader) trailers(s *sink) error {
	left := r.limits.MaxTrailer
	fields := 0
	for have := 0; ; {
		if err := r.gather(s, have, max(left, 2)); err != nil {
			return err
		}
		b := r.Peek(left)
		n, last, err := trailer(b)
		switch {
		case err == ErrShort && len(b) < left:
			have = len(b)
			continue
		case err == ErrShort:
			return r.refuseBody(statusHeadTooLarge, "the trailer section is too large")
		case err != nil:
			return r.refuseBody(err.(*Error).Status, err.(*Error).Reason)
		}
		r.r += n
		if last {
			return nil
		}
		if fields++; fields > r.limits.MaxFields {
			return r.refuseBody(statusHeadTooLarge, "the trailer section has too many fields")
		}
		left -= n
		have = 0
	}
}

// trailer parses one line of the trailer section.
func trailer(b []byte) (n int, last bool, err error) {
	if len(b) == 0 {
		return 0, false, ErrShort
	}
	if b[0] == '\r' || b[0] == '\n' {
		n, err = lineBreak(b, 0)
		return n, true, err
	}
	name, _, n, err := field(b)
	if err == nil && forbiddenTrailer(name) {
		err = refuse(statusBadRequest, "the trailer section has a field that must not be there")
	}
	return n, false, err
}
