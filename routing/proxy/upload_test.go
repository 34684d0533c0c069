package proxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// A client that waits for 100 gets the instance's, and sends its body then.
func TestExpectContinue(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	c := dial(t, f.addr)
	if r := c.ask("PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"); r.StatusCode != 100 {
		t.Fatalf("got %d", r.StatusCode)
	}
	c.send("hi")
	c.read("PUT").want(t, 200, `PUT / a.test "hi" 2 [] "100-continue"`)
	c.ask(get).want(t, 200, "*")
}

// An instance that refuses a body before it has come is heard at once, and the
// body that still comes is not taken for a request.
func TestEarlyAnswer(t *testing.T) {
	const refusal = "HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n"
	for _, tt := range []struct {
		name     string
		instance func(*rawConn)
	}{
		{"and closes", func(c *rawConn) { c.head(); c.say(refusal) }},
		{"and reads no more", func(c *rawConn) { c.head(); c.say(refusal); <-c.over }},
		{"and reads on", func(c *rawConn) { c.head(); c.say(refusal); _, _ = io.Copy(io.Discard, c.r) }},
	} {
		for _, framing := range []string{"Content-Length: 40000000", "Transfer-Encoding: chunked"} {
			t.Run(tt.name+", "+framing, func(t *testing.T) {
				f := newFleet(t, fsm.Service{})
				f.script("i1", tt.instance)
				c := dial(t, f.addr)
				c.send("POST / HTTP/1.1\r\nHost: a.test\r\n" + framing + "\r\n\r\n")
				sent := make(chan struct{})
				go func() {
					defer close(sent)
					piece := strings.Repeat("x", 1<<16)
					for range 600 {
						if strings.HasPrefix(framing, "T") {
							_, _ = io.WriteString(c, "10000\r\n")
						}
						if _, err := io.WriteString(c, piece); err != nil {
							return
						}
						if strings.HasPrefix(framing, "T") {
							_, _ = io.WriteString(c, "\r\n")
						}
					}
				}()
				c.read("POST").want(t, 413, "no\n")
				f.quiet() // although the client sends on
				c.Close()
				<-sent
			})
		}
	}
}

// An instance that neither reads nor closes does not hold a request that it has
// answered.
func TestAnswerOfADeafInstance(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	stuck := make(chan bool)
	f.script("i1", func(c *rawConn) {
		if c.head() != "" {
			<-stuck
			c.say("HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
			<-c.over
		}
	})
	c := dial(t, f.addr)
	var pieces atomic.Int64
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 400000000\r\n\r\n")
		for {
			if _, err := io.WriteString(c, strings.Repeat("x", 1<<16)); err != nil {
				return
			}
			pieces.Add(1)
		}
	}()
	last, same := int64(0), 0
	eventually(t, "the upload is stuck", func() bool {
		n := pieces.Load()
		if n != last {
			last, same = n, 0
		}
		same++
		return last > 0 && same > 100
	})
	stuck <- true
	c.read("POST").want(t, 413, "")
	f.quiet()
	c.Close()
	<-sent
}

// An instance that dies in the middle of a body is at fault, and not the client
// whose body is interrupted for it.
func TestInstanceDiesInABody(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.script("i1", func(c *rawConn) {
		c.head()
		_, _ = io.CopyN(io.Discard, c.r, 1000)
		c.reset()
	})
	c := dial(t, f.addr)
	c.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n" + strings.Repeat("x", 1000))
	c.read("POST").want(t, 502, "*")
	f.quiet()
	if n := f.p.Failures("web", "i1"); n != 1 {
		t.Errorf("%d failures are held against the instance", n)
	}
}

