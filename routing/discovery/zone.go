package discovery

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/miekg/dns"

	"github.com/pacelinehq/paceline/fsm"
)

// zone turns names into what the state has of them:
//
//	<domain>                     SOA, NS
//	<group>.<domain>             A, AAAA, SRV of the endpoints that pass
//	_<group>._tcp.<domain>       SRV
//	<instance>.<group>.<domain>  A or AAAA of one endpoint, passing or not
//	<node>.node.<domain>         A or AAAA of a node
type zone struct {
	domain string // in lower case, with its dot at the end
	labels int    // of domain
	node   string
	ttl    uint32

	services *services
}

// Names below the domain that no group's endpoints stand at.
const (
	nodeLabel = "node"
	tcpLabel  = "_tcp"
)

func newZone(cfg Config) zone {
	domain := dns.CanonicalName(cfg.Domain)
	return zone{
		domain: domain, labels: dns.CountLabel(domain), node: cfg.Node,
		ttl: uint32(cfg.TTL.Seconds()), services: &services{kept: map[string]*service{}},
	}
}

// relative returns the labels of a name below the domain, in lower case.
func (z *zone) relative(name string) ([]string, bool) {
	name = dns.CanonicalName(name)
	if !dns.IsSubDomain(z.domain, name) {
		return nil, false
	}
	labels := dns.SplitDomainName(name)
	return labels[:len(labels)-z.labels], true
}

// name makes a name below the domain.
func (z *zone) name(labels ...string) string { return strings.Join(labels, ".") + "." + z.domain }

// records is what stands at a name.
type records struct {
	z         *zone
	exists    bool // the name, or one below it
	apex      bool
	group     string
	endpoints []target // what A, AAAA and SRV are made of
	srvOnly   bool
	srv       bool
	state     *fsm.State
}

// find looks a name up.
func (z *zone) find(s *fsm.State, name []string) records {
	r := records{z: z, state: s}
	switch len(name) {
	case 0:
		r.exists, r.apex = true, true
	case 1:
		r.exists = name[0] == nodeLabel || name[0] == tcpLabel
		z.findGroup(&r, name[0])
	case 2:
		if group, ok := strings.CutPrefix(name[0], "_"); ok && name[1] == tcpLabel {
			z.findGroup(&r, group)
			r.srvOnly = true
			break
		}
		if n, ok := s.Nodes.Get(name[0]); ok && name[1] == nodeLabel {
			r.exists = true
			if t, ok := targetOf(n.API); ok {
				r.endpoints = []target{t}
			}
			break
		}
		if t, ok := z.findInstance(s, name[1], name[0]); ok {
			r.exists, r.endpoints = true, []target{t}
		}
	}
	return r
}

func (z *zone) findGroup(r *records, group string) {
	if r.state.Groups.Has(group) {
		r.exists, r.srv, r.group = true, true, group
		r.endpoints = pick(z.services.of(r.state, group))
	}
}

// findInstance looks for an endpoint by its id, which DNS may have changed the
// case of.
func (z *zone) findInstance(s *fsm.State, group, label string) (target, bool) {
	for _, id := range []string{strings.ToUpper(label), label} {
		i, ok := s.Instances.Get(id)
		if !ok || i.Group != group {
			continue
		}
		if e, ok := i.Endpoint(); ok {
			return targetOf(e.Address)
		}
	}
	return target{}, false
}

// answer adds the records that a question asks for. Names are answered in the
// case that they were asked in: clients compare it.
func (r *records) answer(m *dns.Msg, q *dns.Question) {
	z := r.z
	if r.apex {
		switch q.Qtype {
		case dns.TypeSOA:
			m.Answer = []dns.RR{z.soa(q.Name, r.state)}
		case dns.TypeNS:
			m.Answer = []dns.RR{&dns.NS{Hdr: z.header(q.Name, dns.TypeNS), Ns: z.name(z.node, nodeLabel)}}
			if n, ok := r.state.Nodes.Get(z.node); ok {
				if t, ok := targetOf(n.API); ok {
					m.Extra = appendAddress(z, m.Extra, z.name(z.node, nodeLabel), &t, dns.TypeANY)
				}
			}
		}
	}
	if q.Qtype == dns.TypeANY && r.exists {
		// RFC 8482: one small record, so that ANY is no means to flood others.
		m.Answer = []dns.RR{&dns.HINFO{Hdr: z.header(q.Name, dns.TypeHINFO), Cpu: "RFC8482"}}
		return
	}
	for i := range r.endpoints {
		t := &r.endpoints[i]
		switch {
		case q.Qtype == dns.TypeSRV && r.srv:
			host := t.host
			if t.ip.IsValid() {
				host = z.name(t.instance, r.group)
				m.Extra = appendAddress(z, m.Extra, host, t, dns.TypeANY)
			}
			m.Answer = append(m.Answer, &dns.SRV{Hdr: z.header(q.Name, dns.TypeSRV), Priority: 1, Weight: t.weight, Port: t.port, Target: host})
		case t.host != "" && !r.srv:
			// An instance or node that is known by a name only. Its name is an alias,
			// whatever is asked for (RFC 1034, 3.6.2).
			m.Answer = append(m.Answer, &dns.CNAME{Hdr: z.header(q.Name, dns.TypeCNAME), Target: t.host})
		case !r.srvOnly && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA):
			m.Answer = appendAddress(z, m.Answer, q.Name, t, q.Qtype)
		}
	}
}

