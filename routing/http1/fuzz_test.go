package http1_test

import (
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/routing/http1"
)

// FuzzRequest checks that nothing panics or reads too far, that a request means
// the same however it arrives and after it was written again, and that net/http
// agrees with all that is accepted.
func FuzzRequest(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		var q http1.Request
		n, err := http1.ParseRequest(tight(b), &q)
		known(t, err)
		in := string(b)
		one, all := oneRequest(reading(in, true, http1.Limits{}), new(http1.Request)), oneRequest(reading(in, false, http1.Limits{}), new(http1.Request))
		if one != all {
			t.Fatalf("byte by byte:\n%s\nat once:\n%s", one, all)
		}
		if err != nil {
			return
		}
		dump := dumpRequest(&q)
		if all != dump {
			t.Fatalf("by the reader:\n%s\nby the parser:\n%s", all, dump)
		}
		if diff := againstNetHTTP(b, n, &q); diff != "" {
			t.Fatalf("net/http differs: %s", diff)
		}
		for i := range n {
			if _, err := http1.ParseRequest(tight(b[:i]), new(http1.Request)); err != http1.ErrShort {
				t.Fatalf("the first %d bytes of %d: %v", i, n, err)
			}
		}
		again := append(append(append(bytes.Clone(q.Method), ' '), q.Target...), " HTTP/1."...)
		again = append(append(again, byte('0'+q.Minor)), "\r\n"...)
		var p http1.Request
		again = appendFields(again, q.Fields)
		if _, err := http1.ParseRequest(tight(again), &p); err != nil || dumpRequest(&p) != dump {
			t.Fatalf("written again: %v\n%s\nbefore:\n%s", err, dumpRequest(&p), dump)
		}
	})
}

// FuzzResponse checks the same of responses.
func FuzzResponse(f *testing.F) {
	f.Fuzz(func(t *testing.T, method string, b []byte) {
		var q, p http1.Response
		n, err := http1.ParseResponse(tight(b), []byte(method), &q)
		known(t, err)
		one, all := oneResponse(reading(string(b), true, http1.Limits{}), method, &p), oneResponse(reading(string(b), false, http1.Limits{}), method, &p)
		if one != all {
			t.Fatalf("byte by byte:\n%s\nat once:\n%s", one, all)
		}
		if err != nil {
			return
		}
		dump := dumpResponse(&q)
		if all != dump {
			t.Fatalf("by the reader:\n%s\nby the parser:\n%s", all, dump)
		}
		for i := range n {
			if _, err := http1.ParseResponse(tight(b[:i]), []byte(method), &p); err != http1.ErrShort {
				t.Fatalf("the first %d bytes of %d: %v", i, n, err)
			}
		}
		again := append(append(bytes.Clone(b[:len("HTTP/1.1 200")]), ' '), q.Reason...)
		again = appendFields(append(again, "\r\n"...), q.Fields)
		if _, err := http1.ParseResponse(tight(again), []byte(method), &p); err != nil || dumpResponse(&p) != dump {
			t.Fatalf("written again: %v\n%s\nbefore:\n%s", err, dumpResponse(&p), dump)
		}
	})
}

// FuzzChunked checks that chunks mean the same however they arrive, that they
// end where the standard library says too, and that ours mean the same again.
func FuzzChunked(f *testing.F) {
	f.Fuzz(func(t *testing.T, b []byte) {
		in := string(b)
		r := reading(in, false, http1.Limits{InitialBuffer: 64})
		body, err := copied(r, http1.BodyChunked, 0, http1.CopyOptions{})
		s := reading(in, true, http1.Limits{})
		single, err1 := copied(s, http1.BodyChunked, 0, http1.CopyOptions{})
		if (err == nil) != (err1 == nil) || err != nil && err.Error() != err1.Error() || err == nil && body != single {
			t.Fatalf("byte by byte: %q, %v\nat once: %q, %v", single, err1, body, err)
		}
		if err != nil {
			var re *http1.ReadError
			if !errors.As(err, &re) {
				t.Fatalf("not an error of reading: %v", err)
			}
			return
		}
		behind := rest(r)
		if !strings.HasSuffix(in, behind) || rest(s) != behind {
			t.Fatalf("%q is left, which is not the end", behind)
		}
		theirs, err := io.ReadAll(httputil.NewChunkedReader(strings.NewReader(in)))
		if err != nil || string(theirs) != body {
			t.Fatalf("the standard library reads %q, %v; ours is %q", theirs, err, body)
		}
		chunks, err := copied(reading(in, false, http1.Limits{}), http1.BodyChunked, 0, http1.CopyOptions{Rechunk: true})
		if err != nil {
			t.Fatal(err)
		}
		again := reading(chunks, false, http1.Limits{})
		if got, err := copied(again, http1.BodyChunked, 0, http1.CopyOptions{}); err != nil || got != body || rest(again) != "" {
			t.Fatalf("our chunks %q: %q, %v", chunks, got, err)
		}
	})
}

// tight copies bytes to where reading behind them panics.
func tight(b []byte) []byte { return append(make([]byte, 0, len(b)), b...)[:len(b):len(b)] }

func known(t *testing.T, err error) {
	var e *http1.Error
	if err != nil && err != http1.ErrShort && !errors.As(err, &e) {
		t.Fatalf("an error of no known kind: %v", err)
	}
}

func appendFields(b []byte, fs []http1.Field) []byte {
	for _, f := range fs {
		b = http1.AppendField(b, f.Name, f.Value)
	}
	return append(b, "\r\n"...)
}
