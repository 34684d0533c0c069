package proxy_test

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// What an instance is told is what the client has said, without what is for one
// connection only, and with what the proxy knows of the client.
func TestHeadsOfRequests(t *testing.T) {
	const ours = "Via: 1.1 paceline\r\n\r\n"
	const plain = "X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: a.test\r\nX-Forwarded-Proto: http\r\nForwarded: for=127.0.0.1;proto=http\r\n"
	for _, tt := range []struct {
		name, request string
		trusted       bool
		want          string
	}{
		{"plain", "GET / HTTP/1.1\r\nHost: a.test\r\nTraceparent: 00-x-y-01\r\nCookie: a=b\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\nTraceparent: 00-x-y-01\r\nCookie: a=b\r\n" + plain + ours},
		{"hop by hop", "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: X-Secret, keep-alive\r\nX-Secret: 1\r\nx-secret: 2\r\nTE: trailers\r\nKeep-Alive: 5\r\nProxy-Connection: close\r\nProxy-Authorization: x\r\nTrailer: X\r\nX-Kept: 1\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\nX-Kept: 1\r\n" + plain + ours},
		{"ours named by Connection", "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: X-Forwarded-For, X-Forwarded-Host, X-Forwarded-Proto, Forwarded, Via\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"ours named by Connection, trusted", "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: X-Forwarded-For, Forwarded, Via\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", true,
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"forged", "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 6.6.6.6\r\nx-forwarded-host: evil\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"continued", "GET / HTTP/1.1\r\nHost: in.test\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Host: out.test\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\r\n", true,
			"GET / HTTP/1.1\r\nHost: in.test\r\nX-Forwarded-For: 6.6.6.6, 7.7.7.7, 127.0.0.1\r\nX-Forwarded-Host: out.test\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6, for=127.0.0.1;proto=http\r\n" + ours},
		{"via of another", "GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 x\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\nVia: 1.0 x\r\n" + plain + ours},
		{"absolute form", "GET http://a.test/p HTTP/1.1\r\nHost: a.test\r\n\r\n", false,
			"GET /p HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"asterisk", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", false,
			"OPTIONS * HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"old client", "GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"length zero", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", false,
			"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n" + plain + ours},
		{"upgrade", "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\nSec-WebSocket-Key: x\r\n" + plain + "Connection: Upgrade\r\nUpgrade: websocket\r\n" + ours},
		{"upgrade to cleartext http/2", "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: x, H2C\r\nHTTP2-Settings: AAAA\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
		{"upgrade that Connection does not name", "GET / HTTP/1.1\r\nHost: a.test\r\nUpgrade: websocket\r\n\r\n", false,
			"GET / HTTP/1.1\r\nHost: a.test\r\n" + plain + ours},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{}, withConfig(func(c *proxy.Config) {
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
			f.ask(tt.request).want(t, 200, "ok")
			if got := <-heads; got != tt.want {
				t.Errorf("the instance got\n%s\nand not\n%s", got, tt.want)
			}
		})
	}
}

// The proxy's own answers have the form that every other part of the product
// gives a problem.
func TestOwnAnswers(t *testing.T) {
	f := newFleet(t, fsm.Service{Hosts: []string{"a.test"}})
	r := f.ask("GET / HTTP/1.1\r\nHost: b.test\r\n\r\n")
	r.want(t, 404, "{\"title\":\"Not Found\",\"status\":404,\"detail\":\"no service takes this host and path\",\"code\":\"not_found\"}\n")
	c := dial(t, f.addr)
	if r := c.ask("HEAD / HTTP/1.1\r\nHost: b.test\r\n\r\n"); r.StatusCode != 404 || r.ContentLength <= 0 || r.body != "" {
		t.Errorf("HEAD got %d, length %d, %q", r.StatusCode, r.ContentLength, r.body)
	}
	// A head that is refused is not taken for the HEAD before it.
	c.send("GARBAGE\r\n\r\n")
	if r := c.read("GET"); r.StatusCode != 400 || !strings.Contains(r.body, "invalid") {
		t.Errorf("garbage got %d %q", r.StatusCode, r.body)
	}
	c = dial(t, f.addr)
	r = c.ask("GET / HTTP/1.0\r\nHost: b.test\r\nConnection: keep-alive\r\n\r\n")
	if r.want(t, 404, "*"); r.Header.Get("Connection") != "keep-alive" {
		t.Error("a client of HTTP/1.0 is not told that its connection stays")
	}
}

// A proxy of ours is believed what it says of the client, which is then the one
// that limits and hashes are about; nobody else is.
func TestClientBehindProxy(t *testing.T) {
	for name, tt := range map[string]struct {
		trusted string
		fields  string
		want    int // of the second request with another last address
	}{
		"trusted":                 {"127.0.0.0/8", "X-Forwarded-For: 9.9.9.9, 8.8.8.%d\r\n", 200},
		"two of ours":             {"127.0.0.0/8", "X-Forwarded-For: 8.8.8.%d\r\nX-Forwarded-For: 127.0.0.9\r\n", 200},
		"the client's own claims": {"127.0.0.0/8", "X-Forwarded-For: 8.8.8.%d, 7.7.7.7\r\n", 429},
		"another network of IPv6": {"127.0.0.0/8", "X-Forwarded-For: 2001:db8:0:%d::1\r\n", 200},
		"the same one":            {"127.0.0.0/8", "X-Forwarded-For: 2001:db8::%d\r\n", 429},
		"not an address":          {"127.0.0.0/8", "X-Forwarded-For: 8.8.8.%d, unknown\r\n", 429},
		"not trusted":             {"10.0.0.0/8", "X-Forwarded-For: 8.8.8.%d\r\n", 429},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{Limits: fsm.ServiceLimits{RequestsPerSecondPerClient: 1}}, withConfig(func(c *proxy.Config) {
				c.Trusted = []netip.Prefix{netip.MustParsePrefix(tt.trusted)}
			}))
			f.script("i1", answers(ok))
			for k, want := range []int{200, tt.want} {
				r := f.ask("GET / HTTP/1.1\r\nHost: a.test\r\n" + fmt.Sprintf(tt.fields, k+1) + "\r\n")
				if r.StatusCode != want {
					t.Errorf("request %d got %d, want %d", k, r.StatusCode, want)
				}
			}
		})
	}
}

// What instances might take for a proxy's word comes from proxies of ours only.
func TestForgeableFields(t *testing.T) {
	for _, trusted := range []bool{false, true} {
		f := newFleet(t, fsm.Service{}, withConfig(func(c *proxy.Config) {
			if trusted {
				c.Trusted = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			}
		}))
		heads := make(chan string, 1)
		f.script("i1", func(c *rawConn) {
			heads <- c.head()
			c.say(ok)
			c.head()
		})
		f.ask("GET / HTTP/1.1\r\nHost: a.test\r\nx-real-ip: 6.6.6.6\r\nX-Forwarded-Port: 1\r\nX-FORWARDED-PREFIX: /a\r\nX-Other: 1\r\n\r\n").want(t, 200, "ok")
		head := strings.ToLower(<-heads)
		for _, name := range []string{"x-real-ip: 6.6.6.6", "x-forwarded-port: 1", "x-forwarded-prefix: /a"} {
			if strings.Contains(head, name) != trusted {
				t.Errorf("trusted %v: %s in %q", trusted, name, head)
			}
		}
		if !strings.Contains(head, "x-other: 1") {
			t.Errorf("head %q", head)
		}
	}
}
