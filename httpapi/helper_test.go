package httpapi_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of the tests; nothing depends on its length.
const patience = 20 * time.Second

// api is a server over a cluster of one.
type api struct {
	t       testing.TB
	cluster *httpapitest.Cluster
	sink    *httpapitest.Sink
	server  *httpapi.Server
	log     *bytes.Buffer
}

func newAPI(t testing.TB, change ...func(*httpapi.Config)) *api {
	t.Helper()
	a := &api{t: t, cluster: httpapitest.New("n1"), sink: &httpapitest.Sink{}, log: &bytes.Buffer{}}
	httpapitest.Web(a.cluster)
	cfg := httpapi.Config{
		Node: "n1", Version: "test", Cluster: a.cluster, Status: a.cluster.Status, Metrics: a.sink,
		Logs: httpapitest.Logs{Text: "one\ntwo\nthree\n"}, WriteTimeout: patience,
		Logger: slog.New(slog.NewTextHandler(a.log, nil)),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if a.server, err = httpapi.New(cfg); err != nil {
		t.Fatal(err)
	}
	a.server.Start()
	t.Cleanup(func() { _ = a.server.Shutdown(context.Background()) })
	return a
}

// newServerOn is another node's API over the same cluster.
func newServerOn(t *testing.T, c *httpapitest.Cluster) *api {
	t.Helper()
	a := &api{t: t, cluster: c, sink: &httpapitest.Sink{}, log: &bytes.Buffer{}}
	var err error
	if a.server, err = httpapi.New(httpapi.Config{Node: "n2", Cluster: c, Status: c.Status}); err != nil {
		t.Fatal(err)
	}
	a.server.Start()
	t.Cleanup(func() { _ = a.server.Shutdown(context.Background()) })
	return a
}

// do sends a request; headers are "Name: value" lines.
func (a *api) do(method, path, body string, headers ...string) *httptest.ResponseRecorder {
	var r io.Reader
	if body != "" {
		r = strings.NewReader(body)
	}
	req := httptest.NewRequestWithContext(context.Background(), method, path, r)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	return a.send(req)
}

func (a *api) send(req *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	a.server.ServeHTTP(w, req)
	return w
}

// want checks the status of an answer and decodes its body.
func want[T any](t testing.TB, w *httptest.ResponseRecorder, status int) T {
	t.Helper()
	if w.Code != status {
		t.Fatalf("status %d, want %d: %s", w.Code, status, w.Body)
	}
	var v T
	if w.Body.Len() > 0 {
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Fatalf("%v: %s", err, w.Body)
		}
	}
	return v
}

// problem checks that an answer is a complete problem document.
func problem(t testing.TB, w *httptest.ResponseRecorder, status int, code fsm.Kind) client.Problem {
	t.Helper()
	p := want[client.Problem](t, w, status)
	if got := w.Header().Get("Content-Type"); got != client.ProblemType {
		t.Errorf("content type %q", got)
	}
	if p.Code != code || p.Status != status || p.Title == "" || p.Detail == "" || p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("incomplete problem, want code %s: %s", code, w.Body)
	}
	checkHeaders(t, w.Header())
	return p
}

func checkHeaders(t testing.TB, h http.Header) {
	t.Helper()
	for _, name := range []string{"Paceline-Index", "Paceline-Served-By", "Paceline-Stale-Ms", "X-Request-Id"} {
		if h.Get(name) == "" {
			t.Errorf("the answer has no %s", name)
		}
	}
}

func fieldsOf(p client.Problem) []string {
	var out []string
	for _, f := range p.Errors {
		out = append(out, f.Field)
	}
	return out
}
