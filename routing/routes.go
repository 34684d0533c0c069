package routing

import (
	"cmp"
	"iter"
	"slices"
	"strings"

	"github.com/pacelinehq/paceline/fsm"
)

// Shared is the port under which [Routes] know the shared listener.
const Shared = 0

// Routes finds the group that a request is for. It is immutable and safe for
// concurrent use.
//
// A request belongs to the service that names its host, then to one that names
// a wildcard for it, then to one for any host; among those, to the one with
// the longest path prefix.
type Routes struct {
	ports map[int]*portRoutes
}

// portRoutes are the routes of one listener.
type portRoutes struct {
	tcp      string // the group of a tcp listener
	exact    map[string][]prefixRoute
	wildcard map[string][]prefixRoute // by the name after "*."
	any      []prefixRoute
}

// prefixRoute leads from a path prefix to a group. The prefix has no slash at
// its end.
type prefixRoute struct {
	prefix string
	group  string
}

// NewRoutes indexes the services of all groups. The state refuses services
// that overlap; should two do so none the less, the first group by name wins.
func NewRoutes(groups iter.Seq2[string, *fsm.Group]) *Routes {
	r := &Routes{ports: map[int]*portRoutes{}}
	for name, g := range groups {
		if g.Service == nil {
			continue
		}
		s := g.Service.WithDefaults()
		for _, l := range s.Listeners {
			r.add(l, &s, name)
		}
	}
	for _, p := range r.ports {
		p.sort()
	}
	return r
}

func (r *Routes) add(l fsm.Listener, s *fsm.Service, group string) {
	p := r.ports[l.Port]
	if p == nil {
		p = &portRoutes{exact: map[string][]prefixRoute{}, wildcard: map[string][]prefixRoute{}}
		r.ports[l.Port] = p
	}
	if l.Protocol == fsm.ProtocolTCP {
		if p.tcp == "" {
			p.tcp = group
		}
		return
	}
	route := prefixRoute{strings.TrimRight(s.PathPrefix, "/"), group}
	if len(s.Hosts) == 0 {
		p.any = append(p.any, route)
	}
	for _, h := range s.Hosts {
		if name, wild := strings.CutPrefix(h, "*."); wild {
			p.wildcard[name] = append(p.wildcard[name], route)
			continue
		}
		p.exact[h] = append(p.exact[h], route)
	}
}

// sort puts the longest prefixes first; the order of equal ones stays.
func (p *portRoutes) sort() {
	longest := func(a, b prefixRoute) int { return cmp.Compare(len(b.prefix), len(a.prefix)) }
	slices.SortStableFunc(p.any, longest)
	for _, m := range []map[string][]prefixRoute{p.exact, p.wildcard} {
		for _, list := range m {
			slices.SortStableFunc(list, longest)
		}
	}
}

// Ports lists the ports of listeners of their own, in order, each with its
// protocol.
func (r *Routes) Ports() []fsm.Listener {
	var list []fsm.Listener
	for port, p := range r.ports {
		if port == Shared {
			continue
		}
		l := fsm.Listener{Port: port, Protocol: fsm.ProtocolHTTP}
		if p.tcp != "" {
			l.Protocol = fsm.ProtocolTCP
		}
		list = append(list, l)
	}
	slices.SortFunc(list, func(a, b fsm.Listener) int { return cmp.Compare(a.Port, b.Port) })
	return list
}

// TCP returns the group of a tcp listener.
func (r *Routes) TCP(port int) (group string, ok bool) {
	p := r.ports[port]
	if p == nil || p.tcp == "" {
		return "", false
	}
	return p.tcp, true
}

// maxHost is the longest host name that can match anything.
const maxHost = 255

// HTTP returns the group that a request on a listener is for. host is the
// value of the Host field, of any case and with or without a port; path is the
// request's path as it was sent. It does not allocate.
func (r *Routes) HTTP(port int, host, path []byte) (group string, ok bool) {
	p := r.ports[port]
	if p == nil {
		return "", false
	}
	if len(p.exact)+len(p.wildcard) > 0 {
		var buf [maxHost]byte
		name := hostName(buf[:0], host)
		if group, ok = match(p.exact[string(name)], path); ok {
			return group, true
		}
		if dot := slices.Index(name, '.'); dot > 0 {
			if group, ok = match(p.wildcard[string(name[dot+1:])], path); ok {
				return group, true
			}
		}
	}
	return match(p.any, path)
}

// hostName appends a host in lower case, without its port and without the dot
// at the end of a fully qualified name.
func hostName(dst, host []byte) []byte {
	if len(host) > 0 && host[0] != '[' { // not an IPv6 literal
		if colon := slices.Index(host, ':'); colon >= 0 {
			host = host[:colon]
		}
	}
	if n := len(host); n > 0 && host[n-1] == '.' {
		host = host[:n-1]
	}
	if len(host) > maxHost {
		return dst
	}
	for _, c := range host {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		dst = append(dst, c)
	}
	return dst
}

// match returns the first route whose prefix is the path's, up to a slash or
// the path's end.
func match(list []prefixRoute, path []byte) (string, bool) {
	for k := range list {
		n := len(list[k].prefix)
		if len(path) >= n && string(path[:n]) == list[k].prefix && (len(path) == n || path[n] == '/' || n == 0) {
			return list[k].group, true
		}
	}
	return "", false
}
