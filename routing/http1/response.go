package http1

// Response is the head of a response. It is used for one after the other; its
// slices are valid as long as those of its fields.
type Response struct {
	Status int
	Reason []byte
	Minor  int // the version is HTTP/1.Minor, 0 or 1
	Fields []Field

	Body BodyKind
	// Length is that of a body with a length, or the one which an answer to
	// HEAD or a 304 states for a body that it does not have.
	Length int64
	// Close says that the connection can not be used for another request.
	Close bool
	// Upgrade is the value of Upgrade where Connection names it, in HTTP/1.1.
	Upgrade []byte
}

// ParseResponse parses the head of a response at the beginning of b, within the
// default limits, and returns how many bytes it has. How the body is framed
// depends on the method that is answered. The error is ErrShort where more
// bytes are needed, or an *Error with status 502.
func ParseResponse(b, requestMethod []byte, r *Response) (n int, err error) {
	return parseResponse(b, requestMethod, r, &standard)
}

func parseResponse(b, method []byte, r *Response, l *Limits) (int, error) {
	n, err := r.parse(b, method, l)
	if e, ok := err.(*Error); ok {
		e.Status = statusBadGateway
	}
	return n, err
}

func (r *Response) parse(b, method []byte, l *Limits) (int, error) {
	*r = Response{Fields: r.Fields[:0]}
	full := len(b) >= l.MaxHead
	b = b[:min(len(b), l.MaxHead)]
	line, err := r.parseLine(b)
	h := head{response: true}
	var n int
	if err == nil {
		r.Fields, n, err = h.parseFields(b[line:], r.Fields, l.MaxFields)
	}
	if err == ErrShort && full {
		err = refuse(statusBadGateway, "the head is too large")
	}
	if err != nil {
		return 0, err
	}
	if err := r.settle(&h, method); err != nil {
		return 0, err
	}
	return line + n, nil
}

// parseLine parses "HTTP/1.1 200 OK". The space before a missing reason may be
// missing too, as it often is: nothing depends on it.
func (r *Response) parseLine(b []byte) (int, error) {
	const version = "HTTP/1."
	for i := range min(len(b), len(version)) {
		if b[i] != version[i] {
			return 0, refuse(statusBadGateway, "the status line does not begin with HTTP/1.0 or HTTP/1.1")
		}
	}
	const code = len("HTTP/1.1 ")
	if len(b) < code+4 {
		return 0, ErrShort
	}
	if b[7] != '0' && b[7] != '1' || b[8] != ' ' {
		return 0, refuse(statusBadGateway, "the status line does not begin with HTTP/1.0 or HTTP/1.1")
	}
	r.Minor = int(b[7] - '0')
	status, ok := decimal(b[code : code+3])
	if !ok || status < 100 || status > 599 || b[code+3] != ' ' && b[code+3] != '\r' {
		return 0, refuse(statusBadGateway, "the status is not a number from 100 to 599")
	}
	r.Status = int(status)
	from := code + 3
	if b[from] == ' ' {
		from++
	}
	end := control(b, from)
	for end < len(b) && b[end] == '\t' {
		end = control(b, end+1)
	}
	n, err := lineBreak(b, end)
	if err == nil {
		r.Reason = b[from:end:end]
	}
	return n, err
}

// settle finds out how the body is framed (RFC 9112 §6.3).
func (r *Response) settle(h *head, method []byte) error {
	if h.chunked && h.length >= 0 {
		return refuse(statusBadGateway, "both Transfer-Encoding and Content-Length are given")
	}
	if h.chunked && r.Minor == 0 {
		return refuse(statusBadGateway, "HTTP/1.0 has no Transfer-Encoding")
	}
	r.Close = h.closes(r.Minor)
	r.Upgrade = h.protocol(r.Minor)
	h.markNamed(r.Fields)
	switch {
	case r.Status < 200 || r.Status == 204:
		return r.settleEmpty(h)
	case string(method) == "CONNECT" && r.Status < 300:
		// A tunnel follows, whatever the fields say.
		r.Close = true
		h.dropLength(r.Fields)
	case string(method) == "HEAD" || r.Status == 304:
		r.Length = max(h.length, 0)
	case h.chunked:
		r.Body = BodyChunked
	case h.length > 0:
		r.Body, r.Length = BodyLength, h.length
	case h.length < 0:
		r.Body, r.Close = BodyUntilClose, true
	}
	return nil
}

// settleEmpty is about a status that has no body and must not announce one. A
// length of zero is harmless and common; it is not passed on.
func (r *Response) settleEmpty(h *head) error {
	if h.chunked || h.length > 0 {
		return refuse(statusBadGateway, "a body is announced where the status allows none")
	}
	h.dropLength(r.Fields)
	if r.Status == 101 {
		if r.Upgrade == nil {
			return refuse(statusBadGateway, "101 does not say which protocol follows")
		}
		r.Close = true
	}
	return nil
}

func (h *head) dropLength(fs []Field) {
	if h.length >= 0 {
		fs[h.lengthAt].Hop = true
	}
}
