package httpapi_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
)

func TestConsistency(t *testing.T) {
	a := newAPI(t)
	a.cluster.Age = 1500 * time.Millisecond
	for query, how := range map[string]string{
		"": "", "?consistency=stale": "", "?maxStale=2s": "", "?consistency=strong": "strong", "?consistency=leader": "leader", "?maxStale=1s": "leader",
	} {
		before := len(a.cluster.Calls())
		w := a.do("GET", "/v1/groups/web"+query, "")
		calls := strings.Join(a.cluster.Calls()[before:], ",")
		if w.Code != 200 || calls != how {
			t.Errorf("%s: status %d, asked %q, want %q", query, w.Code, calls, how)
		}
		age := w.Header().Get("Paceline-Stale-Ms")
		if (how == "" && age != "1500") || (how != "" && age != "0") {
			t.Errorf("%s: age %s", query, age)
		}
	}
	a.cluster.ReadError = fsm.Errorf(fsm.NoLeader, "read", "", "found no leader")
	problem(t, a.do("GET", "/v1/groups/web?consistency=strong", ""), 503, fsm.NoLeader)
	problem(t, a.do("GET", "/v1/groups/web?maxStale=1s", ""), 503, fsm.NoLeader)
	if w := a.do("GET", "/v1/groups/web", ""); w.Code != 200 {
		t.Errorf("a stale read without a leader: %d", w.Code)
	}
}

// A node that has stopped applying the log answers nothing from its state.
func TestHalted(t *testing.T) {
	a := newAPI(t)
	a.cluster.HaltedBy = fsm.Errorf(fsm.Unavailable, "node", "", "has stopped applying the log")
	for _, path := range []string{
		"/v1/groups/web", "/v1/groups", "/v1/groups/web?consistency=strong", "/v1/services/web", "/v1/services", "/v1/discovery/prometheus",
		"/v1/health/service/web", "/v1/catalog/services", "/v1/groups/web/sessions",
	} {
		if w := a.do("GET", path, ""); w.Code != 503 {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if w := a.do("GET", "/v1/cluster", ""); w.Code != 200 {
		t.Errorf("what the node knows by itself: %d", w.Code)
	}
}

// A blocking read answers when the state is newer, and not before.
func TestBlockingRead(t *testing.T) {
	a := newAPI(t)
	index := a.cluster.State().Index()
	answer := make(chan string, 1)
	go func() {
		w := a.do("GET", fmt.Sprintf("/v1/groups/web?index=%d&wait=10m", index), "")
		var g fsm.Group
		_ = json.Unmarshal(w.Body.Bytes(), &g)
		answer <- fmt.Sprintf("%d %d %s", w.Code, g.Desired, w.Header().Get("Paceline-Index"))
	}()
	a.cluster.Must(fsm.SetDesired{Group: "web", To: 5})
	if got := <-answer; got != fmt.Sprintf("200 5 %d", a.cluster.State().Index()) {
		t.Errorf("answer %s", got)
	}
	if w := a.do("GET", "/v1/groups/web?index=999999&wait=1ms", ""); w.Code != 200 {
		t.Errorf("the end of the wait is an error: %d", w.Code)
	}
}

// With an ETag a blocking read waits for the resource itself: other writes do
// not wake the client.
func TestBlockingReadOfOneResource(t *testing.T) {
	a := newAPI(t)
	first := a.do("GET", "/v1/groups/web", "")
	tag, index := first.Header().Get("ETag"), first.Header().Get("Paceline-Index")
	answer := make(chan int, 1)
	go func() {
		w := a.do("GET", "/v1/groups/web?wait=10m&index="+index, "", "If-None-Match: "+tag)
		if w.Header().Get("ETag") == tag {
			answer <- -w.Code
			return
		}
		answer <- w.Code
	}()
	for range 20 {
		a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: "job", Driver: "process", Command: "@sample"}})
	}
	a.cluster.Must(fsm.SetDesired{Group: "web", To: 5})
	if got := <-answer; got != 200 {
		t.Errorf("answer %d", got)
	}
	w := a.do("GET", "/v1/groups/web?wait=1ms&index="+index, "", "If-None-Match: "+a.do("GET", "/v1/groups/web", "").Header().Get("ETag"))
	if w.Code != http.StatusNotModified {
		t.Errorf("nothing changed: %d", w.Code)
	}
}

// Shutdown does not wait for readers that only wait themselves.
func TestShutdownEndsBlockingReads(t *testing.T) {
	a := newAPI(t)
	answer := make(chan int, 1)
	go func() { answer <- a.do("GET", "/v1/groups/web?index=999999&wait=10m", "").Code }()
	if err := a.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := <-answer; code != 200 {
		t.Errorf("answer %d", code)
	}
	p := problem(t, a.do("GET", "/readyz", ""), 503, fsm.Unavailable)
	if len(p.Errors) != 1 || p.Errors[0].Field != "serving" {
		t.Errorf("problem %+v", p)
	}
}

