package proxy_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// withTLS gives a proxy the certificate of net/http's own tests.
func withTLS(t testing.TB) option {
	t.Helper()
	s := httptest.NewUnstartedServer(nil)
	s.StartTLS()
	cert := s.TLS.Certificates[0]
	s.Close()
	return withConfig(func(c *proxy.Config) { c.TLS = &tls.Config{Certificates: []tls.Certificate{cert}} })
}

// roundTripper speaks one of the protocols of the shared listener.
type roundTripper struct {
	name   string
	tls    bool
	scheme string
	proto  string
	make   func() (http.RoundTripper, func())
}

func roundTrippers() []roundTripper {
	insecure := &tls.Config{InsecureSkipVerify: true}
	return []roundTripper{
		{"http/1.1", false, "http", "HTTP/1.1", func() (http.RoundTripper, func()) {
			tr := &http.Transport{}
			return tr, tr.CloseIdleConnections
		}},
		{"tls http/1.1", true, "https", "HTTP/1.1", func() (http.RoundTripper, func()) {
			tr := &http.Transport{TLSClientConfig: insecure.Clone()}
			return tr, tr.CloseIdleConnections
		}},
		{"tls http/2", true, "https", "HTTP/2.0", func() (http.RoundTripper, func()) {
			tr := &http.Transport{TLSClientConfig: insecure.Clone(), ForceAttemptHTTP2: true}
			return tr, tr.CloseIdleConnections
		}},
		{"h2c", false, "http", "HTTP/2.0", func() (http.RoundTripper, func()) {
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetUnencryptedHTTP2(true)
			return tr, tr.CloseIdleConnections
		}},
	}
}

// eachProtocol runs a test over every protocol.
func eachProtocol(t *testing.T, s fsm.Service, test func(t *testing.T, f *fleet, do func(method, path string, body io.Reader) (*http.Response, error), rt roundTripper)) {
	for _, rt := range roundTrippers() {
		t.Run(rt.name, func(t *testing.T) {
			var opts []option
			if rt.tls {
				opts = append(opts, withTLS(t))
			}
			f := newFleet(t, s, opts...)
			tr, done := rt.make()
			t.Cleanup(done)
			test(t, f, func(method, path string, body io.Reader) (*http.Response, error) {
				req, err := http.NewRequestWithContext(t.Context(), method, rt.scheme+"://"+f.addr+path, body)
				if err != nil {
					t.Fatal(err)
				}
				return tr.RoundTrip(req)
			}, rt)
		})
	}
}

func TestProtocols(t *testing.T) {
	eachProtocol(t, fsm.Service{Limits: fsm.ServiceLimits{MaxBodyMiB: 8}}, func(t *testing.T, f *fleet, do func(string, string, io.Reader) (*http.Response, error), rt roundTripper) {
		f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
			switch r.URL.Path {
			case "/head":
				_, _ = fmt.Fprint(w, r.Header.Get("X-Forwarded-Proto"), " ", r.Header.Get("Via"), " ", r.Proto)
			case "/cut":
				w.Header().Set("Content-Length", "100000")
				_, _ = w.Write(make([]byte, 50_000))
			case "/cut-chunks":
				_, _ = w.Write(make([]byte, 50_000))
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			case "/bare":
				w.Header()["Content-Type"] = nil
				_, _ = io.WriteString(w, "<html>")
			case "/204":
				w.WriteHeader(204)
			default:
				b, err := io.ReadAll(r.Body)
				if err != nil {
					panic(http.ErrAbortHandler)
				}
				_, _ = w.Write(b)
			}
		})
		get := func(method, path string, body io.Reader) (*http.Response, string, error) {
			t.Helper()
			resp, err := do(method, path, body)
			if err != nil {
				t.Fatal(method, path, err)
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			if resp.Proto != rt.proto {
				t.Errorf("the protocol is %s", resp.Proto)
			}
			return resp, string(b), err
		}
		if _, body, _ := get("GET", "/head", nil); body != rt.scheme+" 1.1 paceline HTTP/1.1" {
			t.Errorf("the instance was told %s", body)
		}
		for _, size := range []int{0, 10, 20_000, 3 << 20} {
			large := bytes.Repeat([]byte("x"), size)
			for _, body := range []io.Reader{bytes.NewReader(large), io.MultiReader(bytes.NewReader(large))} {
				if _, got, err := get("POST", "/", body); err != nil || got != string(large) {
					t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
				}
			}
		}
		if _, _, err := get("GET", "/cut", nil); err == nil {
			t.Error("a body that was cut looks whole")
		}
		if _, _, err := get("GET", "/cut-chunks", nil); err == nil {
			t.Error("chunks that were cut look whole")
		}
		if resp, _, err := get("HEAD", "/cut", nil); err != nil || resp.ContentLength != 100_000 {
			t.Errorf("HEAD: %d %v", resp.ContentLength, err)
		}
		if resp, _, err := get("GET", "/204", nil); err != nil || resp.StatusCode != 204 {
			t.Errorf("204: %d %v", resp.StatusCode, err)
		}
		if resp, _, _ := get("GET", "/bare", nil); resp.Header.Get("Content-Type") != "" {
			t.Errorf("a Content-Type was made up: %s", resp.Header)
		}
		if resp, _, _ := get("TRACE", "/", nil); resp.StatusCode != 405 {
			t.Errorf("TRACE: %d", resp.StatusCode)
		}
		for _, body := range []io.Reader{bytes.NewReader(make([]byte, 10<<20)), io.MultiReader(bytes.NewReader(make([]byte, 10<<20)))} {
			if resp, err := do("POST", "/", body); err == nil {
				if resp.StatusCode != 413 {
					t.Errorf("10 MB: %d", resp.StatusCode)
				}
				resp.Body.Close()
			} else if rt.proto == "HTTP/2.0" {
				t.Errorf("10 MB: %v", err)
			}
		}
	})
}

