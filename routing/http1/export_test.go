package http1

// HasBuffer reports whether a reader holds a buffer of any kind.
func HasBuffer(r *Reader) bool { return r.buf != nil || r.held != nil }

// BufferSize is the size of a reader's buffer.
func BufferSize(r *Reader) int {
	if r.buf == nil {
		return 0
	}
	return len(r.buf.b)
}
