package discovery_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/fsmtest"
	"github.com/pacelinehq/paceline/routing/discovery"
)

// short tells records in a few words, sorted.
func short(list []dns.RR) string {
	var out []string
	for _, rr := range list {
		if rr.Header().Rrtype != dns.TypeOPT {
			out = append(out, strings.Join(strings.Fields(rr.String())[3:], " "))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

func TestAnswers(t *testing.T) {
	c := newCluster()
	c.Group("empty", nil)
	c.Group("node", nil) // a name that has another meaning too
	c.Run("node", id(7), "n1", "10.1.0.7:8007", fsm.Healthy)
	c.Group("named", nil)
	c.Run("named", id(8), "n1", "db.example.com:5432", fsm.Healthy)
	s := serve(t, c)
	one, two := strings.ToLower(id(1)), strings.ToLower(id(2))
	srv := "SRV 1 5 8001 " + one + ".web.paceline., SRV 1 5 8002 " + two + ".web.paceline."
	for _, x := range []struct {
		name, typ, rcode, answer string
	}{
		{"web.paceline.", "A", "NOERROR", "A 10.1.0.1"},
		{"web.paceline.", "AAAA", "NOERROR", "AAAA 2001:db8::2"},
		{"web.paceline.", "SRV", "NOERROR", srv},
		{"_web._tcp.paceline.", "SRV", "NOERROR", srv},
		{"_web._tcp.paceline.", "A", "NOERROR", ""},
		{"web.paceline.", "TXT", "NOERROR", ""},
		{"web.paceline.", "ANY", "NOERROR", `HINFO "RFC8482" ""`},
		{one + ".web.paceline.", "A", "NOERROR", "A 10.1.0.1"},
		{one + ".web.paceline.", "AAAA", "NOERROR", ""},
		{one + ".web.paceline.", "SRV", "NOERROR", ""},
		{two + ".web.paceline.", "AAAA", "NOERROR", "AAAA 2001:db8::2"},
		{strings.ToLower(id(4)) + ".web.paceline.", "A", "NOERROR", "A 10.1.0.4"}, // it drains, and is still asked
		{one + ".empty.paceline.", "A", "NXDOMAIN", ""},
		{"empty.paceline.", "A", "NOERROR", ""},
		{"empty.paceline.", "SRV", "NOERROR", ""},
		{"none.paceline.", "A", "NXDOMAIN", ""},
		{"_none._tcp.paceline.", "SRV", "NXDOMAIN", ""},
		{"_web._udp.paceline.", "SRV", "NXDOMAIN", ""},
		{"a.b.web.paceline.", "A", "NXDOMAIN", ""},
		{"none.paceline.", "ANY", "NXDOMAIN", ""},
		{"n1.node.paceline.", "A", "NOERROR", "A 10.0.0.1"},
		{"n1.node.paceline.", "AAAA", "NOERROR", ""},
		{"n9.node.paceline.", "A", "NXDOMAIN", ""},
		{"node.paceline.", "A", "NOERROR", "A 10.1.0.7"},
		{strings.ToLower(id(7)) + ".node.paceline.", "A", "NOERROR", "A 10.1.0.7"},
		{"_tcp.paceline.", "A", "NOERROR", ""},
		{"named.paceline.", "A", "NOERROR", ""},
		{"named.paceline.", "SRV", "NOERROR", "SRV 1 5 5432 db.example.com."},
		{strings.ToLower(id(8)) + ".named.paceline.", "A", "NOERROR", "CNAME db.example.com."},
		{strings.ToLower(id(8)) + ".named.paceline.", "TXT", "NOERROR", "CNAME db.example.com."},
		{strings.ToLower(id(8)) + ".named.paceline.", "CNAME", "NOERROR", "CNAME db.example.com."},
		{"paceline.", "NS", "NOERROR", "NS n1.node.paceline."},
		{"paceline.", "SOA", "NOERROR", fmt.Sprintf("SOA n1.node.paceline. hostmaster.paceline. %d 3600 600 86400 0", c.State().Index())},
		{"paceline.", "A", "NOERROR", ""},
		{"paceline.", "AXFR", "REFUSED", ""},
		{"example.com.", "A", "REFUSED", ""},
		{"notpaceline.", "A", "REFUSED", ""},
		{".", "NS", "REFUSED", ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if x.typ == "AXFR" && network == "tcp" {
				continue
			}
			m := s.ask(t, network, x.name, dns.StringToType[x.typ])
			if got := short(m.Answer); dns.RcodeToString[m.Rcode] != x.rcode || got != x.answer {
				t.Errorf("%s %s %s: %s %q, want %s %q", network, x.name, x.typ, dns.RcodeToString[m.Rcode], got, x.rcode, x.answer)
			}
			// What is not there is told with the SOA, and with authority.
			inside := x.rcode != "REFUSED"
			if negative := inside && x.answer == ""; negative != (len(m.Ns) == 1) || m.Authoritative != inside || m.RecursionAvailable {
				t.Errorf("%s %s: authority %v, aa %t", x.name, x.typ, m.Ns, m.Authoritative)
			}
		}
	}
	m := s.ask(t, "udp", "web.paceline.", dns.TypeSRV)
	if got := short(m.Extra); got != "A 10.1.0.1, AAAA 2001:db8::2" {
		t.Errorf("additional %q", got)
	}
	if got := short(s.ask(t, "udp", "paceline.", dns.TypeNS).Extra); got != "A 10.0.0.1" {
		t.Errorf("glue %q", got)
	}
	if n := s.counter(t, "paceline_dns_queries_total", "REFUSED", "A"); n != 4 {
		t.Errorf("%v queries were refused", n)
	}
	if n := s.counter(t, "paceline_dns_queries_total", "NXDOMAIN", "SRV"); n != 4 {
		t.Errorf("%v SRV names were not there", n)
	}
}

// What changes is answered at once: nothing is kept beyond its index.
func TestAnswersFollowTheState(t *testing.T) {
	c := newCluster()
	s := serve(t, c, func(cfg *discovery.Config) { cfg.TTL = 7 * time.Second })
	m := s.ask(t, "udp", "web.paceline.", dns.TypeA)
	if m.Answer[0].Header().Ttl != 7 {
		t.Errorf("ttl %v", m.Answer[0])
	}
	for n, health := range []fsm.Health{fsm.Unhealthy, fsm.Healthy, fsm.Unhealthy, fsm.Healthy} {
		c.Report(id(3), "", health)
		want := []string{"A 10.1.0.1", "A 10.1.0.1, A 10.1.0.3"}[n%2]
		if got := short(s.ask(t, "udp", "web.paceline.", dns.TypeA).Answer); got != want {
			t.Errorf("when it is %s: %s", health, got)
		}
	}
	node(c, "n1", "[2001:db8::1]:7700", "9")
	m = s.ask(t, "udp", "web.paceline.", dns.TypeSRV)
	if m.Answer[0].(*dns.SRV).Weight != 9 {
		t.Errorf("weight %v", m.Answer[0])
	}
	if got := short(s.ask(t, "udp", "n1.node.paceline.", dns.TypeAAAA).Answer); got != "AAAA 2001:db8::1" {
		t.Errorf("node %s", got)
	}
}

// Names are answered in the case that they were asked in.
func TestCase(t *testing.T) {
	s := serve(t, newCluster(), func(cfg *discovery.Config) { cfg.Domain = "SVC.Example" })
	for _, name := range []string{"WeB.sVc.eXaMpLe.", strings.ToUpper(id(1)) + ".WEB.SVC.EXAMPLE.", "N1.NODE.svc.EXAMPLE."} {
		m := s.ask(t, "udp", name, dns.TypeA)
		if len(m.Answer) != 1 || m.Answer[0].Header().Name != name || m.Question[0].Name != name {
			t.Errorf("%s: %v", name, m)
		}
	}
	if m := s.ask(t, "udp", "_WEB._TCP.svc.example.", dns.TypeSRV); len(m.Answer) != 2 {
		t.Errorf("SRV: %v", m)
	}
}

// Ten endpoints do not fit what a client without EDNS takes.
func TestSizes(t *testing.T) {
	c := newCluster()
	c.Group("big", nil)
	for n := range 300 {
		c.Run("big", id(100+n), "n1", fmt.Sprintf("10.2.%d.%d:80", n/200, n%200+1), fsm.Healthy)
	}
	s := serve(t, c)
	edns := func(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, false) } }
	for _, x := range []struct {
		typ   uint16
		edns  uint16
		limit int
	}{{dns.TypeA, 0, 512}, {dns.TypeSRV, 0, 512}, {dns.TypeSRV, 100, 512}, {dns.TypeSRV, 700, 700}, {dns.TypeSRV, 1232, 1232}, {dns.TypeSRV, 65535, 1232}} {
		var change []func(*dns.Msg)
		if x.edns > 0 {
			change = append(change, edns(x.edns))
		}
		m := s.ask(t, "udp", "big.paceline.", x.typ, change...)
		m.Compress = true
		if raw, err := m.Pack(); err != nil || len(raw) > x.limit || len(raw) < x.limit*3/4 || !m.Truncated {
			t.Errorf("edns %d: %d bytes, truncated %t, %v", x.edns, len(raw), m.Truncated, err)
		}
		if opt := m.IsEdns0(); (opt != nil) != (x.edns > 0) || opt != nil && opt.UDPSize() != discovery.MaxUDPSize {
			t.Errorf("edns %d: %v", x.edns, opt)
		}
	}
	if s.counter(t, "paceline_dns_truncated_total") != 6 {
		t.Error("what is cut short is not counted")
	}
	first := map[string]bool{}
	for range 20 {
		m := s.ask(t, "tcp", "big.paceline.", dns.TypeA)
		if len(m.Answer) != discovery.MaxRecords || m.Truncated {
			t.Fatalf("by TCP: %d records, truncated %t", len(m.Answer), m.Truncated)
		}
		first[m.Answer[0].String()] = true
	}
	if len(first) < 5 {
		t.Errorf("%d of 20 answers begin differently", len(first))
	}
	// Additional records that do not fit are no reason to ask again.
	c.Group("ten", nil)
	for n := range 10 {
		c.Run("ten", id(900+n), "n1", fmt.Sprintf("10.3.0.%d:80", n+1), fsm.Healthy)
	}
	m := s.ask(t, "udp", "ten.paceline.", dns.TypeSRV, edns(700))
	if len(m.Answer) != 10 || m.Truncated || len(m.Extra) < 2 || len(m.Extra) > 10 {
		t.Errorf("%d answers, %d additional, truncated %t", len(m.Answer), len(m.Extra), m.Truncated)
	}
}

// A node that knows nothing must not say that there is nothing.
func TestNotReady(t *testing.T) {
	edns := func(m *dns.Msg) { m.SetEdns0(1232, false) }
	fresh := serve(t, fsmtest.New())
	m := fresh.ask(t, "udp", "web.paceline.", dns.TypeA, edns)
	if m.Rcode != dns.RcodeServerFailure || m.Authoritative || len(m.IsEdns0().Option) != 1 || !strings.Contains(m.IsEdns0().String(), "has not joined") {
		t.Errorf("before it has joined: %v", m)
	}
	if m := fresh.ask(t, "udp", "example.com.", dns.TypeA); m.Rcode != dns.RcodeRefused {
		t.Errorf("outside of the domain: %v", m)
	}
	var mu sync.Mutex
	err := errors.New("the state is damaged")
	s := serve(t, newCluster(), func(cfg *discovery.Config) {
		cfg.Ready = func() error { mu.Lock(); defer mu.Unlock(); return err }
	})
	if m := s.ask(t, "tcp", "web.paceline.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("while it is not ready: %v", m)
	}
	mu.Lock()
	err = nil
	mu.Unlock()
	if m := s.ask(t, "tcp", "web.paceline.", dns.TypeA); m.Rcode != dns.RcodeSuccess {
		t.Errorf("when it is ready: %v", m)
	}
}

func TestBadQueries(t *testing.T) {
	s := serve(t, newCluster())
	for name, x := range map[string]struct {
		rcode  int
		change func(*dns.Msg)
	}{
		"no question":   {dns.RcodeFormatError, func(m *dns.Msg) { m.Question = nil }},
		"two questions": {dns.RcodeFormatError, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }},
		"update":        {dns.RcodeNotImplemented, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }},
		"notify":        {dns.RcodeNotImplemented, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }},
		"chaos":         {dns.RcodeRefused, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }},
		"two OPT":       {dns.RcodeFormatError, func(m *dns.Msg) { m.SetEdns0(1232, false); m.Extra = append(m.Extra, m.Extra[0]) }},
		"EDNS 1":        {dns.RcodeBadVers, func(m *dns.Msg) { m.SetEdns0(1232, false); m.IsEdns0().SetVersion(1) }},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if m := s.ask(t, network, "web.paceline.", dns.TypeA, x.change); m.Rcode != x.rcode || len(m.Answer) > 0 {
				t.Errorf("%s by %s: %v", name, network, m)
			}
		}
	}
}

