package proxy

import (
	"bytes"
	"net/netip"
	"strconv"

	"github.com/pacelinehq/paceline/routing/http1"
)

// via names us to the instances; a request that has it came through a proxy
// of ours already.
const via = "Via: 1.1 paceline\r\n"

// appendHead appends the head of the request as the instance gets it. What
// belongs to one connection only is left out before anything is added, so that
// a client can not have our fields removed by naming them in Connection.
func (x *exchange) appendHead(b []byte) []byte {
	req := &x.w.req
	b = append(b, req.Method...)
	b = append(b, ' ')
	b = appendTarget(b, req)
	b = append(b, " HTTP/1.1\r\nHost: "...)
	b = append(b, req.Host...)
	b = append(b, "\r\n"...)
	var known forwarding
	for k := range req.Fields {
		f := &req.Fields[k]
		if f.Hop || isHost(f.Name) || known.take(f) {
			continue
		}
		if isSession(f.Name) || !x.from.trusted && forgeable(f.Name) { // written anew, or not at all
			continue
		}
		if isContentLength(f.Name) { // written anew
			if req.Body == http1.BodyNone {
				b = append(b, "Content-Length: 0\r\n"...)
			}
			continue
		}
		b = http1.AppendField(b, f.Name, f.Value)
	}
	b = x.appendFraming(b)
	b = x.from.appendForwarded(b, &known, req.Host)
	if up := x.upgrade(); len(up) > 0 {
		b = append(b, "Connection: Upgrade\r\n"...)
		b = http1.AppendField(b, "Upgrade", up)
	}
	b = x.appendSessionField(b)
	return append(b, via+"\r\n"...)
}

// forgeable tells fields that instances take for a proxy's word on the client.
// Those that we write ourselves have been taken already.
func forgeable(name []byte) bool {
	if name[0]|0x20 != 'x' {
		return false
	}
	return len(name) > len("X-Forwarded-") && http1.EqualName(name[:len("X-Forwarded-")], "X-Forwarded-") || http1.EqualName(name, "X-Real-IP")
}

// clientOf is the address that a request comes from. What a proxy of ours says
// is believed: it is the last address in X-Forwarded-For that is not another of
// them.
func (c *party) clientOf(req *http1.Request) netip.Addr {
	client := c.peer
	if !c.trusted {
		return client
	}
	for k := len(req.Fields) - 1; k >= 0; k-- {
		f := &req.Fields[k]
		if !http1.EqualName(f.Name, "X-Forwarded-For") {
			continue
		}
		list := f.Value
		for len(list) > 0 {
			comma := bytes.LastIndexByte(list, ',')
			a, err := netip.ParseAddr(string(bytes.TrimSpace(list[comma+1:])))
			if err != nil {
				return client // nothing before it can be trusted
			}
			if client = a.Unmap(); !c.p.trusts(client) {
				return client
			}
			list = list[:max(comma, 0)]
		}
	}
	return client
}

// secure reports whether the client speaks TLS, to us or to a proxy of ours.
func (x *exchange) secure() bool {
	if x.from.proto == "https" || !x.from.trusted {
		return x.from.proto == "https"
	}
	return http1.EqualName(http1.Lookup(x.w.req.Fields, "X-Forwarded-Proto"), "https")
}

// appendTarget appends the target in origin form.
func appendTarget(b []byte, req *http1.Request) []byte {
	if len(req.Target) == 1 && req.Target[0] == '*' {
		return append(b, '*')
	}
	if len(req.Path) == 0 {
		b = append(b, '/')
	}
	b = append(b, req.Path...)
	if req.Query != nil {
		b = append(b, '?')
		b = append(b, req.Query...)
	}
	return b
}

func (x *exchange) appendFraming(b []byte) []byte {
	req := &x.w.req
	switch req.Body {
	case http1.BodyLength:
		b = append(b, "Content-Length: "...)
		b = strconv.AppendInt(b, req.Length, 10)
		b = append(b, "\r\n"...)
	case http1.BodyChunked:
		b = append(b, "Transfer-Encoding: chunked\r\n"...)
	}
	return b
}

// forwarding holds the fields that tell of the proxies before us.
type forwarding struct {
	xFor, xHost, xProto, forwarded []byte
}

// take keeps a field that we write ourselves.
func (k *forwarding) take(f *http1.Field) bool {
	n := f.Name
	if len(n) < 9 || n[0]|0x20 != 'x' && n[0]|0x20 != 'f' {
		return false
	}
	var to *[]byte
	switch {
	case http1.EqualName(n, "X-Forwarded-For"):
		to = &k.xFor
	case http1.EqualName(n, "X-Forwarded-Host"):
		to = &k.xHost
	case http1.EqualName(n, "X-Forwarded-Proto"):
		to = &k.xProto
	case http1.EqualName(n, "Forwarded"):
		to = &k.forwarded
	default:
		return false
	}
	if len(*to) > 0 { // a list may stand in several fields
		*to = append(append((*to)[:len(*to):len(*to)], ", "...), f.Value...)
	} else {
		*to = f.Value
	}
	return true
}

// appendForwarded appends what the instance is told of the client: after what
// a trusted proxy said, in the place of what anybody else did.
func (c *party) appendForwarded(b []byte, k *forwarding, host []byte) []byte {
	if !c.trusted {
		*k = forwarding{}
	}
	b = append(b, "X-Forwarded-For: "...)
	if len(k.xFor) > 0 {
		b = append(append(b, k.xFor...), ", "...)
	}
	b = c.peer.AppendTo(b)
	b = append(b, "\r\nX-Forwarded-Host: "...)
	if len(k.xHost) > 0 {
		host = k.xHost
	}
	b = append(b, host...)
	b = append(b, "\r\nX-Forwarded-Proto: "...)
	if len(k.xProto) > 0 {
		b = append(b, k.xProto...)
	} else {
		b = append(b, c.proto...)
	}
	b = append(b, "\r\nForwarded: "...)
	if len(k.forwarded) > 0 {
		b = append(append(b, k.forwarded...), ", "...)
	}
	b = appendForwardedNode(append(b, "for="...), c.peer)
	b = append(append(b, ";proto="...), c.proto...)
	return append(b, "\r\n"...)
}

// appendForwardedNode appends an address as RFC 7239 wants it: one of IPv6 in
// brackets and quotes.
func appendForwardedNode(b []byte, a netip.Addr) []byte {
	if a.Is4() {
		return a.AppendTo(b)
	}
	b = append(b, "\"["...)
	return append(a.AppendTo(b), "]\""...)
}

func isHost(name []byte) bool { return len(name) == len("Host") && http1.EqualName(name, "Host") }

// isSession tells the field that names the session to the instance; what a
// client says there does not count.
func isSession(name []byte) bool {
	return len(name) == len(sessionField) && http1.EqualName(name, sessionField)
}

func isContentLength(name []byte) bool {
	return len(name) == len("Content-Length") && http1.EqualName(name, "Content-Length")
}