// An interruption that comes just before a read is not lost.
func TestInterruptedBody(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	done := make(chan bool)
	go func() {
		defer close(done)
		_, _ = b.Write([]byte("x")) // which a read that goes on would get
	}()
	defer func() {
		_ = a.Close()
		<-done
	}()
	if err := proxy.ReadInterrupted(a); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// An instance never gets the end of a body that its client has not sent.
func TestClientVanishesInItsBody(t *testing.T) {
	large := strings.Repeat("x", 30_000)
	for _, tt := range []struct{ name, request string }{
		{"kept", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nabc"},
		{"length", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n" + large},
		{"chunked", "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n7530\r\n" + large + "\r\n"},
	} {
		for _, reset := range []bool{false, true} {
			t.Run(fmt.Sprint(tt.name, reset), func(t *testing.T) {
				f := newFleet(t, fsm.Service{})
				whole := make(chan bool, 1)
				f.handler("i1", func(_ http.ResponseWriter, r *http.Request) {
					_, err := io.Copy(io.Discard, r.Body)
					whole <- err == nil
				})
				c := dial(t, f.addr)
				c.send(tt.request)
				if tt.name != "kept" {
					eventually(t, "the instance has it", func() bool { return f.p.Counts().Instances == 1 })
				}
				if reset {
					_ = c.Conn.(*net.TCPConn).SetLinger(0)
				}
				c.Close()
				if tt.name != "kept" && <-whole {
					t.Fatal("the instance has seen a whole body")
				}
				eventually(t, "it is counted", func() bool { return f.p.Event("web", "client_gone") == 1 })
				if n := f.p.Failures("web", "i1"); n != 0 {
					t.Error("the client's end is held against the instance")
				}
			})
		}
	}
}

// A body that is not valid or too large is the client's fault, and is answered
// as such although the instance has a part of it.
func TestBodyIsRefused(t *testing.T) {
	mega := strings.Repeat("x", 1<<20)
	for _, tt := range []struct {
		name, head string
		piece      string
		status     int
	}{
		{"10 MB by length", "Content-Length: 10485760", mega, 413},
		{"10 MB in chunks", "Transfer-Encoding: chunked", "100000\r\n" + mega + "\r\n", 413},
		{"bad chunks", "Transfer-Encoding: chunked", "5\r\nhello\r\nnonsense\r\n", 400},
		{"stalls", "Content-Length: 100000", "", 408},
		{"small, stalls", "Content-Length: 100", "", 408},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{
				Limits: fsm.ServiceLimits{MaxBodyMiB: 2}, Timeouts: fsm.Timeouts{Stall: fsm.Duration(200 * time.Millisecond)},
			})
			whole := make(chan bool, 1)
			f.handler("i1", func(_ http.ResponseWriter, r *http.Request) {
				_, err := io.Copy(io.Discard, r.Body)
				whole <- err == nil
			})
			c := dial(t, f.addr)
			go func() {
				_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nHost: a.test\r\n"+tt.head+"\r\n\r\n")
				for range 10 {
					if _, err := io.WriteString(c, tt.piece); err != nil {
						return
					}
				}
			}()
			c.read("POST").want(t, tt.status, "*")
			c.ended()
			f.quiet()
			if n := f.p.Failures("web", "i1"); n != 0 {
				t.Error("the client's body is held against the instance")
			}
			if n := f.p.Event("web", "too_large"); (n == 1) != (tt.status == 413) {
				t.Errorf("%d bodies were too large", n)
			}
			select {
			case ok := <-whole:
				if ok {
					t.Error("the instance has seen a whole body")
				}
			default:
			}
		})
	}
}

// The wait for an answer begins when the body is with the instance.
func TestSlowUpload(t *testing.T) {
	const wait = 100 * time.Millisecond
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Request: fsm.Duration(wait)}})
	f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	c := dial(t, f.addr)
	c.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 20000\r\n\r\n")
	tick := time.NewTicker(wait / 5)
	defer tick.Stop()
	for range 20 { // four times as long as the wait
		<-tick.C
		c.send(strings.Repeat("x", 1000))
	}
	c.read("POST").want(t, 200, "20000")
}

// Both bodies may be under way at the same time.
func TestBothDirectionsAtOnce(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		b := make([]byte, 1)
		for {
			if _, err := r.Body.Read(b); err != nil {
				return
			}
			_, _ = w.Write(bytes.ToUpper(b))
			w.(http.Flusher).Flush()
		}
	})
	pr, pw := io.Pipe()
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	req, _ := http.NewRequest("POST", "http://"+f.addr+"/", pr)
	go func() { _, _ = pw.Write([]byte("a")) }()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	for _, x := range "abcdefghij" {
		if x != 'a' {
			_, _ = pw.Write([]byte(string(x)))
		}
		if _, err := io.ReadFull(resp.Body, b); err != nil || string(b) != strings.ToUpper(string(x)) {
			t.Fatalf("got %q (%v) for %q", b, err, x)
		}
	}
	pw.Close()
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) > 0 {
		t.Errorf("the end is %q, %v", rest, err)
	}
}
