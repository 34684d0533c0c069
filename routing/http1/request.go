package http1

import "bytes"

// Request is the head of a request. It is used for one after the other; its
// slices are valid as long as those of its fields.
type Request struct {
	Method, Target []byte // as received
	// Path and Query are those of the target. Both are nil for "*" and for the
	// authority that a CONNECT has. Path is "/" where the target has none.
	Path, Query []byte
	// Host is the value of Host or the authority of the target, which agree
	// where both are given. It is nil only for an HTTP/1.0 request with neither.
	Host   []byte
	Minor  int // the version is HTTP/1.Minor, 0 or 1
	Fields []Field

	Body   BodyKind
	Length int64 // of a body with a length
	// Close says that the connection ends after this message.
	Close bool
	// Upgrade is the value of Upgrade where Connection names it, in HTTP/1.1.
	Upgrade []byte
	// ExpectContinue says that the client may wait for a 100 before it sends
	// the body that it has announced.
	ExpectContinue bool
}

// ParseRequest parses the head of a request at the beginning of b, within the
// default limits, and returns how many bytes it has. The error is ErrShort
// where more bytes are needed, or an *Error.
func ParseRequest(b []byte, r *Request) (n int, err error) {
	return parseRequest(b, r, &standard)
}

func parseRequest(b []byte, r *Request, l *Limits) (int, error) {
	full := len(b) >= l.MaxHead
	b = b[:min(len(b), l.MaxHead)]
	r.reset()
	line, err := r.parseLine(b, min(l.MaxTarget+lineRest, l.MaxHead))
	if err != nil {
		return 0, err
	}
	if len(r.Target) > l.MaxTarget {
		return 0, refuse(statusTargetTooLong, "the target is too long")
	}
	var h head
	fs, n, err := h.parseFields(b[line:], r.Fields, l.MaxFields)
	r.Fields = fs
	if err == ErrShort && full {
		err = refuse(statusHeadTooLarge, "the head is too large")
	}
	if err != nil {
		return 0, err
	}
	if err := r.settle(&h); err != nil {
		return 0, err
	}
	return line + n, nil
}

func (r *Request) reset() { *r = Request{Fields: r.Fields[:0]} }

// parseLine parses the first line, of which no more than window bytes are
// looked at.
func (r *Request) parseLine(b []byte, window int) (int, error) {
	full := len(b) >= window
	b = b[:min(len(b), window)]
	n, err := r.splitLine(b)
	if err == ErrShort && full {
		return 0, refuse(statusTargetTooLong, "the request line is too long")
	}
	return n, err
}

func (r *Request) splitLine(b []byte) (int, error) {
	i := 0
	for i < len(b) && i <= maxMethod && classes[b[i]]&classMethod != 0 {
		i++
	}
	switch {
	case i > maxMethod:
		return 0, refuse(statusNotImplemented, "the method is too long")
	case i == len(b):
		return 0, ErrShort
	case b[i] != ' ' || i == 0:
		return 0, refuse(statusBadRequest, "the method is not a token in capitals")
	}
	end := targetEnd(b, i+1)
	if end == len(b) {
		return 0, ErrShort
	}
	r.Method, r.Target = b[:i:i], b[i+1:end:end]
	if b[end] != ' ' || len(r.Target) == 0 {
		return 0, badTarget(r.Target, b[end])
	}
	rest := b[end+1:]
	if len(rest) >= 10 && string(rest[:10]) == "HTTP/1.1\r\n" {
		r.Minor = 1
		return end + 11, nil
	}
	return r.parseVersion(b, end+1)
}

func badTarget(target []byte, next byte) error {
	switch {
	case next == '#':
		return refuse(statusBadRequest, "the target has a fragment")
	case next == '\r' && len(target) > 0:
		return refuse(statusBadVersion, "the request line has no version, as in HTTP/0.9")
	case next == ' ':
		return refuse(statusBadRequest, "there is more than one space between the parts of the request line")
	case next == '\n':
		return refuse(statusBadRequest, "a line ends with a bare LF")
	case next >= 0x80:
		return refuse(statusBadRequest, "the target has a byte that is not ASCII")
	case len(target) == 0:
		return refuse(statusBadRequest, "the target is empty")
	}
	return refuse(statusBadRequest, "the target has a control character")
}

