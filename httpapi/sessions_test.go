package httpapi_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

// serve gives group web a service and lets instances 1 to n of it run healthy.
func serve(c *httpapitest.Cluster, strategy string, n int) {
	c.Must(fsm.PutGroup{Group: fsm.Group{
		Name: "web", Template: "web", MinSize: 1, MaxSize: 9, Desired: 3,
		Service: &fsm.Service{Stickiness: fsm.Stickiness{Strategy: strategy}},
	}})
	for k := 1; k <= n; k++ {
		if id := httpapitest.InstanceID(k); c.State().Instances.Has(id) {
			c.Report(id, fsm.Running, fsm.Healthy)
		} else {
			c.Run("web", id, c.Name, fsmtest.Address, fsm.Healthy)
		}
	}
}

func sessionPath(id, rest string) string {
	return "/v1/groups/web/sessions/" + url.PathEscape(id) + rest
}

func (a *api) route(id string) client.SessionRoute {
	a.t.Helper()
	return want[client.SessionRoute](a.t, a.do("POST", sessionPath(id, "/route"), ""), 200)
}

// A sticky session is placed once, stays, and moves when its instance ends.
func TestStickySession(t *testing.T) {
	a := newAPI(t)
	serve(a.cluster, fsm.StickyTable, 3)
	problem(t, a.do("GET", sessionPath("anna", ""), ""), 404, fsm.NotFound)
	first := a.route("anna")
	if !first.Created || first.Moved || first.Epoch != 0 || first.Strategy != fsm.StickyTable || first.Session != "anna" ||
		first.Address != "127.0.0.1:20001" || first.Node != "n1" || first.Zone != "a" || first.Incarnation != 1 || len(first.Key) != 32 {
		t.Errorf("first route: %+v", first)
	}
	again := newServerOn(t, a.cluster).route("anna") // by another node
	if again.Created || again.Instance != first.Instance || again.Key != first.Key {
		t.Errorf("second route: %+v, first %+v", again, first)
	}
	counts := map[string]int{first.Instance: 1}
	for n := range 29 {
		counts[a.route(fmt.Sprint("s", n)).Instance]++
	}
	if len(counts) != 3 || counts[first.Instance] != 10 {
		t.Errorf("30 sessions are spread as %v", counts)
	}
	view := want[client.Session](t, a.do("GET", sessionPath("anna", "?consistency=strong"), ""), 200)
	if view.Instance != first.Instance || !view.Lives || view.Address != first.Address || view.Key != first.Key || view.Seen.IsZero() {
		t.Errorf("session: %+v", view)
	}
	if calls := a.cluster.Calls(); !slices.Contains(calls, "strong") {
		t.Errorf("a strong read asked for %v", calls)
	}

	a.cluster.Report(first.Instance, fsm.Failed, "")
	view = want[client.Session](t, a.do("GET", sessionPath("anna", ""), ""), 200)
	if view.Lives || view.Address != "" {
		t.Errorf("session of an ended instance: %+v", view)
	}
	stats := want[client.SessionStats](t, a.do("GET", "/v1/groups/web/sessions", ""), 200)
	if stats.Sessions != 30 || stats.Homeless != 10 || stats.Assigned != 30 || stats.Strategy != fsm.StickyTable || len(stats.Slots) != 3 {
		t.Errorf("statistics: %+v", stats)
	}
	moved := a.route("anna")
	if !moved.Moved || moved.Created || moved.Epoch != 1 || moved.Instance == first.Instance {
		t.Errorf("route after the end: %+v", moved)
	}
	if w := a.do("DELETE", sessionPath("anna", ""), ""); w.Code != 204 || w.Body.Len() != 0 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	problem(t, a.do("DELETE", sessionPath("anna", ""), ""), 404, fsm.NotFound)
	stats = want[client.SessionStats](t, a.do("GET", "/v1/groups/web/sessions", ""), 200)
	if stats.Sessions != 29 || stats.Moved != 1 || stats.Deleted != 1 {
		t.Errorf("statistics: %+v", stats)
	}
}

