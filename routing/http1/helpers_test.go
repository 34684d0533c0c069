package http1_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pacelinehq/paceline/routing/http1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kinds names the kinds of body as tests write them.
var kinds = map[http1.BodyKind]string{
	http1.BodyNone: "none", http1.BodyLength: "length", http1.BodyChunked: "chunked", http1.BodyUntilClose: "until-close",
}

func flags(b *strings.Builder, kind http1.BodyKind, length int64, closes bool, upgrade []byte) {
	fmt.Fprintf(b, " body=%s", kinds[kind])
	if length > 0 {
		fmt.Fprintf(b, " length=%d", length)
	}
	if closes {
		b.WriteString(" close")
	}
	if upgrade != nil {
		fmt.Fprintf(b, " upgrade=%q", upgrade)
	}
}

func fieldLines(b *strings.Builder, fields []http1.Field) {
	for _, f := range fields {
		hop := ""
		if f.Hop {
			hop = " (hop)"
		}
		fmt.Fprintf(b, "%s: %q%s\n", f.Name, f.Value, hop)
	}
}

// dumpRequest writes down everything that was understood.
func dumpRequest(q *http1.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.%d", q.Method, q.Target, q.Minor)
	if q.Path != nil {
		fmt.Fprintf(&b, " path=%s", q.Path)
	}
	if q.Query != nil {
		fmt.Fprintf(&b, " query=%s", q.Query)
	}
	fmt.Fprintf(&b, " host=%s", q.Host)
	flags(&b, q.Body, q.Length, q.Close, q.Upgrade)
	if q.ExpectContinue {
		b.WriteString(" continue")
	}
	b.WriteByte('\n')
	fieldLines(&b, q.Fields)
	return b.String()
}

func dumpResponse(p *http1.Response) string {
	var b strings.Builder
	fmt.Fprintf(&b, "HTTP/1.%d %d %q", p.Minor, p.Status, p.Reason)
	flags(&b, p.Body, p.Length, p.Close, p.Upgrade)
	b.WriteByte('\n')
	fieldLines(&b, p.Fields)
	return b.String()
}

// oneRequest reads a request and says what came of it.
func oneRequest(r *http1.Reader, q *http1.Request) string {
	if err := r.ReadRequest(q); err != nil {
		return err.Error() + "\n"
	}
	return dumpRequest(q)
}

func oneResponse(r *http1.Reader, method string, p *http1.Response) string {
	if err := r.ReadResponse([]byte(method), p); err != nil {
		return err.Error() + "\n"
	}
	return dumpResponse(p)
}

// copied reads a body and says what came of it.
func copied(r *http1.Reader, kind http1.BodyKind, length int64, o http1.CopyOptions) (string, error) {
	var out bytes.Buffer
	n, err := r.CopyBody(&out, kind, length, o)
	if !o.Rechunk && o.Head == nil && n != int64(out.Len()) {
		panic(fmt.Sprintf("counted %d bytes of %d", n, out.Len()))
	}
	return out.String(), err
}

// reading makes a Reader of bytes that come in one piece, or one by one.
func reading(in string, single bool, l http1.Limits) *http1.Reader {
	var src io.Reader = strings.NewReader(in)
	if single {
		src = iotest.OneByteReader(src)
	}
	return http1.NewReader(src, l)
}

// wantError checks status and words of a refusal.
func wantError(t *testing.T, err error, status int, words string) {
	t.Helper()
	var e *http1.Error
	if !errors.As(err, &e) || e.Status != status || !strings.Contains(e.Reason, words) {
		t.Errorf("got %v, want %d: ... %s", err, status, words)
	}
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
