package http1_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
	"pgregory.net/rapid"
)

// message is a request or response and what has to be read from it.
type message struct {
	wire, dump, body string
	kind             http1.BodyKind
	length           int64
}

// drawMessage makes a valid request with a body.
func drawMessage(t *rapid.T, i int) message {
	token := rapid.StringMatching(`[A-Za-z0-9-]{1,12}`)
	value := rapid.StringMatching(`([!-~]([ -~]{0,200}[!-~])?)?`)
	body := rapid.StringN(0, 300, -1).Draw(t, "body")
	if rapid.IntRange(0, 9).Draw(t, "large") == 0 {
		body = strings.Repeat("GET / HTTP/1.1\r\n\r\n", rapid.IntRange(1, 5000).Draw(t, "times"))
	}
	var b strings.Builder
	b.WriteString(strings.Repeat("\r\n", rapid.IntRange(0, 4).Draw(t, "empty lines")))
	fmt.Fprintf(&b, "POST /%d HTTP/1.1\r\nHost: h\r\n", i)
	var fields strings.Builder
	for range rapid.IntRange(0, 8).Draw(t, "fields") {
		n, v := "X-"+token.Draw(t, "name"), value.Draw(t, "value")
		fmt.Fprintf(&b, "%s: %s\r\n", n, v)
		fmt.Fprintf(&fields, "%s: %q\n", n, v)
	}
	m := message{body: body, kind: http1.BodyChunked}
	frame := " body=chunked\nHost: \"h\"\n" + fields.String() + "Transfer-Encoding: \"chunked\" (hop)\n"
	if rapid.Bool().Draw(t, "chunked") {
		b.WriteString("Transfer-Encoding: chunked\r\n\r\n")
		for left := body; len(left) > 0; {
			n := rapid.IntRange(1, len(left)).Draw(t, "chunk")
			fmt.Fprintf(&b, "%X;ext\r\n%s\r\n", n, left[:n])
			left = left[n:]
		}
		b.WriteString("0\r\nTrailer-A: b\r\n\r\n")
	} else {
		fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
		m.kind, m.length = http1.BodyLength, int64(len(body))
		frame = fmt.Sprintf(" body=length length=%d\nHost: \"h\"\n%sContent-Length: \"%d\"\n", len(body), fields.String(), len(body))
		if len(body) == 0 {
			m.kind, frame = http1.BodyNone, strings.Replace(frame, "body=length length=0", "body=none", 1)
		}
	}
	m.wire, m.dump = b.String(), fmt.Sprintf("POST /%d HTTP/1.1 path=/%d host=h%s", i, i, frame)
	return m
}

// TestPipelining reads many messages from one connection, which come in pieces
// of any size. None may see a byte of another, and a head stays valid while its
// body is read.
func TestPipelining(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 6).Draw(t, "messages")
		var wire strings.Builder
		var want []message
		for i := range n {
			want = append(want, drawMessage(t, i))
			wire.WriteString(want[i].wire)
		}
		src := &pieces{s: wire.String(), size: rapid.IntRange(1, 5000).Draw(t, "pieces")}
		r := http1.NewReader(src, http1.Limits{InitialBuffer: rapid.SampledFrom([]int{64, 300, 4096, 65536}).Draw(t, "buffer")})
		var q http1.Request
		for i, m := range want {
			if got := oneRequest(r, &q); got != m.dump {
				t.Fatalf("message %d: got\n%s\nwant\n%s", i, got, m.dump)
			}
			readBody(t, r, m)
			if got := dumpRequest(&q); got != m.dump {
				t.Fatalf("message %d: behind its body the head is\n%s\nnot\n%s", i, got, m.dump)
			}
			if rapid.Bool().Draw(t, "release") {
				r.Release()
			}
		}
		if err := r.ReadRequest(&q); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
	})
}

// readBody reads a body, the beginning of it in another way at times.
func readBody(t *rapid.T, r *http1.Reader, m message) {
	var before []byte
	if m.kind == http1.BodyLength && rapid.Bool().Draw(t, "take") {
		n := rapid.IntRange(0, len(m.body)).Draw(t, "taken")
		if rapid.Bool().Draw(t, "fill") {
			if _, err := r.Fill(n); err != nil {
				t.Fatal(err)
			}
		}
		before = r.Take(n)
		m.length -= int64(len(before))
	}
	o := http1.CopyOptions{Rechunk: rapid.Bool().Draw(t, "rechunk")}
	got, err := copied(r, m.kind, m.length, o)
	if err != nil {
		t.Fatal(err)
	}
	if o.Rechunk && m.kind != http1.BodyNone {
		if got, err = copied(reading(got, false, http1.Limits{}), http1.BodyChunked, 0, http1.CopyOptions{}); err != nil {
			t.Fatalf("the chunks we write are refused: %v", err)
		}
	}
	if string(before)+got != m.body {
		t.Fatalf("body: got %q and %q, want %q", before, got, m.body)
	}
}

// pieces returns at most size bytes for each read, and the end with the last.
type pieces struct {
	s    string
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	n := copy(b[:min(len(b), p.size)], p.s)
	if p.s = p.s[n:]; p.s == "" {
		return n, io.EOF
	}
	return n, nil
}