// A retried delete that was applied is not an unknown session.
func TestDeleteSessionAgain(t *testing.T) {
	a := newAPI(t)
	serve(a.cluster, fsm.StickyTable, 1)
	a.route("anna")
	for range 2 {
		if w := a.do("DELETE", sessionPath("anna", ""), "", "Idempotency-Key: k1"); w.Code != 204 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	// Nor does one of an unknown session become one that was applied.
	for range 2 {
		problem(t, a.do("DELETE", sessionPath("bert", ""), "", "Idempotency-Key: k2"), 404, fsm.NotFound)
	}
}

// Racing first requests at two nodes get one answer.
func TestRacingRoutes(t *testing.T) {
	a := newAPI(t)
	b := newServerOn(t, a.cluster)
	serve(a.cluster, fsm.StickyTable, 3)
	var wg sync.WaitGroup
	got := make([][2]string, 100)
	for n := range got {
		for k, s := range []*api{a, b} {
			wg.Go(func() { got[n][k] = s.route(fmt.Sprint("s", n)).Instance })
		}
	}
	wg.Wait()
	for n, pair := range got {
		if pair[0] != pair[1] || pair[0] == "" {
			t.Errorf("session %d is on %s and %s", n, pair[0], pair[1])
		}
	}
}

// Without a table: hashed sessions stay without being remembered, the others
// go round.
func TestRoutesWithoutState(t *testing.T) {
	for _, strategy := range []string{fsm.StickyHash, fsm.StickyStateless, fsm.StickyShared, ""} {
		t.Run(strategy, func(t *testing.T) {
			a := newAPI(t)
			serve(a.cluster, strategy, 3)
			index := a.cluster.State().Index()
			before := map[string]string{}
			seen := map[string]int{}
			for n := range 60 {
				id := fmt.Sprint("s", n)
				r := a.route(id)
				before[id] = r.Instance
				seen[r.Instance]++
				if r.Address == "" || r.Created || r.Strategy == "" || (strategy == fsm.StickyHash && a.route(id).Instance != r.Instance) {
					t.Fatalf("%+v", r)
				}
			}
			if len(seen) != 3 || (strategy != fsm.StickyHash && seen[httpapitest.InstanceID(1)] != 20) {
				t.Errorf("60 sessions are spread as %v", seen)
			}
			if a.cluster.State().Index() != index {
				t.Error("routing without a table has written")
			}
			gone := httpapitest.InstanceID(2)
			if strategy == fsm.StickyShared {
				a.cluster.Must(fsm.StopInstances{Instances: []string{gone}, Cause: "test"}) // it drains
			} else {
				a.cluster.Report(gone, fsm.Running, fsm.Unhealthy)
			}
			for id, was := range before {
				now := a.route(id).Instance
				if now == gone || (strategy == fsm.StickyHash && was != gone && now != was) {
					t.Errorf("session %s went from %s to %s after the end of %s", id, was, now, gone)
				}
			}
		})
	}
}

// Instances that have not been checked yet serve when none is healthy, and
// nobody serves when none runs.
func TestNoUsableInstance(t *testing.T) {
	for _, strategy := range fsm.StickyStrategies() {
		a := newAPI(t)
		serve(a.cluster, strategy, 2)
		a.cluster.Report(httpapitest.InstanceID(1), fsm.Running, fsm.Unhealthy)
		a.cluster.Report(httpapitest.InstanceID(2), fsm.Running, fsm.Unknown)
		if r := a.route("anna"); r.Instance != httpapitest.InstanceID(2) {
			t.Errorf("%s: %+v", strategy, r)
		}
		a.cluster.Must(fsm.StopInstances{Instances: []string{httpapitest.InstanceID(2)}, Cause: "test"}) // it drains
		problem(t, a.do("POST", sessionPath("bert", "/route"), ""), 503, fsm.Unavailable)
		a.cluster.Report(httpapitest.InstanceID(2), fsm.Failed, "")
		w := a.do("POST", sessionPath("bert", "/route"), "")
		if p := problem(t, w, 503, fsm.Unavailable); p.RetryAfterMs == 0 || p.Hint == "" || w.Header().Get("Retry-After") == "" {
			t.Errorf("%s: %s", strategy, w.Body)
		}
	}
}

// late answers assignments with an instance that ends before it is looked up.
type late struct {
	*httpapitest.Cluster
	ends  int
	calls int
}

// Assign implements httpapi.Sessions.
func (l *late) Assign(_ context.Context, group string, key [16]byte) (fsm.Assignment, error) {
	l.calls++
	res := l.Must(fsm.AssignSessions{Group: group, Keys: key[:]})
	a := res.Value.([]fsm.Assignment)[0]
	if l.calls <= l.ends {
		l.Report(a.Instance, fsm.Failed, "")
	}
	return a, nil
}

func TestInstanceEndsWhileRouting(t *testing.T) {
	for ends, status := range map[int]int{1: 200, 2: 200, 3: 503} {
		l := &late{ends: ends}
		a := newAPI(t, func(c *httpapi.Config) { c.Sessions = l })
		l.Cluster = a.cluster
		serve(a.cluster, fsm.StickyTable, 4)
		w := a.do("POST", sessionPath("anna", "/route"), "")
		if w.Code != status {
			t.Fatalf("%d ends: %d %s", ends, w.Code, w.Body)
		}
		if status == 200 {
			if r := want[client.SessionRoute](t, w, 200); !r.Created || !r.Moved || int(r.Epoch) != ends {
				t.Errorf("%d ends: %+v", ends, r)
			}
		}
	}
}

func TestSessionIDs(t *testing.T) {
	a := newAPI(t)
	serve(a.cluster, fsm.StickyTable, 1)
	for _, id := range []string{"a", "a b", "a/b", "a+b", "ü", "%2F", ".", "a?b#c", "a/b+c%2Fd", strings.Repeat("x", 256)} {
		if r := a.route(id); r.Session != id {
			t.Errorf("%q came as %q", id, r.Session)
		}
		if s := want[client.Session](t, a.do("GET", sessionPath(id, ""), ""), 200); s.Session != id {
			t.Errorf("%q was read as %q", id, s.Session)
		}
	}
	for _, id := range []string{"", strings.Repeat("x", 257), "\xff"} {
		for _, r := range [][2]string{{"POST", "/route"}, {"GET", "/data"}, {"PUT", "/data"}, {"DELETE", "/data"}} {
			w := a.do(r[0], sessionPath(id, r[1]), "")
			p := problem(t, w, 422, fsm.Invalid)
			if !strings.Contains(p.Detail, "1 to 256 bytes") || strings.Contains(w.Body.String(), "xxx") {
				t.Errorf("%s %s of %q: %s", r[0], r[1], id, w.Body)
			}
		}
	}
	for _, method := range []string{"GET", "DELETE"} {
		problem(t, a.do(method, sessionPath(strings.Repeat("x", 257), ""), ""), 422, fsm.Invalid)
	}
}

func TestBadSessionInput(t *testing.T) {
	a := newAPI(t)
	put := func(name string, s *fsm.Service) {
		a.cluster.Must(fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MinSize: 0, MaxSize: 5, Service: s}})
	}
	put("none", nil)
	put("shared", &fsm.Service{Hosts: []string{"shared.test"}, Stickiness: fsm.Stickiness{Strategy: fsm.StickyShared}})
	serve(a.cluster, fsm.StickyTable, 1)
	index := a.cluster.State().Index()
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		says                     string
	}{
		{"unknown group", "POST", "/v1/groups/no/sessions/a/route", "", 404, `group \"no\"`},
		{"unknown group's statistics", "GET", "/v1/groups/no/sessions", "", 404, "no"},
		{"unknown group's session", "GET", "/v1/groups/no/sessions/a", "", 404, `group \"no\"`},
		{"unknown group's data", "PUT", "/v1/groups/no/sessions/a/data", "x", 404, `group \"no\"`},
		{"group without a service", "POST", "/v1/groups/none/sessions/a/route", "", 409, "has no service"},
		{"data of a sticky session", "PUT", "/v1/groups/web/sessions/a/data", "x", 409, "shared"},
		{"data of a sticky session read", "GET", "/v1/groups/web/sessions/a/data", "", 409, "shared"},
		{"data of a sticky session deleted", "DELETE", "/v1/groups/web/sessions/a/data", "", 409, "shared"},
		{"too large", "PUT", "/v1/groups/shared/sessions/a/data", strings.Repeat("x", 4097), 413, "4096"},
		{"ttl nonsense", "PUT", "/v1/groups/shared/sessions/a/data?ttl=soon", "x", 422, "ttl"},
		{"ttl empty", "PUT", "/v1/groups/shared/sessions/a/data?ttl=", "x", 422, "ttl"},
		{"ttl of nothing", "PUT", "/v1/groups/shared/sessions/a/data?ttl=0s", "x", 422, "ttl"},
		{"ttl too long", "PUT", "/v1/groups/shared/sessions/a/data?ttl=721h", "x", 422, "ttl"},
		{"unknown parameter", "PUT", "/v1/groups/shared/sessions/a/data?tll=1m", "x", 422, "did you mean ttl?"},
		{"unknown data", "GET", "/v1/groups/shared/sessions/a/data", "", 404, "session data"},
		{"unknown data deleted", "DELETE", "/v1/groups/shared/sessions/a/data", "", 404, "session data"},
		{"wrong method of route", "GET", "/v1/groups/web/sessions/a/route", "", 405, "POST"},
		{"wrong method of session", "PUT", "/v1/groups/web/sessions/a", "{}", 405, "DELETE"},
		{"wrong method of statistics", "DELETE", "/v1/groups/web/sessions", "", 405, "GET"},
		{"wrong method of data", "POST", "/v1/groups/shared/sessions/a/data", "x", 405, "PUT"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := a.do(c.method, c.path, c.body)
			code := map[int]fsm.Kind{404: fsm.NotFound, 405: client.CodeMethodNotAllowed, 409: fsm.Conflict, 413: fsm.TooLarge, 422: fsm.Invalid}[c.status]
			problem(t, w, c.status, code)
			if !strings.Contains(w.Body.String(), c.says) {
				t.Errorf("%q is not said: %s", c.says, w.Body)
			}
		})
	}
	problem(t, a.do("PUT", "/v1/groups/shared/sessions/a/data", "x", "Content-Type: "+strings.Repeat("x", 129)), 422, fsm.Invalid)
	if now := a.cluster.State(); now.SessionData.Len() != 0 || now.Index() > index+1 { // the unknown data that was deleted
		t.Errorf("bad input has written: index %d, was %d", now.Index(), index)
	}
}

