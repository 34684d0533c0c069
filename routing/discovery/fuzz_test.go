package discovery_test

import (
	"net"
	"testing"

	"github.com/miekg/dns"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/discovery"
)

// FuzzMessage answers any query that can be parsed: the answer is one, to that
// question, and not larger than its client takes.
func FuzzMessage(f *testing.F) {
	for _, m := range []*dns.Msg{
		new(dns.Msg).SetQuestion("web.paceline.", dns.TypeA), new(dns.Msg).SetQuestion("_web._tcp.paceline.", dns.TypeSRV),
		new(dns.Msg).SetQuestion("big.paceline.", dns.TypeSRV).SetEdns0(600, true), new(dns.Msg).SetQuestion("n1.node.paceline.", dns.TypeANY),
		new(dns.Msg).SetAxfr("paceline."), new(dns.Msg).SetNotify("paceline."),
	} {
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, true)
		f.Add(raw, false)
	}
	c := newCluster()
	c.Group("big", nil)
	for n := range 40 {
		c.Run("big", id(100+n), "n1", "10.2.0.1:80", fsm.Healthy)
	}
	s, err := discovery.New(discovery.Config{Node: "n1", Cluster: c})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, packet []byte, udp bool) {
		req := new(dns.Msg)
		if req.Unpack(packet) != nil {
			return
		}
		limit, w := dns.MaxMsgSize, &writer{remote: &net.TCPAddr{}}
		if udp {
			limit, w.remote = dns.MinMsgSize, &net.UDPAddr{}
			if opt := req.IsEdns0(); opt != nil {
				limit = min(max(int(opt.UDPSize()), limit), discovery.MaxUDPSize)
			}
		}
		s.ServeDNS(w, req)
		resp := new(dns.Msg)
		if err := resp.Unpack(w.sent); err != nil {
			t.Fatalf("the answer can not be read: %v\n%v", err, req)
		}
		if resp.Id != req.Id || !resp.Response || len(w.sent) > limit {
			t.Errorf("%d bytes of at most %d\n%v\n%v", len(w.sent), limit, req, resp)
		}
		if len(req.Question) == 1 && (len(resp.Question) != 1 || resp.Question[0] != req.Question[0]) {
			t.Errorf("it answers another question\n%v\n%v", req, resp)
		}
		if resp.Rcode == dns.RcodeSuccess && !resp.Authoritative {
			t.Errorf("an answer without authority\n%v", resp)
		}
	})
}
