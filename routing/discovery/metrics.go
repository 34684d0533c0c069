package discovery

import (
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics count queries. Every series exists from the start, at zero.
type metrics struct {
	queries   *prometheus.CounterVec
	malformed prometheus.Counter
	busy      prometheus.Counter
	truncated prometheus.Counter
}

// otherLabel stands for the types and codes that are not told apart: clients
// choose them, and must not be able to make series.
const otherLabel = "other"

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "paceline_dns_dropped_total", Help: "Packets that got no answer or a format error: malformed, or more than are answered at one time.",
	}, []string{"reason"})
	m := &metrics{
		queries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "paceline_dns_queries_total", Help: "DNS queries answered, by type and response code.",
		}, []string{"type", "rcode"}),
		malformed: dropped.WithLabelValues("malformed"),
		busy:      dropped.WithLabelValues("busy"),
		truncated: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "paceline_dns_truncated_total", Help: "Answers cut short, for the client to ask again by TCP.",
		}),
	}
	for _, c := range []prometheus.Collector{m.queries, dropped, m.truncated} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for _, typ := range []string{"A", "AAAA", "SRV", "SOA", "NS", "ANY", otherLabel} {
		for _, code := range []string{"NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", otherLabel} {
			m.queries.WithLabelValues(typ, code)
		}
	}
	return m, nil
}

func (m *metrics) count(req, resp *dns.Msg) {
	typ, code := otherLabel, otherLabel
	if len(req.Question) == 1 {
		switch t := req.Question[0].Qtype; t {
		case dns.TypeA, dns.TypeAAAA, dns.TypeSRV, dns.TypeSOA, dns.TypeNS, dns.TypeANY:
			typ = dns.TypeToString[t]
		}
	}
	switch resp.Rcode {
	case dns.RcodeSuccess, dns.RcodeFormatError, dns.RcodeServerFailure, dns.RcodeNameError, dns.RcodeNotImplemented, dns.RcodeRefused:
		code = dns.RcodeToString[resp.Rcode]
	}
	m.queries.WithLabelValues(typ, code).Inc()
	if resp.Truncated {
		m.truncated.Inc()
	}
}
