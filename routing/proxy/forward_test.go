package proxy_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// echo answers with what it got.
func echo(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = fmt.Fprintf(w, "%s %s %s %q %d %v %q", r.Method, r.RequestURI, r.Host, body, r.ContentLength, r.TransferEncoding, r.Header.Get("Expect"))
}

func TestForward(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	for _, tt := range []struct{ name, request, want string }{
		{"get", "GET /a?b=c HTTP/1.1\r\nHost: a.test\r\n\r\n", `GET /a?b=c a.test "" 0 [] ""`},
		{"empty query", "GET /a? HTTP/1.1\r\nHost: a.test\r\n\r\n", `GET /a? a.test "" 0 [] ""`},
		{"delete", "DELETE /a HTTP/1.1\r\nHost: a.test:80\r\n\r\n", `DELETE /a a.test:80 "" 0 [] ""`},
		{"own method", "BREW /pot HTTP/1.1\r\nHost: a.test\r\n\r\n", `BREW /pot a.test "" 0 [] ""`},
		{"options", "OPTIONS * HTTP/1.1\r\nHost: a.test\r\n\r\n", `OPTIONS * a.test "" 0 [] ""`},
		{"absolute form", "GET http://a.test/x?y HTTP/1.1\r\nHost: A.test\r\n\r\n", `GET /x?y a.test "" 0 [] ""`},
		{"absolute form without a path", "GET http://a.test HTTP/1.1\r\nHost: a.test\r\n\r\n", `GET / a.test "" 0 [] ""`},
		{"length", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n\r\nhello", `POST / a.test "hello" 5 [] ""`},
		{"length zero", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n\r\n", `POST / a.test "" 0 [] ""`},
		{"chunked", "PUT / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\nT: v\r\n\r\n", `PUT / a.test "hello" -1 [chunked] ""`},
		{"expect", "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\nhi", `POST / a.test "hi" 2 [] "100-continue"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, f.addr)
			c.send(tt.request)
			for {
				r := c.read("")
				if r.StatusCode == 100 {
					continue
				}
				if r.want(t, 200, "*"); r.body != tt.want && tt.name != "options" {
					t.Fatalf("got %s\nwant %s", r.body, tt.want)
				}
				break
			}
			c.ask(get).want(t, 200, `GET / a.test "" 0 [] ""`) // the connection goes on
		})
	}
}

// A body of any size and framing comes through as it is, in both directions.
func TestBodies(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if r.URL.Query().Has("length") {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		for len(body) > 0 {
			n := min(len(body), 10_000)
			_, _ = w.Write(body[:n])
			body = body[n:]
			if !r.URL.Query().Has("length") {
				w.(http.Flusher).Flush()
			}
		}
	})
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	for _, size := range []int{1, 4095, 4096, 16 << 10, 16<<10 + 1, 70_000, 3 << 20} {
		body := bytes.Repeat([]byte("0123456789abcde\n"), size/16+1)[:size]
		for _, query := range []string{"?length", ""} {
			for _, chunked := range []bool{false, true} {
				t.Run(fmt.Sprint(size, query, chunked), func(t *testing.T) {
					var from io.Reader = bytes.NewReader(body)
					if chunked {
						from = io.MultiReader(from)
					}
					req, _ := http.NewRequest("POST", "http://"+f.addr+"/"+query, from)
					resp, err := tr.RoundTrip(req)
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
					got, err := io.ReadAll(resp.Body)
					if err != nil || !bytes.Equal(got, body) {
						t.Fatalf("got %d bytes (%v), want %d", len(got), err, len(body))
					}
				})
			}
		}
	}
	if n := f.p.Counts().Idle; n != 1 {
		t.Errorf("one client one after the other used %d connections to the instance", n)
	}
}

// What an instance says is what the client gets, head and framing.
func TestAnswers(t *testing.T) {
	for _, tt := range []struct{ name, request, answer, want string }{
		{"length", get, "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok", "HTTP/1.1 200 Fine\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"},
		{"chunked", get, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"empty", get, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"hop by hop", get, "HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: b\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
		{"204", get, "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", "HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"},
		{"304", get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: x\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\nETag: x\r\n\r\n"},
		{"head", "HEAD / HTTP/1.1\r\nHost: a.test\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"},
		{"interim", get, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\nConnection: y\r\n\r\n" + ok, "HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + ok},
		{"until close", get, "HTTP/1.1 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		{"http 1.0 instance", get, "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", ok},
		{"http 1.0 client", "GET / HTTP/1.0\r\nHost: a.test\r\n\r\n", ok, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
		{"http 1.0 client without host", "GET / HTTP/1.0\r\n\r\n", ok, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
		{"http 1.0 client that stays", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", ok, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok"},
		{"http 1.0 client, chunked", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"},
		{"http 1.0 client, interim", "GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 103 Early Hints\r\n\r\n" + ok, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
		{"asked to close", "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n", ok, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFleet(t, fsm.Service{})
			f.script("i1", func(c *rawConn) {
				if c.head() != "" {
					c.say(tt.answer)
				}
			})
			c := dial(t, f.addr)
			c.send(tt.request)
			got := make([]byte, len(tt.want))
			if n, err := io.ReadFull(c.r, got); err != nil || string(got) != tt.want {
				t.Fatalf("got %q (%v)\nwant %q", got[:n], err, tt.want)
			}
			if strings.Contains(tt.want, "Connection: close") {
				c.ended()
			}
		})
	}
}

// Requests that are sent at once are answered one after the other.
func TestPipelined(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	c := dial(t, f.addr)
	var all strings.Builder
	const n = 50
	for k := range n {
		switch k % 3 {
		case 0:
			fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: a.test\r\n\r\n", k)
		case 1:
			fmt.Fprintf(&all, "PUT /%d HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc", k)
		case 2:
			fmt.Fprintf(&all, "PUT /%d HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", k)
		}
	}
	go c.send(all.String())
	for k := range n {
		r := c.read("GET")
		if r.want(t, 200, "*"); !strings.Contains(r.body, fmt.Sprintf(" /%d a.test", k)) {
			t.Fatalf("answer %d is %s", k, r.body)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	f := newFleet(t, fsm.Service{Hosts: []string{"a.test"}, PathPrefix: "/app", Limits: fsm.ServiceLimits{MaxBodyMiB: 1}})
	f.handler("i1", echo)
	for _, tt := range []struct {
		name, request string
		status        int
		goesOn        bool
	}{
		{"unknown host", "GET /app HTTP/1.1\r\nHost: b.test\r\n\r\n", 404, true},
		{"unknown path", "GET /apple HTTP/1.1\r\nHost: a.test\r\n\r\n", 404, true},
		{"unknown host with a body", "POST /app HTTP/1.1\r\nHost: b.test\r\nContent-Length: 3\r\n\r\nabc", 404, false},
		{"connect", "CONNECT a.test:80 HTTP/1.1\r\nHost: a.test:80\r\n\r\n", 405, true},
		{"trace", "TRACE /app HTTP/1.1\r\nHost: a.test\r\n\r\n", 405, true},
		{"no host", "GET /app HTTP/1.1\r\n\r\n", 400, false},
		{"two lengths", "POST /app HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 400, false},
		{"length and chunked", "POST /app HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na", 400, false},
		{"no http", "hello\r\n\r\n", 400, false},
		{"head too large", "GET /app HTTP/1.1\r\nHost: a.test\r\nX: " + strings.Repeat("a", 70_000) + "\r\n\r\n", 431, false},
		{"too many fields", "GET /app HTTP/1.1\r\nHost: a.test\r\n" + strings.Repeat("X: y\r\n", 200) + "\r\n", 431, false},
		{"bad chunk, small", "POST /app HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", 400, false},
		{"too large by its length", "POST /app HTTP/1.1\r\nHost: a.test\r\nContent-Length: 10485760\r\n\r\nabc", 413, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, f.addr)
			go func() { _, _ = io.WriteString(c, tt.request) }()
			r := c.read("GET")
			r.want(t, tt.status, "*")
			if ct := r.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("the answer is %q", ct)
			}
			if !tt.goesOn {
				c.ended()
				return
			}
			c.ask("GET /app/x HTTP/1.1\r\nHost: A.test.:99\r\n\r\n").want(t, 200, "*")
		})
	}
}
