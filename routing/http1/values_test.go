package http1_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/routing/http1"
	"pgregory.net/rapid"
)

func fieldsOf(lines ...string) []http1.Field {
	var fs []http1.Field
	for _, l := range lines {
		name, value, _ := strings.Cut(l, ":")
		fs = append(fs, http1.Field{Name: []byte(name), Value: []byte(value)})
	}
	return fs
}

func TestLookup(t *testing.T) {
	fs := fieldsOf("Accept:1", "X-Id:", "x-ID:2", "X_Id:3")
	for name, want := range map[string]string{"accept": "1", "ACCEPT": "1", "x-id": "", "X-Id": "", "x_id": "3", "x\rid": "nil", "b": "nil"} {
		got := "nil"
		if v := http1.Lookup(fs, name); v != nil {
			got = string(v)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

func TestCookieValue(t *testing.T) {
	fs := fieldsOf(`Cookie:a=1; bb=2;b=3;c="4"; d=; e=x y; e=ok; f="; g=h=i; =j; k`, "X:a=2", "cookie: l=5 ;\tm=6; a=7")
	for name, want := range map[string]string{
		"a": "1", "bb": "2", "b": "3", "c": "4", "d": "", "e": "ok", "f": "nil", "g": "h=i", "h": "nil", "k": "nil", "l": "5", "m": "6", "A": "nil", "": "j",
	} {
		got := "nil"
		if v := http1.CookieValue(fs, name); v != nil {
			got = string(v)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", name, got, want)
		}
	}
}

// TestCookiesAsNetHTTP compares with net/http, which lets spaces and commas
// through that RFC 6265 does not, and names without a value.
func TestCookiesAsNetHTTP(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.StringMatching(`(a=|b=|[b"=\\\t]|;|; )*`).Draw(t, "line")
		h := http.Request{Header: http.Header{"Cookie": {line}}}
		want := "nil"
		if c, err := h.Cookie("a"); err == nil {
			want = c.Value
		}
		got := "nil"
		if v := http1.CookieValue(fieldsOf("Cookie:"+line), "a"); v != nil {
			got = string(v)
		}
		if got != want {
			t.Fatalf("%q: got %s, want %s", line, got, want)
		}
	})
}

func TestQueryValue(t *testing.T) {
	for query, want := range map[string]string{
		"a=1": "1", "a=1&a=2": "1", "b=1&a=2": "2", "ab=1&a=2": "2", "a": "", "a&a=1": "", "a=": "", "a=b=c": "b=c",
		"": "nil", "&&": "nil", "A=1": "nil", "=a": "nil", "a=%20+": "%20+", "ba=1": "nil",
	} {
		got := "nil"
		if v := http1.QueryValue([]byte(query), "a"); v != nil {
			got = string(v)
		}
		if got != want {
			t.Errorf("%q: got %s, want %s", query, got, want)
		}
	}
	if v := http1.QueryValue([]byte("&a&=x"), ""); string(v) != "x" {
		t.Errorf("the parameter without a name: %q", v)
	}
}

func TestQueryAsNetURL(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		query := rapid.StringMatching(`([ab=&]|a=)*`).Draw(t, "query")
		values, err := url.ParseQuery(query)
		if err != nil {
			t.Skip()
		}
		v := http1.QueryValue([]byte(query), "a")
		if string(v) != values.Get("a") || (v != nil) != values.Has("a") {
			t.Fatalf("%q: got %q, want %q", query, v, values.Get("a"))
		}
	})
}

func TestAppend(t *testing.T) {
	b := http1.AppendStatusLine(nil, 200, nil)
	b = http1.AppendStatusLine(b, 299, []byte("Fine"))
	b = http1.AppendStatusLine(b, 298, nil)
	b = http1.AppendRequestLine(b, []byte("GET"), []byte("/a"))
	b = http1.AppendField(b, "A", []byte("b"))
	b = http1.AppendField(b, []byte("C"), "")
	b = http1.AppendInt(b, -12)
	if want := "HTTP/1.1 200 OK\r\nHTTP/1.1 299 Fine\r\nHTTP/1.1 298 \r\nGET /a HTTP/1.1\r\nA: b\r\nC: \r\n-12"; string(b) != want {
		t.Errorf("got %q, want %q", b, want)
	}
}

// TestStatusText checks that the reasons are those of the registry.
func TestStatusText(t *testing.T) {
	known := 0
	for status := range 600 {
		ours := http1.StatusText(status)
		if ours == "" {
			continue
		}
		known++
		if theirs := http.StatusText(status); ours != theirs && status != 413 && status != 414 {
			t.Errorf("%d: ours is %q, net/http has %q", status, ours, theirs)
		}
	}
	if known < 20 {
		t.Errorf("only %d have a reason", known)
	}
}