func TestPagination(t *testing.T) {
	a := newAPI(t)
	for i := range 25 {
		a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: fmt.Sprintf("t%02d", i), Driver: "process", Command: "@sample"}})
	}
	var names []string
	pages, cursor := 0, ""
	for {
		l := want[client.List[fsm.Template]](t, a.do("GET", "/v1/templates?limit=10&cursor="+cursor, ""), 200)
		for _, x := range l.Items {
			names = append(names, x.Name)
		}
		pages++
		if cursor = l.Next; cursor == "" || pages > 10 {
			break
		}
		// A page does not shift when a row before it appears or goes.
		a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: fmt.Sprintf("a%d", pages), Driver: "process", Command: "@sample"}})
	}
	if pages != 3 || len(names) != 26 || names[0] != "t00" || names[25] != "web" {
		t.Errorf("%d pages: %v", pages, names)
	}
	exact := want[client.List[fsm.Template]](t, a.do("GET", "/v1/templates?limit=28", ""), 200)
	if len(exact.Items) != 28 || exact.Next != "" {
		t.Errorf("%d items, next %q", len(exact.Items), exact.Next)
	}
	// Backward listings page as well.
	l := want[client.List[fsm.Decision]](t, a.do("GET", "/v1/groups/web/decisions?limit=1", ""), 200)
	older := want[client.List[fsm.Decision]](t, a.do("GET", "/v1/groups/web/decisions?limit=1&cursor="+l.Next, ""), 200)
	if l.Items[0].ID != 2 || older.Items[0].ID != 1 || older.Next != "" {
		t.Errorf("decisions %d then %d, next %q", l.Items[0].ID, older.Items[0].ID, older.Next)
	}
	for _, path := range []string{"/v1/instances", "/v1/instances?group=web", "/v1/groups/web/instances", "/v1/groups/web/policies"} {
		sep := "?"
		if strings.Contains(path, "?") {
			sep = "&"
		}
		one := want[client.List[struct{ ID, Name string }]](t, a.do("GET", path+sep+"limit=1", ""), 200)
		two := want[client.List[struct{ ID, Name string }]](t, a.do("GET", path+sep+"limit=1&cursor="+one.Next, ""), 200)
		if len(one.Items) != 1 || len(two.Items) != 1 || one.Items[0] == two.Items[0] || two.Next != "" {
			t.Errorf("%s: %+v then %+v", path, one, two)
		}
	}
}

func TestProbes(t *testing.T) {
	a := newAPI(t)
	if w := a.do("GET", "/livez", ""); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("livez %d", w.Code)
	}
	if w := a.do("GET", "/readyz", ""); w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("readyz %d", w.Code)
	}
	if r := want[client.Readiness](t, a.do("GET", "/readyz?verbose", ""), 200); !r.Ready || len(r.Checks) < 3 {
		t.Errorf("checks %+v", r)
	}
	a.cluster.Broken = "the state differs from that of the other nodes"
	a.cluster.Age = time.Minute
	if p := problem(t, a.do("GET", "/readyz", ""), 503, fsm.Unavailable); len(p.Errors) != 2 {
		t.Errorf("reasons %+v", p.Errors)
	}
	if i := want[client.Index](t, a.do("GET", "/", ""), 200); i.Node != "n1" || len(i.Resources) < 10 {
		t.Errorf("index %+v", i)
	}
}

// Every series is there before the first request of its route.
func TestMetricsAreThereAtZero(t *testing.T) {
	a := newAPI(t)
	text := a.do("GET", "/metrics", "").Body.String()
	for _, r := range httpapi.Routes() {
		for _, code := range []string{"2xx", "4xx", "5xx"} {
			if s := fmt.Sprintf(`paceline_http_requests_total{code="%s",method="%s",route="%s"} 0`, code, r.Method, r.Path); !strings.Contains(text, s) {
				t.Errorf("no %s", s)
			}
		}
	}
	a.do("GET", "/v1/groups/none", "")
	a.do("GET", "/nowhere", "")
	text = a.do("GET", "/metrics", "").Body.String()
	for _, s := range []string{
		`paceline_http_requests_total{code="4xx",method="GET",route="/v1/groups/{group}"} 1`,
		`paceline_http_requests_total{code="4xx",method="any",route="unmatched"} 1`,
		`paceline_http_request_seconds_count{method="GET",route="/v1/groups/{group}"} 1`,
	} {
		if !strings.Contains(text, s) {
			t.Errorf("no %s", s)
		}
	}
}

func TestOpenAPIGolden(t *testing.T) {
	a := newAPI(t)
	got := a.do("GET", "/openapi.json", "").Body.Bytes()
	const path = "testdata/openapi.json"
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	golden, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(golden) != string(got) {
		t.Errorf("the API has changed: look at the difference, then go test ./httpapi -run OpenAPI -update")
	}
	var doc struct {
		OpenAPI string                               `json:"openapi"`
		Paths   map[string]map[string]map[string]any `json:"paths"`
	}
	if err := json.Unmarshal(got, &doc); err != nil || !strings.HasPrefix(doc.OpenAPI, "3.1") {
		t.Fatalf("version %s: %v", doc.OpenAPI, err)
	}
	for _, r := range httpapi.Routes() {
		op := doc.Paths[r.Path][strings.ToLower(r.Method)]
		if op["operationId"] != r.ID || op["summary"] == "" || op["x-paceline-role"] != string(r.Access) {
			t.Errorf("%s %s is described as %v", r.Method, r.Path, op["operationId"])
		}
	}
	if strings.Contains(string(got), "$schema") || strings.Contains(string(got), "http://") {
		t.Error("the document refers to something outside")
	}
}

// Answers to GET reach every client that blocks, however many there are.
func TestManyBlockedReaders(t *testing.T) {
	a := newAPI(t)
	index := a.cluster.State().Index()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	const readers = 50
	done := make(chan int, readers)
	for range readers {
		go func() { done <- a.do("GET", fmt.Sprintf("/v1/cluster?index=%d&wait=10m", index), "").Code }()
	}
	a.cluster.Must(fsm.SetDesired{Group: "web", To: 5})
	for range readers {
		select {
		case code := <-done:
			if code != 200 {
				t.Fatalf("status %d", code)
			}
		case <-ctx.Done():
			t.Fatal("a reader was not woken")
		}
	}
}
