package http1

import "bytes"

// Field is one field of a head. Its slices point into the reader's buffer and
// are valid until the next head is read, or the buffer is released.
type Field struct {
	Name, Value []byte
	// Hop marks what is for this connection only and must not be passed on.
	Hop bool
}

// BodyKind is how the end of a body is known.
type BodyKind uint8

// The kinds of body.
const (
	BodyNone       BodyKind = iota
	BodyLength              // Content-Length
	BodyChunked             // Transfer-Encoding: chunked
	BodyUntilClose          // responses only
)

// head is what the fields of a message say about the message itself.
type head struct {
	response bool // where Host and Expect mean nothing

	host, upgrade, expect []byte
	length                int64 // -1 without Content-Length
	lengthAt              int   // its place among the fields
	chunked               bool
	close, keepAlive      bool
	upgrades              bool // Connection names Upgrade
	named                 bool // Connection names other fields
	options               int
}

// field parses one field line, its line break included.
func field(b []byte) (name, value []byte, n int, err error) {
	i := 0
	for i < len(b) && classes[b[i]]&classToken != 0 {
		i++
	}
	if i == len(b) {
		return nil, nil, 0, ErrShort
	}
	if b[i] != ':' || i == 0 {
		return nil, nil, 0, badName(b[:i], b[i])
	}
	from := i + 1
	for from < len(b) && (b[from] == ' ' || b[from] == '\t') {
		from++
	}
	end := control(b, from)
	for end < len(b) && b[end] == '\t' {
		end = control(b, end+1)
	}
	if n, err = lineBreak(b, end); err != nil {
		return nil, nil, 0, err
	}
	to := end
	for to > from && (b[to-1] == ' ' || b[to-1] == '\t') {
		to--
	}
	return b[:i:i], b[from:to:to], n, nil
}

// lineBreak expects CRLF at i and returns the offset behind it.
func lineBreak(b []byte, i int) (int, error) {
	switch {
	case i >= len(b):
		return 0, ErrShort
	case b[i] == '\n':
		return 0, refuse(statusBadRequest, "a line ends with a bare LF")
	case b[i] != '\r':
		return 0, refuse(statusBadRequest, "there is a control character in the head")
	case i+1 == len(b):
		return 0, ErrShort
	case b[i+1] != '\n':
		return 0, refuse(statusBadRequest, "there is a bare CR in the head")
	}
	return i + 2, nil
}

func badName(name []byte, next byte) error {
	switch {
	case next == ':':
		return refuse(statusBadRequest, "a field has an empty name")
	case next == ' ' || next == '\t':
		return refuse(statusBadRequest, "there is whitespace in or behind a field name")
	case next == '\n' || next == '\r':
		return refuse(statusBadRequest, "a field has no colon")
	}
	return refuse(statusBadRequest, "a field name has a character that no token has")
}

// parseFields parses fields and the empty line behind them. Bytes are judged
// from left to right, so that more of them never change a verdict.
func (h *head) parseFields(b []byte, fs []Field, most int) ([]Field, int, error) {
	h.length = -1
	i := 0
	for {
		rest := b[i:]
		if len(rest) == 0 {
			return fs, 0, ErrShort
		}
		switch rest[0] {
		case '\r', '\n':
			n, err := lineBreak(rest, 0)
			return fs, i + n, err
		case ' ', '\t':
			if len(fs) == 0 {
				return fs, 0, refuse(statusBadRequest, "there is whitespace before the first field")
			}
			return fs, 0, refuse(statusBadRequest, "a field is folded over two lines")
		}
		if len(fs) == most {
			return fs, 0, refuse(statusHeadTooLarge, "the head has too many fields")
		}
		name, value, n, err := field(rest)
		if err != nil {
			return fs, 0, err
		}
		hop, err := h.note(name, value, rest[len(name)+1:n-2], len(fs))
		if err != nil {
			return fs, 0, err
		}
		fs = append(fs, Field{Name: name, Value: value, Hop: hop})
		i += n
	}
}

// note takes down what a field means for the message, and reports whether it is
// for this hop only. Most names are told apart by their length and first letter.
func (h *head) note(name, value, raw []byte, at int) (hop bool, err error) {
	first := name[0] | 0x20
	switch len(name) {
	case 2:
		return is(name, "te"), nil
	case 4:
		if first == 'h' && is(name, "host") && !h.response {
			return false, h.noteHost(value)
		}
	case 6:
		if first == 'e' && is(name, "expect") && !h.response {
			return false, h.noteExpect(value)
		}
	case 7:
		if first == 'u' && is(name, "upgrade") {
			return true, h.noteUpgrade(value)
		}
		if first == 't' && is(name, "trailer") {
			return true, noteTrailer(value)
		}
	case 10:
		if first == 'c' && is(name, "connection") {
			return true, h.noteConnection(value)
		}
		return first == 'k' && is(name, "keep-alive"), nil
	case 14:
		if first == 'c' && is(name, "content-length") {
			h.lengthAt = at
			return false, h.noteLength(value)
		}
	case 16:
		return first == 'p' && is(name, "proxy-connection"), nil
	case 17:
		if first == 't' && is(name, "transfer-encoding") {
			return true, h.noteEncoding(raw)
		}
	case 18:
		return first == 'p' && is(name, "proxy-authenticate"), nil
	case 19:
		return first == 'p' && is(name, "proxy-authorization"), nil
	}
	return false, nil
}

