package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/routing/http1"
)

const typicalRequest = "GET /api/v1/orders/12345?expand=items HTTP/1.1\r\n" +
	"Host: shop.example.com\r\n" +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n" +
	"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n" +
	"Accept-Language: en-US,en;q=0.5\r\n" +
	"Accept-Encoding: gzip, deflate, br\r\n" +
	"Referer: https://shop.example.com/orders\r\n" +
	"Connection: keep-alive\r\n" +
	"Cookie: theme=dark; session=4f1c2d9ab37e\r\n\r\n"

const typicalResponse = "HTTP/1.1 200 OK\r\n" +
	"Server: nginx\r\n" +
	"Date: Sat, 28 Nov 2026 12:00:00 GMT\r\n" +
	"Content-Type: application/json\r\n" +
	"Content-Length: 119\r\n" +
	"Connection: keep-alive\r\n" +
	"Cache-Control: no-store\r\n\r\n"

func BenchmarkParseRequest(b *testing.B) {
	in := []byte(typicalRequest)
	var q http1.Request
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := http1.ParseRequest(in, &q); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParseResponse(b *testing.B) {
	in, method := []byte(typicalResponse), []byte("GET")
	var p http1.Response
	b.SetBytes(int64(len(in)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := http1.ParseResponse(in, method, &p); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkNetHTTP is what the standard library takes for the same request.
func BenchmarkNetHTTP(b *testing.B) {
	src := strings.NewReader(typicalRequest)
	br := bufio.NewReader(src)
	b.ReportAllocs()
	for b.Loop() {
		src.Reset(typicalRequest)
		br.Reset(src)
		if _, err := http.ReadRequest(br); err != nil {
			b.Fatal(err)
		}
	}
}

// endless repeats a message for ever.
type endless struct {
	message string
	at      int
}

func (e *endless) Read(b []byte) (int, error) {
	n := copy(b, e.message[e.at:])
	e.at = (e.at + n) % len(e.message)
	return n, nil
}

func BenchmarkReader(b *testing.B) {
	for name, body := range map[string]string{
		"none":    "",
		"length":  "Content-Length: 119\r\n\r\n" + strings.Repeat("x", 119),
		"chunked": "Transfer-Encoding: chunked\r\n\r\n77\r\n" + strings.Repeat("x", 119) + "\r\n0\r\n\r\n",
	} {
		b.Run(name, func(b *testing.B) {
			wire := typicalRequest
			if body != "" {
				wire = strings.TrimSuffix(wire, "\r\n") + body
			}
			r := http1.NewReader(&endless{message: wire}, http1.Limits{})
			var q http1.Request
			head := []byte("HTTP/1.1 200 OK\r\n\r\n")
			b.ReportAllocs()
			for b.Loop() {
				if err := r.ReadRequest(&q); err != nil {
					b.Fatal(err)
				}
				if _, err := r.CopyBody(io.Discard, q.Body, q.Length, http1.CopyOptions{Head: head, Rechunk: q.Body == http1.BodyChunked}); err != nil {
					b.Fatal(err)
				}
				r.Release()
			}
		})
	}
}

func BenchmarkCookieValue(b *testing.B) {
	fs := fieldsOf("Host:a", "Accept:b", "Cookie:theme=dark; lang=en; session=4f1c2d9ab37e")
	b.ReportAllocs()
	for b.Loop() {
		if http1.CookieValue(fs, "session") == nil {
			b.Fatal("not found")
		}
	}
}

// TestNoAllocations pins what the proxy depends on.
func TestNoAllocations(t *testing.T) {
	if raceDetector {
		t.Skip("pools lose buffers under the race detector")
	}
	request, response, get := []byte(typicalRequest), []byte(typicalResponse), []byte("GET")
	chunked := strings.TrimSuffix(typicalRequest, "\r\n") + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
	var q http1.Request
	var p http1.Response
	if _, err := http1.ParseRequest(request, &q); err != nil {
		t.Fatal(err)
	}
	fields, query := slices.Clone(q.Fields), bytes.Clone(q.Query)
	r := http1.NewReader(&endless{message: chunked}, http1.Limits{})
	out := bytes.NewBuffer(make([]byte, 0, 1024))
	line := make([]byte, 0, 1024)
	for name, f := range map[string]func() error{
		"a request":  func() error { _, err := http1.ParseRequest(request, &q); return err },
		"a response": func() error { _, err := http1.ParseResponse(response, get, &p); return err },
		"a reader": func() error {
			out.Reset()
			if err := r.ReadRequest(&q); err != nil {
				return err
			}
			_, err := r.CopyBody(out, q.Body, q.Length, http1.CopyOptions{Head: get, Rechunk: true})
			return err
		},
		"values": func() error {
			if http1.CookieValue(fields, "session") == nil || http1.Lookup(fields, "accept") == nil || http1.QueryValue(query, "expand") == nil {
				t.Error("not found")
			}
			line = http1.AppendField(http1.AppendStatusLine(line[:0], 200, nil), "A", "b")
			return nil
		},
	} {
		var err error
		if n := testing.AllocsPerRun(100, func() { err = errors.Join(err, f()) }); n > 0 || err != nil {
			t.Errorf("%s: %v allocations, %v", name, n, err)
		}
	}
}
