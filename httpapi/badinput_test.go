package httpapi_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

const groupBody = `{"template":"web","minSize":1,"maxSize":5,"desired":2}`

// Each bad input gets one clear problem with all of its fields, and nothing is
// proposed.
func TestBadInput(t *testing.T) {
	a := newAPI(t)
	a.cluster.Refuse = func(cmd fsm.Command) error {
		put, _ := cmd.(fsm.PutGroup)
		if slices.Contains([]string{"PutGroup", "PutTemplate", "PutPolicy"}, cmd.Name()) && put.Group.Template != "none" {
			t.Errorf("a bad input was proposed: %+v", cmd)
		}
		return nil
	}
	policy := func(rest string) string {
		return `{"metric":"cpu","operator":"greater","threshold":70,"direction":"up","adjustment":1,` + rest + `}`
	}
	for _, c := range []struct {
		name, method, path, body string
		status                   int
		fields                   []string
		says                     string
	}{
		{"unknown field", "PUT", "/v1/groups/web", `{"template":"web","minsize":1,"maxSize":5,"desired":2}`, 422, []string{"minsize"}, "did you mean minSize?"},
		{"unknown nested field", "PUT", "/v1/templates/web", `{"driver":"process","command":"@sample","resources":{"ram":1}}`, 422, []string{"resources.ram"}, ""},
		{"wrong type", "PUT", "/v1/groups/web", `{"template":"web","minSize":"1","maxSize":5,"desired":2.5}`, 422, []string{"desired", "minSize"}, "whole number"},
		{"wrong type of all", "PUT", "/v1/groups/web", `[1]`, 422, []string{"body", "template"}, "an object"},
		{"duration as number", "PUT", "/v1/groups/web/policies/p", policy(`"cooldown":30`), 422, []string{"cooldown"}, `such as "30s"`},
		{"duration nonsense", "PUT", "/v1/groups/web/policies/p", policy(`"cooldown":"soon"`), 422, []string{"cooldown"}, `not "soon"`},
		{"name out of pattern", "PUT", "/v1/groups/Web_1", groupBody, 422, []string{"name"}, "must match"},
		{"name in the body", "PUT", "/v1/groups/web", strings.Replace(groupBody, "{", `{"name":"other",`, 1), 422, []string{"name"}, "the path says"},
		{"min over max", "PUT", "/v1/groups/web", `{"template":"web","minSize":6,"maxSize":5,"desired":6}`, 422, []string{"minSize", "desired"}, ""},
		{"desired outside", "PUT", "/v1/groups/web", `{"template":"web","minSize":1,"maxSize":5,"desired":9}`, 422, []string{"desired"}, ""},
		{"scale outside", "POST", "/v1/groups/web/scale", `{"desired":9}`, 422, []string{"desired"}, "outside"},
		{"unknown template", "PUT", "/v1/groups/new", `{"template":"none","minSize":1,"maxSize":5,"desired":2}`, 404, nil, "none"},
		{"template in use", "DELETE", "/v1/templates/web", "", 409, nil, "used by group"},
		{"negative cooldown", "PUT", "/v1/groups/web/policies/p", policy(`"cooldown":"-1s"`), 422, []string{"cooldown"}, ""},
		{"many at once", "PUT", "/v1/groups/web/policies/p", `{"metric":"","operator":"above","threshold":"x","direction":"sideways","adjustment":0,"size":1}`, 422,
			[]string{"size", "threshold", "metric", "operator", "direction", "adjustment"}, ""},
		{"size missing", "POST", "/v1/groups/web/scale", `{"reason":"x"}`, 422, []string{"desired"}, "is required"},
		{"size null", "POST", "/v1/groups/web/scale", `{"desired":null}`, 422, []string{"desired"}, "is required"},
		{"value missing", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu"}]}`, 422, []string{"samples[0].value"}, "is required"},
		{"threshold missing", "PUT", "/v1/groups/web/policies/p", `{"metric":"cpu","operator":"greater","direction":"up","adjustment":1}`, 422, []string{"threshold"}, ""},
		{"given twice", "POST", "/v1/groups/web/scale", `{"desired":1,"desired":4}`, 422, []string{"desired"}, "given twice"},
		{"escaped key", "POST", "/v1/groups/web/scale", `{"desi\u0072ed":4,"desired":1}`, 422, []string{"desired"}, "given twice"},
		{"NaN", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":NaN}]}`, 422, nil, "not valid JSON"},
		{"infinite", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":1e999}]}`, 422, []string{"samples[0].value"}, "in range"},
		{"NaN as text", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":"NaN"}]}`, 422, []string{"samples[0].value"}, "must be a number"},
		{"unknown group's metric", "POST", "/v1/groups/none/metrics", `{"samples":[{"metric":"cpu","value":1}]}`, 404, nil, ""},
		{"unknown instance's metric", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":1,"instance":"x"}]}`, 422, []string{"samples[0].instance"}, ""},
		{"metric's name", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"c p u","value":1}]}`, 422, []string{"samples[0].metric"}, ""},
		{"metric of long ago", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":1,"at":"2001-01-01T00:00:00Z"}]}`, 422, []string{"samples[0].at"}, ""},
		{"no samples", "POST", "/v1/groups/web/metrics", `{"samples":[]}`, 422, []string{"samples"}, ""},
		{"no body", "PUT", "/v1/groups/web", "", 422, nil, "is empty"},
		{"half a body", "PUT", "/v1/groups/web", `{"template":`, 422, nil, "line 1"},
		{"two bodies", "PUT", "/v1/groups/web", groupBody + groupBody, 422, nil, "not valid JSON"},
		{"too deep", "PUT", "/v1/groups/web", `{"labels":` + strings.Repeat(`[`, 40) + strings.Repeat(`]`, 40) + `}`, 422, nil, "deeper than 32"},
		{"too large", "PUT", "/v1/templates/web", `{"userData":"` + strings.Repeat("x", 1<<20) + `"}`, 413, nil, "1048576"},
		{"unknown path", "GET", "/v1/grups", "", 404, nil, "/v1/grups"},
		{"trailing slash", "GET", "/v1/groups/", "", 404, nil, ""},
		{"unknown parameter", "GET", "/v1/groups?limt=3", "", 422, []string{"limt"}, "did you mean limit?"},
		{"parameter twice", "GET", "/v1/groups?limit=3&limit=4", "", 422, []string{"limit"}, ""},
		{"bad limit", "GET", "/v1/groups?limit=0", "", 422, []string{"limit"}, ""},
		{"too big limit", "GET", "/v1/groups?limit=1001", "", 422, []string{"limit"}, ""},
		{"bad cursor", "GET", "/v1/groups?cursor=zzz", "", 422, []string{"cursor"}, ""},
		{"bad consistency", "GET", "/v1/groups?consistency=most", "", 422, []string{"consistency"}, ""},
		{"bad wait", "GET", "/v1/groups?index=1&wait=forever", "", 422, []string{"wait"}, ""},
		{"long query", "GET", "/v1/groups?cursor=" + strings.Repeat("x", 5000), "", 413, nil, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := a.do(c.method, c.path, c.body)
			code := map[int]fsm.Kind{404: fsm.NotFound, 409: fsm.Conflict, 413: fsm.TooLarge, 422: fsm.Invalid}[c.status]
			p := problem(t, w, c.status, code)
			got := fieldsOf(p)
			for _, f := range c.fields {
				if !slices.Contains(got, f) {
					t.Errorf("no error of field %s in %v", f, got)
				}
			}
			if !strings.Contains(w.Body.String(), c.says) && !strings.Contains(p.Error(), c.says) {
				t.Errorf("%q is not said: %s", c.says, w.Body)
			}
		})
	}
	if g, _ := a.cluster.State().Groups.Get("web"); g.Desired != 3 {
		t.Error("a bad input changed the state")
	}
	if len(a.sink.Samples()) != 0 {
		t.Error("a bad sample got through")
	}
}

func TestMediaTypesAndMethods(t *testing.T) {
	a := newAPI(t)
	for _, media := range []string{"text/plain", "application/x-www-form-urlencoded", "application/json+x", "nonsense/"} {
		p := problem(t, a.do("PUT", "/v1/groups/web", groupBody, "Content-Type: "+media), 415, client.CodeUnsupportedMedia)
		if !strings.Contains(p.Hint, "application/json") {
			t.Errorf("hint %q", p.Hint)
		}
	}
	want[fsm.Group](t, a.do("PUT", "/v1/groups/web", groupBody, "Content-Type: application/json; charset=utf-8"), 200)
	w := a.do("DELETE", "/v1/groups", "")
	problem(t, w, 405, client.CodeMethodNotAllowed)
	if got := w.Header().Get("Allow"); got != "GET, HEAD" {
		t.Errorf("Allow: %q", got)
	}
	if w := a.do("HEAD", "/v1/groups/web", ""); w.Code != 200 || w.Header().Get("ETag") == "" {
		t.Errorf("HEAD: %d", w.Code)
	}
}

// The one table of kinds and statuses.
func TestEveryKindHasItsStatus(t *testing.T) {
	a := newAPI(t)
	for kind, status := range map[fsm.Kind]int{
		fsm.Invalid: 422, fsm.NotFound: 404, fsm.Conflict: 409, fsm.StaleRevision: 412, fsm.Exhausted: 429, fsm.TooLarge: 413,
		fsm.NoLeader: 503, fsm.Unavailable: 503, fsm.UnknownOutcome: 504, fsm.Unauthorized: 401, fsm.Forbidden: 403, fsm.Internal: 500,
	} {
		a.cluster.Refuse = func(fsm.Command) error { return fsm.Errorf(kind, "cluster", "", "says %s", kind) }
		w := a.do("POST", "/v1/groups/web/scale", `{"desired":4}`)
		problem(t, w, status, kind)
		if retry := w.Header().Get("Retry-After"); (retry != "") != (status == 429 || status == 503) {
			t.Errorf("%s: Retry-After %q", kind, retry)
		}
		if (w.Header().Get("WWW-Authenticate") != "") != (status == 401) {
			t.Errorf("%s: WWW-Authenticate", kind)
		}
	}
	a.cluster.Refuse = func(fsm.Command) error { return errors.New("disk on fire") }
	if p := problem(t, a.do("POST", "/v1/groups/web/scale", `{"desired":4}`), 500, fsm.Internal); !strings.Contains(p.Detail, "disk on fire") || p.Hint == "" {
		t.Errorf("an unknown error is bare: %+v", p)
	}
	if !strings.Contains(a.log.String(), "disk on fire") {
		t.Error("an internal error is not in the log")
	}
}

func TestPanicIsAProblem(t *testing.T) {
	a := newAPI(t)
	a.cluster.Refuse = func(fsm.Command) error { panic("boom") }
	w := a.do("POST", "/v1/groups/web/scale", `{"desired":4}`, "X-Request-Id: mine")
	p := problem(t, w, 500, fsm.Internal)
	if p.RequestID != "mine" || !strings.Contains(p.Hint, "mine") || strings.Contains(w.Body.String(), "boom") {
		t.Errorf("problem %s", w.Body)
	}
	if log := a.log.String(); !strings.Contains(log, "boom") || !strings.Contains(log, "requestId=mine") || !strings.Contains(log, "goroutine") {
		t.Errorf("log %s", log)
	}
	a.cluster.Refuse = nil
	want[fsm.Group](t, a.do("POST", "/v1/groups/web/scale", `{"desired":4}`), 200)
}

// A write that finds no quorum fails at its deadline, and says what that means.
func TestWriteDeadline(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.WriteTimeout = time.Nanosecond })
	problem(t, a.do("POST", "/v1/groups/web/scale", `{"desired":4}`), 504, fsm.UnknownOutcome)
}