func TestEndOfConnection(t *testing.T) {
	reset := errors.New("connection reset")
	for _, c := range []struct {
		in   string
		then error
		want error
	}{
		{"", io.EOF, io.EOF},
		{"\r\n", io.EOF, io.EOF},
		{"\r", io.EOF, io.ErrUnexpectedEOF},
		{"G", io.EOF, io.ErrUnexpectedEOF},
		{"GET / HTTP/1.1\r\n", io.EOF, io.ErrUnexpectedEOF},
		{"", reset, reset},
		{"GET / HT", reset, reset},
	} {
		var q http1.Request
		src := io.MultiReader(strings.NewReader(c.in), failing{c.then})
		if err := http1.NewReader(src, http1.Limits{}).ReadRequest(&q); err != c.want {
			t.Errorf("%q, then %v: got %v, want %v", c.in, c.then, err, c.want)
		}
	}
	if err := http1.NewReader(failing{nil}, http1.Limits{}).ReadRequest(new(http1.Request)); err != io.ErrNoProgress {
		t.Errorf("a source that returns nothing: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestRefusedAtOnce checks that a bad line is refused when it is complete, not
// when the head is: its sender may wait for an answer before it sends more.
func TestRefusedAtOnce(t *testing.T) {
	for _, in := range []string{"GET / HTTP/1.1\n", "GET / HTTP/2.0\r\n", "GET / HTTP/1.1\r\nA : b\r\n", "GET / HTTP/1.1\r\nContent-Length: x\r\n"} {
		src := io.MultiReader(strings.NewReader(in), failing{errors.New("read on")})
		err := http1.NewReader(src, http1.Limits{}).ReadRequest(new(http1.Request))
		var e *http1.Error
		if !errors.As(err, &e) {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func TestLimits(t *testing.T) {
	l := http1.Limits{InitialBuffer: 64, MaxHead: 200, MaxTarget: 50, MaxFields: 3}
	head := func(line, rest string) string { return "GET " + line + " HTTP/1.1\r\nHost: a\r\n" + rest + "\r\n" }
	pad := func(n int) string {
		s := head("/", "A: \r\n")
		return strings.Replace(s, "A: ", "A: "+strings.Repeat("x", n-len(s)), 1)
	}
	for _, c := range []struct {
		in     string
		status int
	}{
		{head("/"+strings.Repeat("a", 49), ""), 0},
		{head("/"+strings.Repeat("a", 50), ""), 414},
		{head("/"+strings.Repeat("a", 150), ""), 414},
		{head("/", "A: 1\r\nB: 2\r\n"), 0},
		{head("/", "A: 1\r\nB: 2\r\nC: 3\r\n"), 431},
		{pad(200), 0},
		{pad(201), 431},
		{pad(5000), 431},
	} {
		for _, single := range []bool{false, true} {
			var q http1.Request
			err := reading(c.in, single, l).ReadRequest(&q)
			if c.status == 0 {
				if err != nil {
					t.Errorf("%.60q: %v", c.in, err)
				}
				continue
			}
			wantError(t, err, c.status, "too")
		}
	}
}

// TestReleasedBuffer checks that a connection that waits holds no buffer, that
// what arrives then is read, and that a deadline is kept.
func TestReleasedBuffer(t *testing.T) {
	client, server := tcpPair(t)
	r := http1.NewReader(server, http1.Limits{})
	var q http1.Request
	for i := range 3 {
		got := make(chan string)
		go func() { got <- oneRequest(r, &q) }()
		_, err := fmt.Fprintf(client, "GET /%d HTTP/1.1\r\nHost: a\r\n\r\n", i)
		noError(t, err)
		if want := fmt.Sprintf("GET /%d HTTP/1.1 path=/%d host=a body=none\nHost: \"a\"\n", i, i); <-got != want {
			t.Errorf("request %d is not %s", i, want)
		}
		r.Release()
		if http1.HasBuffer(r) {
			t.Error("a buffer is held after the release")
		}
	}
	noError(t, server.SetReadDeadline(time.Unix(1, 0)))
	var timeout net.Error
	if err := r.ReadRequest(&q); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("behind the deadline: %v", err)
	}
	if http1.HasBuffer(r) {
		t.Error("a buffer is held after the deadline")
	}
	noError(t, server.SetReadDeadline(time.Time{}))
	noError(t, client.CloseWrite())
	if err := r.ReadRequest(&q); err != io.EOF {
		t.Errorf("after the close: %v", err)
	}
}

// TestReleaseKeepsWhatIsBuffered checks that the next request is not lost.
func TestReleaseKeepsWhatIsBuffered(t *testing.T) {
	const one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
	r := reading(one+one, false, http1.Limits{})
	var q http1.Request
	noError(t, r.ReadRequest(&q))
	r.Release()
	noError(t, r.ReadRequest(&q))
	r.Reset(strings.NewReader(one))
	noError(t, r.ReadRequest(&q))
}

// tcpPair is a connection with both its ends.
func tcpPair(t testing.TB) (client, server *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	return c.(*net.TCPConn), s.(*net.TCPConn)
}