// appendAddress adds the A or AAAA record of a target if it is of a type.
func appendAddress(z *zone, list []dns.RR, name string, t *target, typ uint16) []dns.RR {
	switch {
	case t.ip.Is4() && (typ == dns.TypeA || typ == dns.TypeANY):
		return append(list, &dns.A{Hdr: z.header(name, dns.TypeA), A: t.ip.AsSlice()})
	case t.ip.Is6() && (typ == dns.TypeAAAA || typ == dns.TypeANY):
		return append(list, &dns.AAAA{Hdr: z.header(name, dns.TypeAAAA), AAAA: t.ip.AsSlice()})
	}
	return list
}

func (z *zone) header(name string, typ uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: typ, Class: dns.ClassINET, Ttl: z.ttl}
}

// soa is also what says how long "there is none" may be kept. Its serial is
// the index of the state, so that it is the same on every node.
func (z *zone) soa(name string, s *fsm.State) dns.RR {
	return &dns.SOA{
		Hdr: z.header(name, dns.TypeSOA), Ns: z.name(z.node, nodeLabel), Mbox: z.name("hostmaster"),
		Serial: uint32(s.Index()), Refresh: 3600, Retry: 600, Expire: 86400, Minttl: z.ttl,
	}
}

// target is an endpoint as DNS tells it.
type target struct {
	instance string // as a label
	ip       netip.Addr
	host     string // instead of ip, a name with its dot at the end
	port     uint16
	weight   uint16
}

func targetOf(address string) (t target, ok bool) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return target{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return target{}, false
	}
	t.port = uint16(n)
	if ip, err := netip.ParseAddr(host); err == nil {
		t.ip = ip.Unmap().WithZone("")
		return t, !t.ip.IsUnspecified()
	}
	t.host = dns.CanonicalName(host)
	_, ok = dns.IsDomainName(t.host)
	return t, ok && host != ""
}

// services keeps the passing endpoints of services ready, by the index of each.
type services struct {
	mu   sync.RWMutex
	kept map[string]*service
}

type service struct {
	index   uint64
	targets []target
}

// of returns the passing endpoints of a group. They are shared.
func (c *services) of(s *fsm.State, group string) []target {
	row, indexed := s.ServiceIndexes.Get(group)
	if indexed {
		c.mu.RLock()
		v := c.kept[group]
		c.mu.RUnlock()
		if v != nil && v.index == row.Index {
			return v.targets
		}
	}
	v := &service{}
	for _, i := range s.InstancesOf(group) {
		e, ok := i.Endpoint()
		if !ok || e.Draining || e.Health != fsm.Healthy {
			continue
		}
		if t, ok := targetOf(e.Address); ok {
			node, _ := s.Nodes.Get(e.Node)
			t.instance, t.weight = strings.ToLower(e.Instance), uint16(node.Weight())
			v.targets = append(v.targets, t)
		}
	}
	if indexed {
		v.index = row.Index
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.kept) >= maxServicesKept {
			c.kept = map[string]*service{}
		}
		c.kept[group] = v
	}
	return v.targets
}

// pick returns at most [MaxRecords] of the targets, in an order of chance:
// many clients take the first.
func pick(all []target) []target {
	list := slices.Clone(all)
	n := min(len(list), MaxRecords)
	for i := range n {
		j := i + rand.IntN(len(list)-i)
		list[i], list[j] = list[j], list[i]
	}
	return list[:n]
}