// parseVersion looks at what is behind the target when it is not HTTP/1.1.
func (r *Request) parseVersion(b []byte, from int) (int, error) {
	rest := b[from:]
	end := bytes.IndexByte(rest[:min(len(rest), maxVersion)], '\n')
	if end < 0 {
		if len(rest) < maxVersion {
			return 0, ErrShort
		}
		return 0, refuse(statusBadRequest, "the request line does not end with a version")
	}
	if end == 0 || rest[end-1] != '\r' {
		return 0, refuse(statusBadRequest, "a line ends with a bare LF")
	}
	version := rest[:end-1]
	if string(version) == "HTTP/1.0" {
		return from + end + 1, nil
	}
	digits, ok := bytes.CutPrefix(version, []byte("HTTP/"))
	if ok && len(digits) > 0 && len(bytes.Trim(digits, "0123456789.")) == 0 {
		return 0, refuse(statusBadVersion, "the version is not HTTP/1.0 or HTTP/1.1")
	}
	return 0, refuse(statusBadRequest, "the request line does not end with a version")
}

// settle holds the parts of a head against each other.
func (r *Request) settle(h *head) error {
	if err := r.settleTarget(h); err != nil {
		return err
	}
	if r.Minor == 1 && h.host == nil {
		return refuse(statusBadRequest, "Host is missing")
	}
	switch {
	case h.chunked && h.length >= 0:
		return refuse(statusBadRequest, "both Transfer-Encoding and Content-Length are given")
	case h.chunked && r.Minor == 0:
		return refuse(statusBadRequest, "HTTP/1.0 has no Transfer-Encoding")
	case h.chunked:
		r.Body = BodyChunked
	case h.length > 0:
		r.Body, r.Length = BodyLength, h.length
	}
	if (h.chunked || h.length >= 0) && string(r.Method) == "CONNECT" {
		return refuse(statusBadRequest, "CONNECT has no body")
	}
	r.Close = h.closes(r.Minor)
	r.Upgrade = h.protocol(r.Minor)
	r.ExpectContinue = h.expect != nil && r.Minor == 1 && r.Body != BodyNone
	h.markNamed(r.Fields)
	return nil
}

// settleTarget takes the target apart by the form that the method asks for.
func (r *Request) settleTarget(h *head) error {
	r.Host = h.host
	connect := string(r.Method) == "CONNECT"
	switch t := r.Target; {
	case connect:
		if !validHost(t) || !hasPort(t) {
			return refuse(statusBadRequest, "the target of CONNECT is not a host and a port")
		}
		return r.authority(t)
	case t[0] == '/':
		return r.splitPath(t)
	case len(t) == 1 && t[0] == '*':
		if string(r.Method) != "OPTIONS" {
			return refuse(statusBadRequest, "the target * is for OPTIONS only")
		}
		return nil
	}
	return r.absolute()
}

func (r *Request) absolute() error {
	t := r.Target
	slashes := bytes.IndexByte(t, ':') + 1
	if scheme := t[:max(slashes-1, 0)]; !is(scheme, "http") && !is(scheme, "https") {
		return refuse(statusBadRequest, "the target is neither a path nor an http URI")
	}
	rest := t[slashes:]
	if len(rest) < 2 || rest[0] != '/' || rest[1] != '/' {
		return refuse(statusBadRequest, "the target is neither a path nor an http URI")
	}
	slash, rest := rest[:1:1], rest[2:]
	end := bytes.IndexAny(rest, "/?")
	if end < 0 {
		end = len(rest)
	}
	host := rest[:end:end]
	if !validHost(host) {
		return refuse(statusBadRequest, "the authority of the target is not a host with an optional port")
	}
	if err := r.authority(host); err != nil {
		return err
	}
	if end == len(rest) || rest[end] == '?' {
		r.Path = slash
		if end < len(rest) {
			r.Query = rest[end+1:]
		}
		return nil
	}
	return r.splitPath(rest[end:])
}

// authority replaces Host, which says the same where it is given.
func (r *Request) authority(host []byte) error {
	if r.Host != nil && !equalFold(r.Host, host) {
		return refuse(statusBadRequest, "Host differs from the authority of the target")
	}
	r.Host = host
	return nil
}

func (r *Request) splitPath(b []byte) error {
	r.Path = b
	if i := bytes.IndexByte(b, '?'); i >= 0 {
		r.Path, r.Query = b[:i:i], b[i+1:]
	}
	for p := r.Path; ; {
		i := bytes.IndexByte(p, '%')
		if i < 0 {
			return nil
		}
		if p = p[i:]; len(p) < 3 || !all(p[1:3], classHex) {
			return refuse(statusBadRequest, "the path has a percent sign without two hexadecimal digits")
		}
		p = p[3:]
	}
}
