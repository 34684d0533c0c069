package proxy_test

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// exchange sends a request and reads an answer of a known length.
func exchange(b *testing.B, c net.Conn, r *bufio.Reader, request string, answer []byte) {
	if _, err := io.WriteString(c, request); err != nil {
		b.Fatal(err)
	}
	if _, err := io.ReadFull(r, answer); err != nil {
		b.Fatal(err)
	}
}

// BenchmarkRoundTrip is a request and its answer over loopback: to the instance
// itself, and through the proxy. What the proxy costs is the difference.
func BenchmarkRoundTrip(b *testing.B) {
	f := newFleet(b, fsm.Service{})
	o := f.script("i1", answers(ok))
	for _, bb := range []struct{ name, addr string }{{"direct", o.addr}, {"proxied", f.addr}} {
		b.Run(bb.name, func(b *testing.B) {
			c := dial(b, bb.addr)
			answer := make([]byte, len(ok))
			b.ReportAllocs()
			for b.Loop() {
				exchange(b, c, c.r, get, answer)
			}
		})
	}
}

// BenchmarkParallel has many clients at once.
func BenchmarkParallel(b *testing.B) {
	f := newFleet(b, fsm.Service{})
	for _, id := range []string{"i1", "i2", "i3"} {
		f.script(id, answers(ok))
	}
	b.SetParallelism(16)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		c := dial(b, f.addr)
		answer := make([]byte, len(ok))
		for pb.Next() {
			exchange(b, c, c.r, get, answer)
		}
	})
}

// BenchmarkUpload passes bodies of 1 MiB to the instance.
func BenchmarkUpload(b *testing.B) {
	f := newFleet(b, fsm.Service{})
	f.handler("i1", func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) })
	c := dial(b, f.addr)
	request := post(strings.Repeat("x", 1<<20))
	b.SetBytes(1 << 20)
	for b.Loop() {
		c.ask(request).want(b, 200, "")
	}
}

// BenchmarkTunnel passes bytes through an upgraded connection, and back.
func BenchmarkTunnel(b *testing.B) {
	f := newFleet(b, fsm.Service{})
	f.script("i1", func(c *rawConn) {
		if c.head() != "" {
			c.say(switched)
			_, _ = io.Copy(c, c.r)
		}
	})
	c := dial(b, f.addr)
	c.send(upgrade)
	c.expect(switched)
	message := strings.Repeat("x", 100)
	answer := make([]byte, len(message))
	for b.Loop() {
		exchange(b, c, c.r, message, answer)
	}
}