func (a *api) data(method, body string, headers ...string) *httptest.ResponseRecorder {
	return a.do(method, "/v1/groups/web/sessions/anna/data", body, headers...)
}

func TestSharedSessionData(t *testing.T) {
	a := newAPI(t)
	serve(a.cluster, fsm.StickyShared, 1)
	w := a.data("PUT", "\x00\xffcart", "Content-Type: application/x-cart")
	info := want[client.SessionDataInfo](t, w, 201)
	tag := w.Header().Get("ETag")
	if info.Bytes != 6 || info.ContentType != "application/x-cart" || info.Revision == 0 || tag != fmt.Sprintf("%q", fmt.Sprint(info.Revision)) ||
		info.ExpiresAt.Sub(info.UpdatedAt) != 30*time.Minute {
		t.Errorf("%+v, ETag %s", info, tag)
	}
	w = a.data("GET", "")
	h := w.Header()
	if w.Code != 200 || w.Body.String() != "\x00\xffcart" || h.Get("Content-Type") != "application/x-cart" || h.Get("ETag") != tag ||
		h.Get("Paceline-Expires-At") != info.ExpiresAt.Format(time.RFC3339Nano) || h.Get("X-Content-Type-Options") != "nosniff" ||
		!strings.Contains(h.Get("Content-Security-Policy"), "sandbox") {
		t.Errorf("%d %q %v", w.Code, w.Body, h)
	}
	checkHeaders(t, h)
	if w := a.data("GET", "", "If-None-Match: "+tag); w.Code != 304 {
		t.Errorf("with its ETag: %d", w.Code)
	}
	problem(t, a.data("PUT", "new", "If-None-Match: *"), 412, fsm.StaleRevision)
	problem(t, a.data("PUT", "new", `If-Match: "1"`), 412, fsm.StaleRevision)
	problem(t, a.data("DELETE", "", `If-Match: "1"`), 412, fsm.StaleRevision)
	info = want[client.SessionDataInfo](t, a.do("PUT", "/v1/groups/web/sessions/anna/data?ttl=2m", strings.Repeat("x", 4096), "If-Match: "+tag), 200)
	if info.ExpiresAt.Sub(info.UpdatedAt) != 2*time.Minute {
		t.Errorf("ttl of 2m: %+v", info)
	}
	stats := want[client.SessionStats](t, a.do("GET", "/v1/groups/web/sessions", ""), 200)
	if stats.DataEntries != 1 || stats.DataBytes < 4096 {
		t.Errorf("statistics: %+v", stats)
	}
	if w := a.data("DELETE", "", fmt.Sprintf(`If-Match: "%d"`, info.Revision)); w.Code != 204 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	problem(t, a.data("GET", ""), 404, fsm.NotFound)
	problem(t, a.data("PUT", "x", "If-Match: *"), 412, fsm.StaleRevision)
	// An empty body is data too; without a type it is bytes.
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", "/v1/groups/web/sessions/anna/data", http.NoBody)
	want[client.SessionDataInfo](t, a.send(req), 201)
	if w := a.data("GET", ""); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Type") != "application/octet-stream" {
		t.Errorf("empty data: %d %v", w.Code, w.Header())
	}
}