func (h *head) noteHost(value []byte) error {
	if h.host != nil {
		return refuse(statusBadRequest, "Host is given twice")
	}
	if !validHost(value) {
		return refuse(statusBadRequest, "Host is not a host with an optional port")
	}
	h.host = value
	return nil
}

func (h *head) noteExpect(value []byte) error {
	if h.expect != nil || !is(value, "100-continue") {
		return refuse(statusExpectationFailed, "the only expectation that is understood is 100-continue, once")
	}
	h.expect = value
	return nil
}

func (h *head) noteUpgrade(value []byte) error {
	if h.upgrade != nil {
		return refuse(statusBadRequest, "Upgrade is given twice")
	}
	if len(value) == 0 {
		return refuse(statusBadRequest, "Upgrade names no protocol")
	}
	for _, c := range value {
		if classes[c]&classToken == 0 && !within("/, \t", c) {
			return refuse(statusBadRequest, "Upgrade is not a list of protocols")
		}
	}
	h.upgrade = value
	return nil
}

// noteLength wants digits and nothing else. A second Content-Length is refused
// even when it agrees with the first, as is a list: a peer may use the other.
func (h *head) noteLength(value []byte) error {
	if h.length >= 0 {
		return refuse(statusBadRequest, "Content-Length is given twice")
	}
	n, ok := decimal(value)
	if !ok {
		return refuse(statusBadRequest, "Content-Length is not a number of at most 63 bits")
	}
	h.length = n
	return nil
}

func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 19 {
		return 0, false
	}
	var u uint64 // 19 digits fit
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		u = u*10 + uint64(c-'0')
	}
	return int64(u), u < 1<<63
}

// noteEncoding looks at the value with the whitespace around it: a tab is what
// hides it from some parsers and not from others.
func (h *head) noteEncoding(raw []byte) error {
	if h.chunked || bytes.IndexByte(raw, '\t') >= 0 || !is(trim(raw), "chunked") {
		return refuse(statusNotImplemented, "the only Transfer-Encoding that is understood is chunked, once")
	}
	h.chunked = true
	return nil
}

// noteTrailer refuses what must not stand in a trailer section.
func noteTrailer(value []byte) error {
	for len(value) > 0 {
		var name []byte
		if name, value = element(value); forbiddenTrailer(name) {
			return refuse(statusBadRequest, "Trailer names a field that must not be one")
		}
	}
	return nil
}

func forbiddenTrailer(name []byte) bool {
	return is(name, "content-length") || is(name, "transfer-encoding") || is(name, "trailer") || is(name, "host")
}

func (h *head) noteConnection(value []byte) error {
	for len(value) > 0 {
		var o []byte
		o, value = element(value)
		if h.options++; h.options > maxOptions {
			return refuse(statusBadRequest, "Connection has too many options")
		}
		switch {
		case is(o, "close"):
			h.close = true
		case is(o, "keep-alive"):
			h.keepAlive = true
		case is(o, "upgrade"):
			h.upgrades = true
		case is(o, "host") || is(o, "content-length"):
			return refuse(statusBadRequest, "Connection names a field that is for every recipient")
		case !all(o, classToken):
			return refuse(statusBadRequest, "Connection is not a list of options")
		case len(o) > 0:
			h.named = true
		}
	}
	return nil
}

// element cuts the first element off a comma-separated list.
func element(list []byte) (first, rest []byte) {
	if i := bytes.IndexByte(list, ','); i >= 0 {
		return trim(list[:i]), list[i+1:]
	}
	return trim(list), nil
}

// markNamed marks the fields that Connection names.
func (h *head) markNamed(fs []Field) {
	if !h.named {
		return
	}
	for i := range fs {
		if !is(fs[i].Name, "connection") {
			continue
		}
		for list := fs[i].Value; len(list) > 0; {
			var o []byte
			o, list = element(list)
			for j := range fs {
				if len(fs[j].Name) == len(o) && equalFold(fs[j].Name, o) {
					fs[j].Hop = true
				}
			}
		}
	}
}

// closes reports whether the connection ends after the message.
func (h *head) closes(minor int) bool { return h.close || minor == 0 && !h.keepAlive }

// protocol is what Upgrade names, where it counts.
func (h *head) protocol(minor int) []byte {
	if minor == 1 && h.upgrades {
		return h.upgrade
	}
	return nil
}
