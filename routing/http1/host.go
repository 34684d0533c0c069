package http1

import (
	"bytes"
	"net/netip"
)

// validHost accepts a name, an IPv4 address or an IPv6 address in brackets, and
// a port. The syntax of URIs allows more, which no host is called by.
func validHost(b []byte) bool {
	host, port := b, []byte(nil)
	if len(b) > 0 && b[0] == '[' {
		end := bytes.IndexByte(b, ']')
		if end < 0 || !validIPv6(b[1:end]) {
			return false
		}
		if end+1 == len(b) {
			return true
		}
		return b[end+1] == ':' && validPort(b[end+2:])
	}
	if i := bytes.IndexByte(b, ':'); i >= 0 {
		if host, port = b[:i], b[i+1:]; !validPort(port) {
			return false
		}
	}
	return len(host) > 0 && all(host, classHost)
}

// validIPv6 may allocate, which such a rare host is worth.
func validIPv6(b []byte) bool {
	if len(b) > len("0000:0000:0000:0000:0000:ffff:255.255.255.255") || bytes.IndexByte(b, '%') >= 0 {
		return false
	}
	a, err := netip.ParseAddr(string(b))
	return err == nil && a.Is6()
}

func validPort(b []byte) bool {
	n, ok := decimal(b)
	return ok && len(b) <= 5 && n <= 65535
}

func hasPort(host []byte) bool {
	i := bytes.LastIndexByte(host, ':')
	return i >= 0 && bytes.IndexByte(host[i:], ']') < 0
}