// Interim answers come through, and what follows them has their fields no more.
func TestInterimOverHTTP2(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.script("i1", answers("HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-y\r\nX-Y: 1\r\n\r\nok"))
	rt := roundTrippers()[3]
	tr, done := rt.make()
	defer done()
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, h.Get("Link")))
		return nil
	}})
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+f.addr+"/", nil)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "ok" || fmt.Sprint(hints) != "[103<x>]" || resp.Header.Get("Link") != "" || resp.Header.Get("X-Y") != "" {
		t.Errorf("got %q, hints %v, %v", b, hints, resp.Header)
	}
}

// h2frames speaks frames of HTTP/2 by hand.
func h2frames(t *testing.T, f *fleet) (*http2.Framer, func(end bool, fields ...string)) {
	c := dial(t, f.addr)
	c.send(http2.ClientPreface)
	fr := http2.NewFramer(c, c.r)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = fr.WriteSettings()
	var b bytes.Buffer
	enc := hpack.NewEncoder(&b)
	return fr, func(end bool, fields ...string) {
		b.Reset()
		for k := 0; k < len(fields); k += 2 {
			_ = enc.WriteField(hpack.HeaderField{Name: fields[k], Value: fields[k+1]})
		}
		_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b.Bytes(), EndHeaders: true, EndStream: end})
	}
}

// outcome reads frames until stream 1 has an answer or is reset.
func outcome(t *testing.T, fr *http2.Framer) string {
	t.Helper()
	for {
		frame, err := fr.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			return frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		}
	}
}