func TestRequestIDs(t *testing.T) {
	a := newAPI(t)
	if got := a.do("GET", "/livez", "", "X-Request-Id: abc-1").Header().Get("X-Request-Id"); got != "abc-1" {
		t.Errorf("own id: %q", got)
	}
	seen := map[string]bool{}
	for _, bad := range []string{"", "a b", strings.Repeat("x", 65), "\x01"} {
		id := a.do("GET", "/livez", "", "X-Request-Id: "+bad).Header().Get("X-Request-Id")
		if id == "" || id == bad || seen[id] {
			t.Errorf("made %q for %q", id, bad)
		}
		seen[id] = true
	}
}

// A body of unknown length is cut off at the limit too.
func TestChunkedBodyLimit(t *testing.T) {
	a := newAPI(t)
	r, w := io.Pipe()
	go func() {
		_, _ = io.Copy(w, io.LimitReader(neverEnding('x'), 2<<20))
		_ = w.Close()
	}()
	req, _ := http.NewRequestWithContext(t.Context(), "PUT", "/v1/templates/big", r)
	rec := a.send(req)
	_ = r.Close()
	problem(t, rec, 413, fsm.TooLarge)
}

type neverEnding byte

func (b neverEnding) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(b)
	}
	return len(p), nil
}

func TestPartsThatTheNodeDoesNotRun(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.Metrics, c.Logs = nil, nil })
	problem(t, a.do("POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":1}]}`), 503, fsm.Unavailable)
	problem(t, a.do("GET", fmt.Sprintf("/v1/instances/%s/logs", httpapitest.InstanceID(1)), ""), 503, fsm.Unavailable)
}