// store is a store that is not in the replicated state.
type store struct{ rows map[string]fsm.SessionData }

// Get implements httpapi.SessionStore.
func (s *store) Get(_ context.Context, _ *fsm.State, _, session string) (*fsm.SessionData, error) {
	d, ok := s.rows[session]
	if !ok {
		return nil, fsm.Errorf(fsm.NotFound, "session data", "", "does not exist")
	}
	return &d, nil
}

// Put implements httpapi.SessionStore.
func (s *store) Put(_ context.Context, c fsm.PutSessionData) (*fsm.SessionData, uint64, error) {
	d := fsm.SessionData{Group: c.Group, Session: c.Session, Data: c.Data, ExpiresAt: time.Now().Add(c.TTL.Std()), Revision: 7}
	s.rows[c.Session] = d
	return &d, 77, nil
}

// Delete implements httpapi.SessionStore.
func (s *store) Delete(_ context.Context, c fsm.DeleteSessionData) (uint64, error) {
	delete(s.rows, c.Session)
	return 78, nil
}

// The data may be kept elsewhere. What has expired is gone, be it removed from
// there already or not.
func TestSessionDataElsewhere(t *testing.T) {
	st := &store{rows: map[string]fsm.SessionData{}}
	a := newAPI(t, func(c *httpapi.Config) { c.SessionData = st })
	serve(a.cluster, fsm.StickyShared, 1)
	path := "/v1/groups/web/sessions/anna/data?ttl=1h"
	w := a.do("PUT", path, "x")
	want[client.SessionDataInfo](t, w, 201)
	if w.Header().Get("Paceline-Index") != "77" || a.cluster.State().SessionData.Len() != 0 {
		t.Errorf("index %s", w.Header().Get("Paceline-Index"))
	}
	if w := a.data("GET", ""); w.Code != 200 || w.Body.String() != "x" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	st.rows["anna"] = fsm.SessionData{Data: []byte("x"), ExpiresAt: time.Now().Add(-time.Second), Revision: 7}
	problem(t, a.data("GET", ""), 404, fsm.NotFound)
	want[client.SessionDataInfo](t, a.do("PUT", path, "x"), 201)
	if w := a.data("DELETE", ""); w.Code != 204 || len(st.rows) != 0 || w.Header().Get("Paceline-Index") != "78" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}

