package http1_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http/httputil"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
)

// writes records each write.
type writes struct{ got []string }

func (w *writes) Write(b []byte) (int, error) {
	w.got = append(w.got, string(b))
	return len(b), nil
}

// TestWrites checks what is written in one piece.
func TestWrites(t *testing.T) {
	head := []byte("HEAD\r\n\r\n")
	for _, c := range []struct {
		name, in string
		kind     http1.BodyKind
		length   int64
		o        http1.CopyOptions
		want     []string
	}{
		{"no body", "x", http1.BodyNone, 0, http1.CopyOptions{Head: head}, []string{"HEAD\r\n\r\n"}},
		{"no body to chunk", "x", http1.BodyNone, 0, http1.CopyOptions{Head: head, Rechunk: true}, []string{"HEAD\r\n\r\n"}},
		{"nothing at all", "x", http1.BodyNone, 0, http1.CopyOptions{}, nil},
		{"length", "hello world", http1.BodyLength, 5, http1.CopyOptions{Head: head}, []string{"HEAD\r\n\r\nhello"}},
		{"length to chunk", "hello world", http1.BodyLength, 5, http1.CopyOptions{Head: head, Rechunk: true}, []string{"HEAD\r\n\r\n5\r\nhello\r\n0\r\n\r\n"}},
		{"chunks", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", http1.BodyChunked, 0, http1.CopyOptions{Head: head}, []string{"HEAD\r\n\r\nhello world"}},
		{"chunks to chunks", "5\r\nhello\r\n6;x\r\n world\r\n0\r\nA: b\r\n\r\n", http1.BodyChunked, 0, http1.CopyOptions{Head: head, Rechunk: true}, []string{"HEAD\r\n\r\nb\r\nhello world\r\n0\r\n\r\n"}},
		{"no chunks", "0\r\n\r\n", http1.BodyChunked, 0, http1.CopyOptions{Head: head, Rechunk: true}, []string{"HEAD\r\n\r\n0\r\n\r\n"}},
		{"a chunk that waits", "5\r\nhello\r\n", http1.BodyChunked, 0, http1.CopyOptions{Head: head, Rechunk: true}, []string{"HEAD\r\n\r\n5\r\nhello\r\n"}},
		{"until the end", "hello", http1.BodyUntilClose, 0, http1.CopyOptions{Head: head, Rechunk: true}, []string{"HEAD\r\n\r\n5\r\nhello\r\n", "0\r\n\r\n"}},
		{"no head", "5\r\nhello\r\n0\r\n\r\n", http1.BodyChunked, 0, http1.CopyOptions{Rechunk: true}, []string{"5\r\nhello\r\n0\r\n\r\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			// What is there already is what came with the head.
			r := reading("GET / HTTP/1.1\r\nHost: a\r\n\r\n"+c.in, false, http1.Limits{})
			noError(t, r.ReadRequest(new(http1.Request)))
			var w writes
			_, err := r.CopyBody(&w, c.kind, c.length, c.o)
			if err != nil && c.name != "a chunk that waits" {
				t.Fatal(err)
			}
			if fmt.Sprintf("%q", w.got) != fmt.Sprintf("%q", c.want) {
				t.Errorf("got %q, want %q", w.got, c.want)
			}
		})
	}
}

// TestLargeBodies checks every way through the buffers, with heads of any size.
func TestLargeBodies(t *testing.T) {
	body := make([]byte, 300_000)
	for i := range body {
		body[i] = byte(rand.N(256))
	}
	var chunks bytes.Buffer
	w := httputil.NewChunkedWriter(&chunks)
	for b := body; len(b) > 0; {
		n := min(len(b), 1+rand.N(70_000))
		_, err := w.Write(b[:n])
		noError(t, err)
		b = b[n:]
	}
	noError(t, w.Close())
	chunks.WriteString("\r\n")
	for _, headSize := range []int{0, 10, 16 << 10, 16<<10 + 1, 100_000} {
		for _, rechunk := range []bool{false, true} {
			for kind, wire := range map[http1.BodyKind][]byte{http1.BodyLength: body, http1.BodyChunked: chunks.Bytes(), http1.BodyUntilClose: body} {
				head := bytes.Repeat([]byte("H"), headSize)
				var out bytes.Buffer
				var progress int64
				n, err := http1.NewReader(bytes.NewReader(wire), http1.Limits{}).CopyBody(&out, kind, int64(len(body)),
					http1.CopyOptions{Head: head, Rechunk: rechunk, Progress: func(n int64) error { progress = n; return nil }})
				noError(t, err)
				if n != int64(len(body)) || progress != n {
					t.Errorf("%s: counted %d bytes, reported %d", kinds[kind], n, progress)
				}
				got, found := bytes.CutPrefix(out.Bytes(), head)
				if rechunk {
					got, err = io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(got)))
					noError(t, err)
				}
				if !found || !bytes.Equal(got, body) {
					t.Errorf("%s with a head of %d bytes, rechunk %v: the body differs", kinds[kind], headSize, rechunk)
				}
			}
		}
	}
}

