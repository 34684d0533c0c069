package discovery

import (
	"github.com/miekg/dns"

	"github.com/pacelinehq/paceline/fsm"
)

// reply makes the answer to a query, cut to size.
func (s *Server) reply(req *dns.Msg, size int) *dns.Msg {
	m := new(dns.Msg).SetReply(req)
	m.Compress = true
	opts := 0
	for _, rr := range req.Extra {
		if rr.Header().Rrtype == dns.TypeOPT {
			opts++
		}
	}
	opt := req.IsEdns0()
	if opts > 1 {
		m.Rcode = dns.RcodeFormatError
		return m
	}
	if opt != nil {
		m.SetEdns0(MaxUDPSize, false)
		if opt.Version() != 0 {
			m.Rcode = dns.RcodeBadVers
			return m
		}
	}
	if size != dns.MaxMsgSize {
		size = dns.MinMsgSize
		if opt != nil {
			size = min(max(int(opt.UDPSize()), dns.MinMsgSize), MaxUDPSize)
		}
	}
	s.resolve(req, m)
	cut(m, size)
	return m
}

// cut makes a message fit. Only missing answers make the client ask again by
// TCP: the additional addresses can be asked for by their names.
func cut(m *dns.Msg, size int) {
	answers := len(m.Answer)
	m.Truncate(size)
	if len(m.Answer) == answers {
		m.Truncated = false
	}
}

// resolve fills in the answer.
func (s *Server) resolve(req, m *dns.Msg) {
	if req.Opcode != dns.OpcodeQuery {
		m.Rcode = dns.RcodeNotImplemented
		return
	}
	if len(req.Question) != 1 {
		m.Rcode = dns.RcodeFormatError
		return
	}
	q := req.Question[0]
	name, inside := s.zone.relative(q.Name)
	transfer := q.Qtype == dns.TypeAXFR || q.Qtype == dns.TypeIXFR
	if !inside || transfer || q.Qclass != dns.ClassINET && q.Qclass != dns.ClassANY {
		m.Rcode = dns.RcodeRefused
		return
	}
	state := s.cfg.Cluster.State()
	if err := s.usable(state); err != nil {
		m.Rcode = dns.RcodeServerFailure
		if opt := m.IsEdns0(); opt != nil {
			opt.Option = append(opt.Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNotReady, ExtraText: short(err.Error())})
		}
		return
	}
	m.Authoritative = true
	found := s.zone.find(state, name)
	found.answer(m, &q)
	switch {
	case !found.exists:
		m.Rcode = dns.RcodeNameError
		fallthrough
	case len(m.Answer) == 0:
		m.Ns = []dns.RR{s.zone.soa(s.zone.domain, state)}
	}
}

// usable says why a state can not be answered from.
func (s *Server) usable(state *fsm.State) error {
	if state.ClusterID() == "" {
		return fsm.Errorf(fsm.Unavailable, "node", s.cfg.Node, "has not joined a cluster yet")
	}
	if s.cfg.Ready != nil {
		return s.cfg.Ready()
	}
	return nil
}

func short(text string) string { return text[:min(len(text), maxErrorText)] }