// A body of unknown length is cut off at the limit too.
func TestEndlessSessionData(t *testing.T) {
	a := newAPI(t)
	serve(a.cluster, fsm.StickyShared, 1)
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", "/v1/groups/web/sessions/anna/data", neverEnding('x'))
	req.ContentLength = -1
	problem(t, a.send(req), 413, fsm.TooLarge)
}

// Close implements io.Closer.
func (neverEnding) Close() error { return nil }

func TestSessionMetrics(t *testing.T) {
	a := newAPI(t)
	if text := a.do("GET", "/metrics", "").Body.String(); strings.Contains(text, "paceline_sessions{") {
		t.Error("a group that is not sticky has series of sessions")
	}
	serve(a.cluster, fsm.StickyTable, 2)
	has := func(lines ...string) {
		t.Helper()
		text := a.do("GET", "/metrics", "").Body.String()
		for _, l := range lines {
			if !strings.Contains(text, l+"\n") {
				t.Errorf("no %q in the metrics", l)
			}
		}
	}
	has(`paceline_sessions{group="web"} 0`, `paceline_sessions_moved_total{group="web"} 0`)
	a.route("anna")
	a.route("bert")
	a.cluster.Report(httpapitest.InstanceID(1), fsm.Failed, "")
	has(`paceline_sessions{group="web"} 2`, `paceline_sessions_homeless{group="web"} 1`, `paceline_sessions_assigned_total{group="web"} 2`)
	a.route("anna")
	a.route("bert")
	a.do("DELETE", sessionPath("anna", ""), "")
	has(`paceline_sessions{group="web"} 1`, `paceline_sessions_moved_total{group="web"} 1`, `paceline_sessions_deleted_total{group="web"} 1`,
		`paceline_sessions_expired_total{group="web"} 0`, `paceline_sessions_homeless{group="web"} 0`)
}

