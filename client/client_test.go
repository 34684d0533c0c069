package client_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a scripted endpoint: each request takes the next answer, the last
// one stays.
type node struct {
	*httptest.Server
	mu      sync.Mutex
	answers []func(http.ResponseWriter)
	keys    []string
	paths   []string
}

func newNode(t *testing.T, answers ...func(http.ResponseWriter)) *node {
	t.Helper()
	n := &node{answers: answers}
	n.Server = httptest.NewServer(n)
	t.Cleanup(n.Close)
	return n
}

// ServeHTTP implements http.Handler.
func (n *node) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	answer := n.answers[0]
	if len(n.answers) > 1 {
		n.answers = n.answers[1:]
	}
	n.keys = append(n.keys, r.Header.Get("Idempotency-Key"))
	n.paths = append(n.paths, r.Method+" "+r.URL.String())
	n.mu.Unlock()
	answer(w)
}

func (n *node) seen() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.paths...)
}

func (n *node) sent() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.keys...)
}

func ok(body string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("ETag", `"7"`)
		w.Header().Set("Paceline-Index", "42")
		w.Header().Set("Paceline-Served-By", "n1")
		_, _ = fmt.Fprint(w, body)
	}
}

func fails(status int, code fsm.Kind) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", client.ProblemType)
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"code":%q,"title":"t","detail":"said %s","hint":"h","requestId":"r"}`, code, code)
	}
}

// cut ends the connection without an answer: nobody knows what was done.
func cut(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		_ = conn.Close()
	}
}

func connect(t *testing.T, urls ...string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: urls, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// A write is sent again, at the next endpoint, under the same key.
func TestWriteFailsOverUnderOneKey(t *testing.T) {
	for name, broken := range map[string]func(http.ResponseWriter){
		"cut off": cut, "no leader": fails(503, fsm.NoLeader), "unknown outcome": fails(504, fsm.UnknownOutcome), "starting": fails(503, fsm.Unavailable),
	} {
		t.Run(name, func(t *testing.T) {
			bad, good := newNode(t, broken), newNode(t, ok(`{"name":"web","desired":4}`))
			c := connect(t, deadAddress(t), bad.URL, good.URL)
			g, err := c.ScaleGroup(t.Context(), "web", client.ScaleRequest{Desired: 4})
			if err != nil || g.Desired != 4 {
				t.Fatalf("%+v, %v", g, err)
			}
			if len(bad.sent()) != 1 || bad.sent()[0] == "" || bad.sent()[0] != good.sent()[0] {
				t.Errorf("keys %v and %v", bad.sent(), good.sent())
			}
			// It stays with the one that answers.
			if _, err := c.GetGroup(t.Context(), "web"); err != nil || len(bad.seen()) != 1 {
				t.Errorf("the failed endpoint was asked again: %v %v", bad.seen(), err)
			}
			if _, err := c.ScaleGroup(t.Context(), "web", client.ScaleRequest{}, client.WithIdempotencyKey("mine")); err != nil || good.sent()[2] != "mine" {
				t.Errorf("keys %v, %v", good.sent(), err)
			}
		})
	}
}

// An error that another attempt can not change is told at once.
func TestFinalErrorsAreNotRetried(t *testing.T) {
	for status, code := range map[int]fsm.Kind{
		404: fsm.NotFound, 409: fsm.Conflict, 412: fsm.StaleRevision, 422: fsm.Invalid, 401: fsm.Unauthorized, 500: fsm.Internal,
	} {
		n := newNode(t, fails(status, code))
		_, err := connect(t, n.URL).GetGroup(t.Context(), "web")
		var p *client.Problem
		if !errors.As(err, &p) || p.Code != code || p.Status != status || p.Hint != "h" || p.RequestID != "r" || len(n.seen()) != 1 {
			t.Errorf("%d: %+v after %d requests", status, err, len(n.seen()))
		}
	}
}

func TestRetriesAreBounded(t *testing.T) {
	n := newNode(t, fails(503, fsm.NoLeader))
	_, err := connect(t, n.URL).GetGroup(t.Context(), "web")
	if client.CodeOf(err) != fsm.NoLeader || len(n.seen()) < 2 || len(n.seen()) > 20 {
		t.Errorf("%v after %d requests", err, len(n.seen()))
	}
	once := newNode(t, fails(503, fsm.NoLeader))
	if _, err := connect(t, once.URL).Raw(t.Context(), "GET", "/readyz", nil, client.Once()); err == nil || len(once.seen()) != 1 {
		t.Errorf("Once: %v after %d requests", err, len(once.seen()))
	}
	_, err = connect(t, deadAddress(t)).GetGroup(t.Context(), "web")
	if client.CodeOf(err) != client.CodeUnreachable {
		t.Errorf("nobody there: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = connect(t, deadAddress(t)).GetGroup(ctx, "web")
	if code := client.CodeOf(err); code != client.CodeTimeout && code != client.CodeUnreachable {
		t.Errorf("a deadline: %v", err)
	}
}

func TestOptionsAndMeta(t *testing.T) {
	n := newNode(t, ok(`{"items":[{"id":"a"}],"next":"c2"}`), ok(`{"items":[{"id":"b"}]}`))
	c := connect(t, n.URL)
	var meta client.Meta
	var ids []string
	opts := []client.Option{client.Capture(&meta), client.WithFilter("group", "web"), client.WithFilter("node", ""), client.WithLimit(1)}
	for i, err := range client.Pages(t.Context(), c.ListInstances, opts...) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, i.ID)
	}
	if got := strings.Join(n.seen(), ","); got != "GET /v1/instances?group=web&limit=1,GET /v1/instances?cursor=c2&group=web&limit=1" || len(ids) != 2 {
		t.Errorf("%v by %s", ids, got)
	}
	if meta.Index != 42 || meta.Revision != 7 || meta.ServedBy != "n1" || meta.Status != 200 {
		t.Errorf("meta %+v", meta)
	}
}

func TestWaitForBlocksBetweenReads(t *testing.T) {
	n := newNode(t, ok(`{"desired":1}`), ok(`{"desired":2}`))
	c := connect(t, n.URL)
	read := func(ctx context.Context, opts ...client.Option) (*fsm.Group, error) {
		return c.GetGroup(ctx, "web", opts...)
	}
	g, err := client.WaitFor(t.Context(), 41, read, func(g *fsm.Group) bool { return g.Desired == 2 })
	if err != nil || g.Desired != 2 {
		t.Fatalf("%+v, %v", g, err)
	}
	if got := n.seen(); !strings.Contains(got[0], "index=40&wait=5s") || !strings.Contains(got[1], "index=42&wait=5s") {
		t.Errorf("requests %v", got)
	}
}

func TestAnswersThatAreNotOurs(t *testing.T) {
	html := func(w http.ResponseWriter) { _, _ = fmt.Fprint(w, "<html>") }
	proxy := func(w http.ResponseWriter) { w.WriteHeader(http.StatusTeapot) }
	for _, answer := range []func(http.ResponseWriter){html, proxy} {
		_, err := connect(t, newNode(t, answer).URL).GetGroup(t.Context(), "web")
		var p *client.Problem
		if !errors.As(err, &p) || !strings.Contains(p.Hint, "API of a paceline node") {
			t.Errorf("%v", err)
		}
	}
}

func TestEndpoints(t *testing.T) {
	for _, bad := range []string{"", "ftp://x", "http://", "http://x/path", "::"} {
		if _, err := client.New(client.Config{Endpoints: []string{bad}}); client.CodeOf(err) != fsm.Invalid {
			t.Errorf("%q: %v", bad, err)
		}
	}
	c, err := client.New(client.Config{})
	if err != nil || c.Endpoints()[0] != client.DefaultEndpoint {
		t.Errorf("default %v, %v", c.Endpoints(), err)
	}
}

// A stream goes on at the place where it broke.
func TestEventsResume(t *testing.T) {
	var mu sync.Mutex
	var ids []string
	streams := []string{"id: 4.0\n\n", "id: 5.1\ndata: {\"id\":\"5.1\"}\n\n", "id: 6.1\ndata: {\"id\":\"6.1\"}\n\n"}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		ids = append(ids, r.Header.Get("Last-Event-ID"))
		_, _ = fmt.Fprint(w, streams[min(len(ids), len(streams))-1])
	}))
	defer s.Close()
	var got []string
	for e, err := range connect(t, s.URL).Events(t.Context(), "") {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, e.ID); len(got) == 2 {
			break
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if strings.Join(got, ",") != "5.1,6.1" || strings.Join(ids[:3], ",") != ",4.0,5.1" {
		t.Errorf("events %v, resumed at %v", got, ids)
	}
}