// A stream whose body is shorter than it has said is never answered as if all
// were well, and a target or host that could confuse an instance is refused.
func TestHostileStreams(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	for _, tt := range []struct {
		name       string
		path, host string
		lengths    []string
		body       string
		want       string
	}{
		{"well", "/", "a.test", nil, "", "200"},
		{"well, with a body", "/", "a.test", []string{"3"}, "abc", "200"},
		{"well, without a length", "/", "a.test", nil, "abc", "200"},
		{"well, length zero", "/", "a.test", []string{"0"}, "", "200"},
		{"space in the path", "/a HTTP/1.1", "a.test", nil, "", "400"},
		{"space in the host", "/", "a b", nil, "", "400"},
		{"slash in the host", "/", "a/b", nil, "", "400"},
		{"user in the host", "/", "a@b", nil, "", "reset"},
		{"short body", "/", "a.test", []string{"10"}, "abc", "reset"},
		{"long body", "/", "a.test", []string{"2"}, "abc", "reset"},
		{"length without a body", "/", "a.test", []string{"10"}, "", "400"},
		{"two lengths", "/", "a.test", []string{"3", "3"}, "abc", "400"},
		{"length that is none", "/", "a.test", []string{"+3"}, "abc", "400 or reset"},
		{"fragment in the path", "/a#b", "a.test", nil, "", "400"},
		{"asterisk", "*", "a.test", nil, "", "400 or reset"},
		{"no host", "/", "", nil, "", "400 or reset"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := f.p.Answers("web", "i1")
			defer func() {
				if f.p.Answers("web", "i1") != before && tt.want == "400" {
					t.Error("the instance was asked")
				}
			}()
			fr, head := h2frames(t, f)
			fields := []string{":method", "POST", ":scheme", "http", ":path", tt.path, ":authority", tt.host}
			for _, l := range tt.lengths {
				fields = append(fields, "content-length", l)
			}
			head(tt.body == "", fields...)
			if tt.body != "" {
				_ = fr.WriteData(1, true, []byte(tt.body))
			}
			if got := outcome(t, fr); !strings.Contains(tt.want, got) {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// A method that is none must not become a request line of its own.
func TestHostileMethods(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.handler("i1", echo)
	for _, method := range []string{"GET /admin HTTP/1.1", "get", "G\tT", "GET /", strings.Repeat("A", 40)} {
		fr, head := h2frames(t, f)
		head(true, ":method", method, ":scheme", "http", ":path", "/public", ":authority", "a.test")
		if got := outcome(t, fr); got != "400" && got != "reset" && got != "closed" {
			t.Errorf("%q: %s", method, got)
		}
	}
	if n := f.p.Answers("web", "i1"); n != 0 {
		t.Errorf("the instance has answered %d times", n)
	}
}

// A client that takes nothing of what it asked for holds nothing for ever.
func TestStuckStreams(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Stall: fsm.Duration(100 * time.Millisecond)}},
		func(_ *proxy.Config, before *func(*proxy.Proxy)) {
			*before = func(p *proxy.Proxy) {
				p.Waits(0, 0, 20*time.Millisecond, 0)
				p.StuckAfter(100 * time.Millisecond)
			}
		})
	f.handler("i1", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, 64<<20)) })
	fr, head := h2frames(t, f)
	_ = fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	_ = fr.WriteWindowUpdate(0, 1<<30)
	head(true, ":method", "GET", ":scheme", "http", ":path", "/", ":authority", "a.test")
	eventually(t, "the instance is asked", func() bool { return f.p.Counts().Instances == 1 })
	eventually(t, "nothing is held", func() bool {
		c := f.p.Counts()
		return c.Requests|c.Instances|c.Loads|c.Conns == 0
	})
}

// A stream that its client takes back does not end the instance's body well.
func TestResetStream(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	whole := make(chan bool, 1)
	f.handler("i1", func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		whole <- err == nil
	})
	fr, head := h2frames(t, f)
	head(false, ":method", "POST", ":scheme", "http", ":path", "/", ":authority", "a.test")
	_ = fr.WriteData(1, false, []byte("abc"))
	eventually(t, "the instance has it", func() bool { return f.p.Counts().Instances == 1 })
	_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
	if <-whole {
		t.Error("the instance has seen a whole body")
	}
	eventually(t, "it is counted", func() bool { return f.p.Event("web", "client_gone") == 1 })
	if n := f.p.Failures("web", "i1"); n != 0 {
		t.Error("the client's end is held against the instance")
	}
}

// An upgrade works over TLS as well, with both ends passed on.
func TestUpgradeOverTLS(t *testing.T) {
	f := newFleet(t, fsm.Service{}, withTLS(t))
	f.script("i1", func(c *rawConn) {
		if c.head() == "" {
			return
		}
		c.say(switched)
		n, _ := io.Copy(io.Discard, c.r)
		c.say(fmt.Sprint(n))
	})
	nc, err := tls.Dial("tcp", f.addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	_ = nc.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(nc, upgrade+strings.Repeat("x", 10))
	got := make([]byte, len(switched))
	if _, err := io.ReadFull(nc, got); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(nc, strings.Repeat("x", 100_000))
	_ = nc.CloseWrite()
	if rest, err := io.ReadAll(nc); err != nil || string(rest) != "100010" {
		t.Errorf("got %q, %v", rest, err)
	}
}

// A shutdown lets the requests of every protocol finish.
func TestShutdownFinishesRequests(t *testing.T) {
	eachProtocol(t, fsm.Service{}, func(t *testing.T, f *fleet, do func(string, string, io.Reader) (*http.Response, error), _ roundTripper) {
		begun, release := make(chan bool), make(chan bool)
		f.handler("i1", func(w http.ResponseWriter, _ *http.Request) {
			begun <- true
			<-release
			_, _ = io.WriteString(w, "ok")
		})
		got := make(chan string, 1)
		go func() {
			resp, err := do("GET", "/", nil)
			if err != nil {
				got <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			got <- string(b)
		}()
		<-begun
		down := make(chan error, 1)
		go func() { down <- f.p.Shutdown(t.Context()) }()
		eventually(t, "nobody new is let in", func() bool { return !canDial(f.addr) })
		release <- true
		if b := <-got; b != "ok" {
			t.Errorf("got %q", b)
		}
		if err := <-down; err != nil {
			t.Error(err)
		}
	})
}