// The id of a session may let a client in: it gets into no log and no
// error.
func TestSessionIDsAreNotLogged(t *testing.T) {
	var log bytes.Buffer
	a := newAPI(t, func(c *httpapi.Config) {
		c.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	serve(a.cluster, fsm.StickyTable, 1)
	a.route("secret")
	a.do("GET", sessionPath("secret", ""), "")
	a.do("DELETE", sessionPath("secret", ""), "")
	a.do("PUT", sessionPath("secret", "/data"), "x")
	for _, w := range []*httptest.ResponseRecorder{a.do("PATCH", sessionPath("secret", ""), ""), a.do("GET", sessionPath("secret", "/none"), "")} {
		if strings.Contains(w.Body.String(), "secret") || w.Code < 404 {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	if text := log.String(); strings.Contains(text, "secret") || !strings.Contains(text, "sessions/{session}/route") {
		t.Errorf("the log says %s", text)
	}
}

func BenchmarkRoute(b *testing.B) {
	for _, strategy := range []string{fsm.StickyTable, fsm.StickyHash} {
		b.Run(strategy, func(b *testing.B) {
			a := newAPI(b, func(c *httpapi.Config) { c.Logger = nil })
			serve(a.cluster, strategy, 3)
			for n := range 1000 {
				a.route(fmt.Sprint("s", n))
			}
			benchmarkOn(b, a, func(n int) (string, string) { return sessionPath(fmt.Sprint("s", n%1000), "/route"), "" })
		})
	}
}

// BenchmarkScale is a write like any other, for comparison.
func BenchmarkScale(b *testing.B) {
	a := newAPI(b, func(c *httpapi.Config) { c.Logger = nil })
	serve(a.cluster, fsm.StickyTable, 3)
	benchmarkOn(b, a, func(n int) (string, string) { return "/v1/groups/web/scale", fmt.Sprintf(`{"desired":%d}`, 3+n%2) })
}

// benchmarkOn measures requests with the state machine behind them.
func benchmarkOn(b *testing.B, a *api, request func(n int) (path, body string)) {
	b.ReportAllocs()
	w := &blank{h: http.Header{}}
	for n := 0; b.Loop(); n++ {
		path, body := request(n)
		req, _ := http.NewRequestWithContext(context.Background(), http.MethodPost, "http://n1"+path, strings.NewReader(body))
		clear(w.h)
		if a.server.ServeHTTP(w, req); w.code != 200 {
			b.Fatalf("status %d", w.code)
		}
	}
}