// Garbage is answered with nothing or a format error, and hurts nobody.
func TestGarbage(t *testing.T) {
	s := serve(t, newCluster())
	good, _ := new(dns.Msg).SetQuestion("web.paceline.", dns.TypeA).Pack()
	response := slices.Clone(good)
	response[2] |= 0x80 // must not be answered: two servers would talk for ever
	loop := append(slices.Clone(good[:12]), 0xc0, 12, 0, 1, 0, 1)
	for _, network := range []string{"udp", "tcp"} {
		for _, packet := range [][]byte{{}, {0}, make([]byte, 11), make([]byte, 12), good[:20], response, loop, slices.Repeat([]byte{0xff}, 1200)} {
			conn, err := net.Dial(network, s.address)
			if err != nil {
				t.Fatal(err)
			}
			if network == "tcp" {
				packet = append([]byte{byte(len(packet) >> 8), byte(len(packet))}, packet...)
			}
			_, _ = conn.Write(packet)
			_ = conn.Close()
		}
		if m := s.ask(t, network, "web.paceline.", dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("after the garbage by %s: %v", network, m)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for s.counter(t, "paceline_dns_dropped_total", "malformed") < 8 && ctx.Err() == nil {
	}
	if ctx.Err() != nil {
		t.Error("garbage is not counted")
	}
}

// slowCluster answers when it is told to.
type slowCluster struct {
	*fsmtest.Cluster
	asked, release chan struct{}
}

// State implements discovery.Cluster.
func (c *slowCluster) State() *fsm.State {
	c.asked <- struct{}{}
	<-c.release
	return c.Cluster.State()
}

// More queries than are answered at one time are dropped.
func TestBusy(t *testing.T) {
	c := &slowCluster{newCluster(), make(chan struct{}, discovery.MaxQueries), make(chan struct{})}
	s := serve(t, c)
	var running sync.WaitGroup
	query := func() *writer {
		w := &writer{remote: &net.UDPAddr{}}
		s.ServeDNS(w, new(dns.Msg).SetQuestion("web.paceline.", dns.TypeA))
		return w
	}
	for range discovery.MaxQueries {
		running.Go(func() {
			if w := query(); w.closed || len(w.sent) == 0 {
				t.Error("a query within the limit was dropped")
			}
		})
	}
	for range discovery.MaxQueries {
		<-c.asked
	}
	if w := query(); !w.closed || w.sent != nil || s.counter(t, "paceline_dns_dropped_total", "busy") != 1 {
		t.Error("a query above the limit was not dropped")
	}
	close(c.release)
	running.Wait()
}

// A panic is one answer that fails, not the end of the node.
func TestPanic(t *testing.T) {
	s := serve(t, newCluster(), func(cfg *discovery.Config) { cfg.Ready = func() error { panic("bug") } })
	for range 2 {
		if m := s.ask(t, "udp", "web.paceline.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("answer %v", m)
		}
	}
}

func TestLifecycle(t *testing.T) {
	for name, cfg := range map[string]discovery.Config{
		"no node": {Cluster: newCluster()}, "no cluster": {Node: "n1"}, "root": {Node: "n1", Cluster: newCluster(), Domain: "."},
		"domain": {Node: "n1", Cluster: newCluster(), Domain: "a..b"}, "ttl": {Node: "n1", Cluster: newCluster(), TTL: 2 * time.Hour},
		"long domain": {Node: "n1", Cluster: newCluster(), Domain: strings.Repeat("abcdefgh.", 20)},
	} {
		if _, err := discovery.New(cfg); fsm.KindOf(err) != fsm.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	s, err := discovery.New(discovery.Config{Node: "n1", Cluster: newCluster()})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown before it has begun: %v", err)
	}
	pc, l, err := discovery.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := discovery.Listen(t.Context(), l.Addr().String()); err == nil {
		t.Error("an address was opened twice")
	}
	if err := s.Serve(pc, l); fsm.KindOf(err) != fsm.Conflict {
		t.Errorf("served after its end: %v", err)
	}
	// At any moment a shutdown ends all of it.
	for range 50 {
		s, err := discovery.New(discovery.Config{Node: "n1", Cluster: newCluster()})
		if err != nil {
			t.Fatal(err)
		}
		pc, l, err := discovery.Listen(t.Context(), "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- s.Serve(pc, l) }()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil && fsm.KindOf(err) != fsm.Conflict {
			t.Fatal(err)
		}
	}
	// One that loses its socket says so.
	s, _ = discovery.New(discovery.Config{Node: "n1", Cluster: newCluster()})
	if pc, l, err = discovery.Listen(t.Context(), "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	_ = pc.Close()
	if err := s.Serve(pc, l); err == nil {
		t.Error("a socket that is closed is no error")
	}
}

func BenchmarkAnswer(b *testing.B) {
	c := newCluster()
	c.Group("ten", nil)
	for n := range 10 {
		c.Run("ten", id(100+n), "n1", fmt.Sprintf("10.3.0.%d:80", n+1), fsm.Healthy)
	}
	s, err := discovery.New(discovery.Config{Node: "n1", Cluster: c})
	if err != nil {
		b.Fatal(err)
	}
	for _, typ := range []uint16{dns.TypeA, dns.TypeSRV} {
		b.Run(dns.TypeToString[typ], func(b *testing.B) {
			req := new(dns.Msg).SetQuestion("ten.paceline.", typ).SetEdns0(1232, false)
			b.ReportAllocs()
			for b.Loop() {
				s.ServeDNS(&writer{remote: &net.UDPAddr{}}, req)
			}
		})
	}
}
