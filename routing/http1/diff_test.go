package http1_test

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/routing/http1"
)

// againstNetHTTP says where net/http disagrees about a request that we accept,
// whose head has n bytes. What it refuses we must refuse as well.
func againstNetHTTP(b []byte, n int, q *http1.Request) string {
	const body = "0\r\n\r\n"
	src := bufio.NewReaderSize(strings.NewReader(string(b[:n])+body), n+len(body))
	h, err := http.ReadRequest(src)
	if err != nil {
		return fmt.Sprintf("it refuses: %v", err)
	}
	length := q.Length
	if q.Body == http1.BodyChunked {
		length = -1
	}
	for _, d := range []struct {
		what       string
		ours, nets any
	}{
		{"end of the head", len(body), src.Buffered()},
		{"method", string(q.Method), h.Method},
		{"target", string(q.Target), h.RequestURI},
		{"host", string(q.Host), h.Host},
		{"minor version", q.Minor, h.ProtoMinor},
		{"length", length, h.ContentLength},
		{"close", q.Close, h.Close},
		{"fields", ourFields(q), netFields(h)},
	} {
		if d.ours != d.nets {
			return fmt.Sprintf("%s: ours is %v, its is %v", d.what, d.ours, d.nets)
		}
	}
	if path, err := url.PathUnescape(string(q.Path)); q.Path != nil && (err != nil || path != cmp.Or(h.URL.Path, "/")) {
		return fmt.Sprintf("path: ours is %s, its is %s", q.Path, h.URL.Path)
	}
	if string(q.Query) != h.URL.RawQuery {
		return fmt.Sprintf("query: ours is %s, its is %s", q.Query, h.URL.RawQuery)
	}
	return ""
}

// TestAgainstNetHTTP composes requests of pieces that parsers are known to
// disagree about, always the same ones.
func TestAgainstNetHTTP(t *testing.T) {
	accepted := 0
	random := rand.New(rand.NewPCG(1, 1))
	pick := func(of ...string) string { return of[random.IntN(len(of))] }
	for range 100_000 {
		line := pick("GET", "POST", "OPTIONS", "CONNECT", "M-S", "get", "G\t") +
			pick(" ", " ", " ", "  ", "\t") +
			pick("/", "/a%20b?c=%", "//a", "*", "http://a", "http://a/b?c", "HTTP://A:80/", "a:80", "[::1]:1", "/%", "/a?b?c", "/a\\b", "/:@!$&'()*+,;=", "http://[::1]/") +
			pick(" ", " ", " ", "  ") + pick("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2")
		var b strings.Builder
		b.WriteString(line + pick("\r\n", "\r\n", "\r\n", "\n") + pick("", "Host: a\r\n", "Host: a\r\n"))
		for range random.IntN(5) {
			b.WriteString(pick("Host", "Host", "Content-Length", "Transfer-Encoding", "Connection", "Trailer", "Upgrade", "Expect", "X-a", "pragma", "Cookie", "\tX", "X ", "TE"))
			b.WriteString(pick(":", ": ", ":\t", ": \t "))
			b.WriteString(pick("a", "a", "A:80", "[::1]:1", "5", "0", "05", "5, 5", "chunked", "Chunked", "close", "keep-alive, x-a", "close,,a", "no-cache", "\xff", "100-continue", ""))
			b.WriteString(pick("\r\n", "\r\n", "\r\n", " \r\n", "\t\r\n", "\r\n ", "\n", "\r"))
		}
		in := []byte(b.String() + "\r\n")
		var q http1.Request
		n, err := http1.ParseRequest(in, &q)
		if err != nil {
			continue
		}
		accepted++
		if diff := againstNetHTTP(in, n, &q); diff != "" {
			t.Fatalf("net/http differs on %q: %s", in, diff)
		}
	}
	if accepted < 2000 {
		t.Errorf("only %d were accepted", accepted)
	}
}

// moved are fields that net/http takes out of the header, or makes up.
var moved = map[string]bool{"Host": true, "Transfer-Encoding": true, "Trailer": true, "Cache-Control": true}

func ourFields(q *http1.Request) string {
	var b strings.Builder
	names := map[string][]string{}
	for _, f := range q.Fields {
		name := http.CanonicalHeaderKey(string(f.Name))
		if !moved[name] {
			names[name] = append(names[name], string(f.Value))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		fmt.Fprintf(&b, "%s=%q;", name, names[name])
	}
	return b.String()
}

func netFields(h *http.Request) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h.Header)) {
		if !moved[name] {
			fmt.Fprintf(&b, "%s=%q;", name, h.Header[name])
		}
	}
	return b.String()
}
