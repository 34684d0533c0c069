package proxy

import (
	"net/netip"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/http1"
)

// hashSource says what the hash policies hash.
type hashSource struct {
	kind string // "", "ip", "header", "cookie", "query"
	name string
}

func newHashSource(s *fsm.Service) hashSource {
	switch s.Balancer.Policy {
	case fsm.BalanceIPHash:
		return hashSource{kind: "ip"}
	case fsm.BalanceHash:
		kind, name, _ := strings.Cut(s.Balancer.HashOn, ":")
		return hashSource{kind: kind, name: name}
	}
	return hashSource{}
}

// of returns a request's hash: that of what the service names, or of the
// client's address when the request does not have it.
func (h *hashSource) of(client netip.Addr, req *http1.Request) uint64 {
	var v []byte
	switch h.kind {
	case "":
		return 0
	case "header":
		v = http1.Lookup(req.Fields, h.name)
	case "cookie":
		v = http1.CookieValue(req.Fields, h.name)
	case "query":
		v = http1.QueryValue(req.Query, h.name)
	}
	if v == nil {
		return hashAddr(client)
	}
	return xxh3.Hash(v)
}

func hashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return xxh3.Hash(b[:])
}