type brokenWriter struct {
	after int
	err   error
}

func (w *brokenWriter) Write(b []byte) (int, error) {
	if w.after -= len(b); w.after < 0 {
		return 0, w.err
	}
	return len(b), nil
}

// TestSidesOfErrors checks that reading and writing can be told apart, and
// whether something was written when the reading has failed.
func TestSidesOfErrors(t *testing.T) {
	broken := errors.New("broken")
	for _, c := range []struct {
		name, in string
		kind     http1.BodyKind
		length   int64
		started  bool
		cause    error
	}{
		{"length, nothing came", "", http1.BodyLength, 5, false, io.ErrUnexpectedEOF},
		{"length, something came", "hel", http1.BodyLength, 5, true, io.ErrUnexpectedEOF},
		{"chunks, something came", "5\r\nhello\r\n", http1.BodyChunked, 0, true, io.ErrUnexpectedEOF},
		{"chunks, bad at once", "5\r\nhello!!", http1.BodyChunked, 0, false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := copied(reading(c.in, false, http1.Limits{}), c.kind, c.length, http1.CopyOptions{})
			var re *http1.ReadError
			if !errors.As(err, &re) || re.Started != c.started || c.cause != nil && !errors.Is(err, c.cause) {
				t.Errorf("got %#v", err)
			}
		})
	}
	for _, kind := range []http1.BodyKind{http1.BodyLength, http1.BodyChunked, http1.BodyUntilClose} {
		_, err := reading("5\r\nhello\r\n0\r\n\r\n", false, http1.Limits{}).CopyBody(&brokenWriter{err: broken}, kind, 10, http1.CopyOptions{})
		var we *http1.WriteError
		if !errors.As(err, &we) || !errors.Is(err, broken) {
			t.Errorf("%s: got %v", kinds[kind], err)
		}
	}
	_, err := reading("hello", false, http1.Limits{}).CopyBody(io.Discard, http1.BodyLength, 5,
		http1.CopyOptions{Progress: func(int64) error { return broken }})
	if err != broken {
		t.Errorf("progress: got %v", err)
	}
	_, err = reading("hello", false, http1.Limits{}).CopyBody(shortWriter{}, http1.BodyLength, 5, http1.CopyOptions{})
	if !errors.Is(err, io.ErrShortWrite) {
		t.Errorf("a short write: got %v", err)
	}
}

type shortWriter struct{}

func (shortWriter) Write(b []byte) (int, error) { return len(b) - 1, nil }

func TestMaxBytes(t *testing.T) {
	for _, c := range []struct {
		in   string
		kind http1.BodyKind
		max  int64
		ok   bool
	}{
		{"hello", http1.BodyLength, 5, true},
		{"hello", http1.BodyLength, 4, false},
		{"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", http1.BodyChunked, 5, true},
		{"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", http1.BodyChunked, 4, false},
		{"7fffffffffffffff\r\n", http1.BodyChunked, 4, false},
		{"3\r\nhel\r\n7fffffffffffffff\r\n", http1.BodyChunked, 4, false},
		{"hello", http1.BodyUntilClose, 5, true},
		{"hello", http1.BodyUntilClose, 4, false},
	} {
		r := reading("GET / HTTP/1.1\r\nHost: a\r\n\r\n"+c.in, false, http1.Limits{})
		noError(t, r.ReadRequest(new(http1.Request)))
		got, err := copied(r, c.kind, 5, http1.CopyOptions{MaxBytes: c.max})
		switch {
		case c.ok && (err != nil || got != "hello"):
			t.Errorf("%q: %q, %v", c.in, got, err)
		case !c.ok:
			wantError(t, err, 413, "too large")
		}
	}
}

// TestBadAnswer checks that a bad body of a response is not blamed on a client.
func TestBadAnswer(t *testing.T) {
	r := reading("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", false, http1.Limits{})
	noError(t, r.ReadResponse([]byte("GET"), new(http1.Response)))
	_, err := copied(r, http1.BodyChunked, 0, http1.CopyOptions{})
	wantError(t, err, 502, "hexadecimal")
}

