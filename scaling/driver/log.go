package driver

import "bytes"

// MaxLogChunk is the most bytes that one call of Logs returns.
const MaxLogChunk = 1 << 20

// Bound returns the number of bytes that a query may have.
func (q LogQuery) Bound() int {
	if q.Limit <= 0 {
		return MaxLogChunk
	}
	return min(q.Limit, MaxLogChunk)
}

// Cut answers a query from the whole of a log that begins at offset 0.
func Cut(log []byte, q LogQuery) LogChunk {
	end := int64(len(log))
	if q.Offset >= 0 {
		from := min(q.Offset, end)
		to := min(from+int64(q.Bound()), end)
		return LogChunk{Data: bytes.Clone(log[from:to]), Offset: from, Next: to}
	}
	from := max(0, end-int64(q.Bound()))
	tail := LastLines(log[from:], q.TailLines)
	return LogChunk{Data: bytes.Clone(tail), Offset: end - int64(len(tail)), Next: end}
}

// LastLines returns the last n lines of text, all of it when n is 0.
func LastLines(text []byte, n int) []byte {
	if n <= 0 {
		return text
	}
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for range n {
		at = bytes.LastIndexByte(text[:at], '\n')
		if at < 0 {
			return text
		}
	}
	return text[at+1:]
}
