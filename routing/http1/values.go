package http1

import (
	"bytes"
	"strconv"
)

// Lookup finds the value of the first field of a name, in any case. It is nil
// where there is none.
func Lookup(fields []Field, name string) []byte {
	for i := range fields {
		if EqualName(fields[i].Name, name) {
			return fields[i].Value
		}
	}
	return nil
}

// EqualName compares a field name with another, in any case.
func EqualName(name []byte, other string) bool {
	if len(name) != len(other) {
		return false
	}
	for i := range name {
		if lower[name[i]] != lower[other[i]] {
			return false
		}
	}
	return true
}

func equalFold(a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if lower[a[i]] != lower[b[i]] {
			return false
		}
	}
	return true
}

// CookieValue finds the first cookie of a name among all Cookie fields, without
// the quotes around it. A value with a byte that no cookie has is passed over.
// It is nil where there is none.
func CookieValue(fields []Field, name string) []byte {
	for i := range fields {
		if len(fields[i].Name) != len("cookie") || !is(fields[i].Name, "cookie") {
			continue
		}
		for list := fields[i].Value; len(list) > 0; {
			pair := list
			if end := bytes.IndexByte(list, ';'); end >= 0 {
				pair, list = list[:end], list[end+1:]
			} else {
				list = nil
			}
			pair = trim(pair)
			if len(pair) <= len(name) || pair[len(name)] != '=' || string(pair[:len(name)]) != name {
				continue
			}
			if v := unquote(pair[len(name)+1:]); all(v, classCookie) {
				return v
			}
		}
	}
	return nil
}

func unquote(b []byte) []byte {
	if n := len(b); n >= 2 && b[0] == '"' && b[n-1] == '"' {
		return b[1 : n-1]
	}
	return b
}

// QueryValue finds the first parameter of a name in a query. Names and values
// are compared and returned as they are written, with their percent signs. It
// is nil where there is none, and empty for a parameter without a value.
func QueryValue(query []byte, name string) []byte {
	for len(query) > 0 {
		pair := query
		if end := bytes.IndexByte(query, '&'); end >= 0 {
			pair, query = query[:end], query[end+1:]
		} else {
			query = nil
		}
		if len(pair) < len(name) || string(pair[:len(name)]) != name {
			continue
		}
		switch value := pair[len(name):]; {
		case len(value) == 0 && len(name) > 0:
			return value
		case len(value) > 0 && value[0] == '=':
			return value[1:]
		}
	}
	return nil
}

// AppendInt appends a number in decimal digits.
func AppendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// AppendStatusLine appends the first line of an HTTP/1.1 response. An empty
// reason becomes the usual one for the status.
func AppendStatusLine(b []byte, status int, reason []byte) []byte {
	b = append(b, "HTTP/1.1 "...)
	b = AppendInt(b, int64(status))
	b = append(b, ' ')
	if len(reason) > 0 {
		b = append(b, reason...)
	} else {
		b = append(b, StatusText(status)...)
	}
	return append(b, "\r\n"...)
}

// AppendRequestLine appends the first line of an HTTP/1.1 request.
func AppendRequestLine(b, method, target []byte) []byte {
	b = append(append(b, method...), ' ')
	return append(append(b, target...), " HTTP/1.1\r\n"...)
}

// AppendField appends a field line. The caller answers for the name and value:
// they are written as they are.
func AppendField[N, V ~[]byte | ~string](b []byte, name N, value V) []byte {
	b = append(append(b, name...), ": "...)
	return append(append(b, value...), "\r\n"...)
}

// StatusText is the usual reason for a status that a proxy gives by itself, or
// "" for others.
func StatusText(status int) string {
	switch status {
	case 100:
		return "Continue"
	case 101:
		return "Switching Protocols"
	case 200:
		return "OK"
	case 204:
		return "No Content"
	case 301:
		return "Moved Permanently"
	case 302:
		return "Found"
	case 304:
		return "Not Modified"
	case 307:
		return "Temporary Redirect"
	case 308:
		return "Permanent Redirect"
	case statusBadRequest:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 404:
		return "Not Found"
	case 405:
		return "Method Not Allowed"
	case 408:
		return "Request Timeout"
	case statusTooLarge:
		return "Content Too Large"
	case statusTargetTooLong:
		return "URI Too Long"
	case statusExpectationFailed:
		return "Expectation Failed"
	case 421:
		return "Misdirected Request"
	case 429:
		return "Too Many Requests"
	case statusHeadTooLarge:
		return "Request Header Fields Too Large"
	case 500:
		return "Internal Server Error"
	case statusNotImplemented:
		return "Not Implemented"
	case statusBadGateway:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 504:
		return "Gateway Timeout"
	case statusBadVersion:
		return "HTTP Version Not Supported"
	}
	return ""
}
