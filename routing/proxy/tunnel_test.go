package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

const (
	upgrade  = "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
	switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
)

// tcpPort is a port that nobody has.
func tcpPort(t testing.TB) (port int, addr string) {
	t.Helper()
	addr = refusing(t)
	_, _ = fmt.Sscanf(addr, "127.0.0.1:%d", &port)
	return port, addr
}

func (c *client) expect(want string) {
	c.t.Helper()
	got := make([]byte, len(want))
	if n, err := io.ReadFull(c.r, got); err != nil || string(got) != want {
		c.t.Fatalf("got %q (%v), want %q", got[:n], err, want)
	}
}

// After a 101 everything passes, also what both sides have sent at once with
// their heads, and the loss of the instance from the plan cuts nothing.
func TestUpgrade(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.script("i1", func(c *rawConn) {
		if c.head() == "" {
			return
		}
		c.say(switched + "early")
		_, _ = io.Copy(c, c.r)
		c.say("bye")
	})
	c := dial(t, f.addr)
	c.send(upgrade + "hello")
	c.expect(switched + "early" + "hello")
	f.Drain("i1", fsm.Unknown)
	f.Report("i1", fsm.Stopping, "")
	f.Report("i1", fsm.Stopped, "")
	f.script("i2", answers(ok))
	large := strings.Repeat("0123456789", 100_000)
	go c.send(large)
	c.expect(large)
	if n := f.p.Counts().Tunnels; n != 1 {
		t.Errorf("%d tunnels", n)
	}
	_ = c.Conn.(*net.TCPConn).CloseWrite()
	c.expect("bye")
	c.ended()
	f.ask(get).want(t, 200, "ok")
}

// A refused upgrade is an answer as any other.
func TestUpgradeIsRefused(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.script("i1", answers(ok))
	c := dial(t, f.addr)
	c.ask(upgrade).want(t, 200, "ok")
	c.ask(get).want(t, 200, "ok")
}

// The instance's end, whole or broken, reaches the client.
func TestTunnelEnds(t *testing.T) {
	for _, reset := range []bool{false, true} {
		f := newFleet(t, fsm.Service{})
		f.script("i1", func(c *rawConn) {
			if c.head() == "" {
				return
			}
			c.say(switched)
			_, _ = c.r.ReadByte()
			if reset {
				c.reset()
			}
		})
		c := dial(t, f.addr)
		c.send(upgrade)
		c.expect(switched)
		c.send("x")
		c.ended()
		c.Close()
	}
}

// A tunnel in which only one side speaks is not idle; one in which nobody does
// ends.
func TestTunnelIdle(t *testing.T) {
	const idle = time.Second
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Tunnel: fsm.Duration(idle)}})
	f.script("i1", func(c *rawConn) {
		if c.head() == "" {
			return
		}
		c.say(switched)
		tick := time.NewTicker(idle / 40)
		defer tick.Stop()
		for range 50 {
			<-tick.C
			c.say("x")
		}
		_, _ = io.Copy(io.Discard, c.r) // until the proxy has had enough
	})
	c := dial(t, f.addr)
	c.send(upgrade)
	c.expect(switched + strings.Repeat("x", 50))
	c.ended()
}

func TestPassThrough(t *testing.T) {
	port, addr := tcpPort(t)
	f := newFleet(t, fsm.Service{Listeners: []fsm.Listener{{Port: port, Protocol: fsm.ProtocolTCP}}})
	f.instance("i0", refusing(t))
	f.script("i1", func(c *rawConn) {
		n, _ := io.Copy(io.Discard, c.r) // until the client has said all
		c.say(fmt.Sprint(n))
	})
	eventually(t, "the port is open", func() bool { return canDial(addr) })
	for range 4 {
		c := dial(t, addr)
		c.send(strings.Repeat("x", 300_000))
		_ = c.Conn.(*net.TCPConn).CloseWrite()
		c.expect("300000")
		c.ended()
		c.Close()
	}
}

func canDial(addr string) bool {
	c, err := net.Dial("tcp", addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// proxyHeader is a PROXY protocol header of version 2.
func proxyHeader(t *testing.T, command proxyproto.ProtocolVersionAndCommand, src string) string {
	t.Helper()
	h := &proxyproto.Header{
		Version: 2, Command: command, TransportProtocol: proxyproto.TCPv4,
		SourceAddr:      net.TCPAddrFromAddrPort(netip.MustParseAddrPort(src)),
		DestinationAddr: &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 80},
	}
	var b bytes.Buffer
	if _, err := h.WriteTo(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestProxyProtocol(t *testing.T) {
	header := proxyHeader(t, proxyproto.PROXY, "9.8.7.6:1234")
	local := proxyHeader(t, proxyproto.LOCAL, "9.8.7.6:1234")
	for _, tt := range []struct {
		name    string
		trusted bool
		send    string
		want    string // X-Forwarded-For, "400", or "" for a closed connection
	}{
		{"trusted", true, header, "9.8.7.6"},
		{"trusted, its own check", true, local, "127.0.0.1"},
		{"trusted, without", true, "", ""},
		{"trusted, garbage", true, strings.Repeat("\r\n", 20), ""},
		{"trusted, cut", true, header[:12] + "\x21\x11\xff\xff", ""},
		{"trusted, version 1", true, "PROXY TCP4 9.8.7.6 10.0.0.1 1 2\r\n", ""},
		{"not trusted", false, header, "400"},
		{"not trusted, without", false, "", "127.0.0.1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{}, withConfig(func(c *proxy.Config) {
				c.ProxyProtocol = true
				if tt.trusted {
					c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				}
			}))
			heads := make(chan string, 1)
			f.script("i1", func(c *rawConn) {
				if h := c.head(); h != "" {
					heads <- h
					c.say(ok)
				}
			})
			c := dial(t, f.addr)
			c.send(tt.send + "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
			switch tt.want {
			case "":
				c.ended()
			case "400":
				c.read("GET").want(t, 400, "*")
			default:
				c.read("GET").want(t, 200, "ok")
				want := "\r\nX-Forwarded-For: " + tt.want + "\r\n"
				if tt.trusted && tt.want == "127.0.0.1" {
					want = "\r\nX-Forwarded-For: 6.6.6.6, 127.0.0.1\r\n"
				}
				if h := <-heads; !strings.Contains(h, want) {
					t.Errorf("the instance got %s", h)
				}
			}
		})
	}
}