// TestExtensionsCost checks that extensions may not outweigh the data for long,
// and that data makes up for them.
func TestExtensionsCost(t *testing.T) {
	ext := ";" + strings.Repeat("x", 200)
	_, err := copied(reading(strings.Repeat("1"+ext+"\r\na\r\n", 100)+"0\r\n\r\n", false, http1.Limits{}), http1.BodyChunked, 0, http1.CopyOptions{})
	wantError(t, err, 400, "more extensions than data")
	data := strings.Repeat("a", 0x100)
	got, err := copied(reading(strings.Repeat("100"+ext+"\r\n"+data+"\r\n", 100)+"0\r\n\r\n", false, http1.Limits{}), http1.BodyChunked, 0, http1.CopyOptions{})
	if err != nil || len(got) != 25600 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestTrailerCount(t *testing.T) {
	for n, ok := range map[int]bool{3: true, 4: false} {
		_, err := copied(reading("0\r\n"+strings.Repeat("A: b\r\n", n)+"\r\n", false, http1.Limits{MaxFields: 3}), http1.BodyChunked, 0, http1.CopyOptions{})
		if ok {
			noError(t, err)
		} else {
			wantError(t, err, 431, "too many fields")
		}
	}
}

// TestSplice checks the way between two sockets, which takes no buffer.
func TestSplice(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	client, in := tcpPair(t)
	out, server := tcpPair(t)
	sent := make(chan error, 2)
	go func() {
		_, err := fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n", len(body))
		sent <- err
		_, err = client.Write(append(body, "GET /next HTTP/1.1\r\nHost: a\r\n\r\n"...))
		sent <- err
	}()
	got := make(chan []byte)
	go func() {
		b, _ := io.ReadAll(server)
		got <- b
	}()
	r := http1.NewReader(in, http1.Limits{})
	var q http1.Request
	noError(t, r.ReadRequest(&q))
	calls := 0
	n, err := r.CopyBody(out, q.Body, q.Length, http1.CopyOptions{Head: []byte("HEAD"), Progress: func(int64) error { calls++; return nil }})
	noError(t, err)
	noError(t, out.CloseWrite())
	if b := <-got; n != int64(len(body)) || string(b) != "HEAD"+string(body) {
		t.Errorf("%d of %d bytes, and what arrived differs", n, len(body))
	}
	if calls < 2 {
		t.Errorf("progress was reported %d times", calls)
	}
	if size := http1.BufferSize(r); size > 4096 && runtime.GOOS == "linux" {
		t.Errorf("the body went through a buffer of %d bytes", size)
	}
	if oneRequest(r, &q) != "GET /next HTTP/1.1 path=/next host=a body=none\nHost: \"a\"\n" {
		t.Errorf("the next request is %s", dumpRequest(&q))
	}
	noError(t, <-sent)
	noError(t, <-sent)
}

// TestSpliceSides checks that errors of the kernel name the side that failed.
func TestSpliceSides(t *testing.T) {
	past := time.Unix(1, 0)
	for name, c := range map[string]struct {
		prepare func(client, in, out, server *net.TCPConn) error
		reading bool
	}{
		"the sender is late":     {func(_, in, _, _ *net.TCPConn) error { return in.SetReadDeadline(past) }, true},
		"the sender goes away":   {func(client, _, _, _ *net.TCPConn) error { return client.CloseWrite() }, true},
		"the receiver is late":   {func(_, _, out, _ *net.TCPConn) error { return out.SetWriteDeadline(past) }, false},
		"the receiver goes away": {func(_, _, out, _ *net.TCPConn) error { return out.CloseWrite() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			client, in := tcpPair(t)
			out, server := tcpPair(t)
			_, err := client.Write([]byte("some bytes"))
			noError(t, err)
			noError(t, c.prepare(client, in, out, server))
			_, err = http1.NewReader(in, http1.Limits{}).CopyBody(out, http1.BodyLength, 1<<20, http1.CopyOptions{})
			var re *http1.ReadError
			var we *http1.WriteError
			if errors.As(err, &re) != c.reading || errors.As(err, &we) == c.reading {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestTunnelHoldsNoBuffer checks what a long-lived connection costs.
func TestTunnelHoldsNoBuffer(t *testing.T) {
	client, in := tcpPair(t)
	r := http1.NewReader(in, http1.Limits{})
	passed := make(chan string)
	done := make(chan error)
	go func() {
		_, err := r.CopyBody(chanWriter(passed), http1.BodyUntilClose, 0, http1.CopyOptions{})
		done <- err
	}()
	for _, s := range []string{"ping", "pong"} {
		_, err := client.Write([]byte(s))
		noError(t, err)
		if got := <-passed; got != s {
			t.Errorf("got %q, want %q", got, s)
		}
	}
	noError(t, client.CloseWrite())
	noError(t, <-done)
	if http1.HasBuffer(r) {
		t.Error("a buffer is held")
	}
}

type chanWriter chan string

func (c chanWriter) Write(b []byte) (int, error) {
	c <- string(b)
	return len(b), nil
}
