package httpapi_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

// endpoint reports an instance as running at an address.
func endpoint(a *api, id, address string, health fsm.Health) {
	for _, state := range []fsm.InstanceState{fsm.Starting, fsm.Running} {
		a.cluster.Must(fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{
			{ID: id, State: state, Health: health, Address: address, Incarnation: 1},
		}})
	}
}

// secondGroup adds group api with one endpoint.
func secondGroup(a *api) {
	a.cluster.Must(fsm.PutGroup{Group: fsm.Group{
		Name: "api", Template: "web", MinSize: 1, MaxSize: 5, Desired: 1, Labels: map[string]string{"tier": "front", "beta": ""},
		Service: &fsm.Service{Hosts: []string{"api.example"}, PathPrefix: "/v2"},
	}})
	a.cluster.Run("api", httpapitest.InstanceID(9), "n1", "[2001:db8::1]:8080", fsm.Healthy)
}

func indexOf(t *testing.T, w *httptest.ResponseRecorder) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(w.Header().Get("Paceline-Service-Index"), 10, 64)
	if err != nil {
		t.Fatalf("no index of the service: %d %s", w.Code, w.Body)
	}
	return n
}

func TestService(t *testing.T) {
	a := newAPI(t)
	endpoint(a, httpapitest.InstanceID(2), "127.0.0.1:20002", fsm.Unhealthy)
	w := a.do("GET", "/v1/services/web", "")
	v := want[client.ServiceView](t, w, 200)
	row, _ := a.cluster.State().ServiceIndexes.Get("web")
	if v.Group != "web" || v.Index != row.Index || indexOf(t, w) != row.Index || w.Header().Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(row.Index)) {
		t.Errorf("index %d of %+v, headers %v", v.Index, row, w.Header())
	}
	checkHeaders(t, w.Header())
	one := client.ServiceEndpoint{Instance: httpapitest.InstanceID(1), Incarnation: 1, Node: "n1", Zone: "a", Address: "127.0.0.1:20001", Health: fsm.Healthy, Weight: 1}
	if len(v.Endpoints) != 2 || v.Endpoints[0] != one || v.Endpoints[1].Health != fsm.Unhealthy {
		t.Errorf("endpoints %+v", v.Endpoints)
	}
	a.cluster.Must(fsm.StopInstances{Instances: []string{httpapitest.InstanceID(1)}, Cause: "test"})
	for query, n := range map[string]int{"": 2, "?passing": 0, "?passing=false": 2, "?zone=a": 2, "?zone=b": 0, "?limit=1": 1, "?limit=0": 2, "?passing&zone=a&limit=7": 0} {
		if v := want[client.ServiceView](t, a.do("GET", "/v1/services/web"+query, ""), 200); len(v.Endpoints) != n {
			t.Errorf("%s: %+v", query, v.Endpoints)
		}
	}
	endpoint(a, httpapitest.InstanceID(2), "127.0.0.1:20002", fsm.Healthy)
	v = want[client.ServiceView](t, a.do("GET", "/v1/services/web?limit=1", ""), 200)
	if len(v.Endpoints) != 1 || v.Endpoints[0].Instance != httpapitest.InstanceID(2) {
		t.Errorf("a limit leaves out the endpoint that passes: %+v", v.Endpoints)
	}
	if v := want[client.ServiceView](t, a.do("GET", "/v1/services/web", ""), 200); !v.Endpoints[0].Draining || v.Endpoints[0].Health == fsm.Healthy {
		t.Errorf("the draining endpoint is %+v", v.Endpoints[0])
	}
	tag := a.do("GET", "/v1/services/web", "").Header().Get("ETag")
	if w := a.do("GET", "/v1/services/web", "", "If-None-Match: "+tag); w.Code != 304 || w.Body.Len() > 0 {
		t.Errorf("the same ETag: %d %s", w.Code, w.Body)
	}
	problem(t, a.do("GET", "/v1/services/none", ""), 404, fsm.NotFound)
	problem(t, a.do("GET", "/v1/services/none?index=0&wait=10m", ""), 404, fsm.NotFound) // and at once
	problem(t, a.do("GET", "/v1/services/web?index=1&wait=99h", ""), 422, fsm.Invalid)
	problem(t, a.do("GET", "/v1/services/web?healthy", ""), 422, fsm.Invalid)
}

// A node's weight is part of its endpoints, and so moves their index.
func TestServiceWeight(t *testing.T) {
	a := newAPI(t)
	before := indexOf(t, a.do("GET", "/v1/services/web", ""))
	n, _ := a.cluster.State().Nodes.Get("n1")
	heavy := *n
	heavy.Labels = map[string]string{fsm.WeightLabel: "7"}
	a.cluster.Must(fsm.RegisterNode{Node: heavy})
	w := a.do("GET", "/v1/services/web", "")
	if v := want[client.ServiceView](t, w, 200); v.Endpoints[0].Weight != 7 || v.Index <= before {
		t.Errorf("index %d after %d: %+v", v.Index, before, v.Endpoints)
	}
	for text, weight := range map[string]int{"0": 1, "257": 1, "256": 256, "much": 1} {
		heavy.Labels = map[string]string{fsm.WeightLabel: text}
		a.cluster.Must(fsm.RegisterNode{Node: heavy})
		if v := want[client.ServiceView](t, a.do("GET", "/v1/services/web", ""), 200); v.Endpoints[0].Weight != weight {
			t.Errorf("label %q: weight %d", text, v.Endpoints[0].Weight)
		}
	}
}

func TestServiceList(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	l := want[client.List[client.ServiceSummary]](t, a.do("GET", "/v1/services", ""), 200)
	if len(l.Items) != 2 || l.Items[0].Group != "api" || l.Items[1].Group != "web" {
		t.Fatalf("services %+v", l.Items)
	}
	if s := l.Items[0]; !s.Routed || s.Endpoints != 1 || s.Passing != 1 || s.Hosts[0] != "api.example" || s.PathPrefix != "/v2" || s.Listeners[0].Protocol != "http" || s.Index == 0 {
		t.Errorf("api is %+v", s)
	}
	a.cluster.Must(fsm.StopInstances{Instances: []string{httpapitest.InstanceID(1)}, Cause: "test"})
	page := want[client.List[client.ServiceSummary]](t, a.do("GET", "/v1/services?limit=1", ""), 200)
	page = want[client.List[client.ServiceSummary]](t, a.do("GET", "/v1/services?limit=1&cursor="+page.Next, ""), 200)
	if s := page.Items[0]; s.Group != "web" || s.Routed || s.Endpoints != 1 || s.Passing != 0 || s.Draining != 1 || page.Next != "" {
		t.Errorf("web is %+v", s)
	}
}

// A reader that blocks for a service is woken by that service only, on any
// node, with the index that is the same on all of them.
func TestServiceBlocks(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	b := newServerOn(t, a.cluster)
	index := indexOf(t, a.do("GET", "/v1/services/web", ""))
	answer := make(chan *httptest.ResponseRecorder, 2)
	for _, x := range []*api{a, b} {
		go func() { answer <- x.do("GET", fmt.Sprintf("/v1/services/web?passing&wait=10m&index=%d", index), "") }()
		awaitWatchers(t, x, 1)
	}
	for n := range 20 {
		health := []fsm.Health{fsm.Healthy, fsm.Unhealthy}[n%2]
		a.cluster.Report(httpapitest.InstanceID(9), "", health)
		a.cluster.Must(fsm.SetDesired{Group: "web", To: 3 + n%2}) // nor by what is not of its endpoints
	}
	endpoint(a, httpapitest.InstanceID(2), "127.0.0.1:20002", fsm.Healthy)
	row, _ := a.cluster.State().ServiceIndexes.Get("web")
	for range 2 {
		w := <-answer
		v := want[client.ServiceView](t, w, 200)
		if v.Index <= index || v.Index > row.Index || len(v.Endpoints) == 0 || indexOf(t, w) != v.Index {
			t.Errorf("asked after %d, got %+v", index, v)
		}
	}
	// An index of the log as a whole does as well: what was written is seen.
	if w := a.do("GET", fmt.Sprintf("/v1/services/web?wait=1ms&index=%d", a.cluster.State().Index()), ""); w.Code != 200 || indexOf(t, w) != row.Index {
		t.Errorf("the end of the wait: %d %s", w.Code, w.Body)
	}
	w := a.do("GET", fmt.Sprintf("/v1/services/web?wait=1ms&index=%d", row.Index), "", fmt.Sprintf("If-None-Match: %q", fmt.Sprint(row.Index)))
	if w.Code != 304 {
		t.Errorf("nothing changed: %d", w.Code)
	}
}

// awaitWatchers waits until so many readers wait for services.
func awaitWatchers(t *testing.T, a *api, n int) {
	t.Helper()
	await(t, fmt.Sprintf("%d watchers", n), func() bool {
		return strings.Contains(a.do("GET", "/metrics", "").Body.String(), fmt.Sprintf("paceline_http_service_watchers %d\n", n))
	})
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("there never were %s", what)
		}
	}
}

// All readers of a version share one encoded answer.
func TestServiceIsEncodedOnce(t *testing.T) {
	a := newAPI(t)
	encodes := func() int {
		_, rest, _ := strings.Cut(a.do("GET", "/metrics", "").Body.String(), "\npaceline_http_service_encodes_total ")
		n, _ := strconv.Atoi(strings.Split(rest, "\n")[0])
		return n
	}
	index := indexOf(t, a.do("GET", "/v1/services/web", ""))
	before := encodes()
	const readers = 300
	answers := make(chan *httptest.ResponseRecorder, readers)
	for range readers {
		go func() { answers <- a.do("GET", fmt.Sprintf("/v1/services/web?wait=10m&index=%d", index), "") }()
	}
	awaitWatchers(t, a, readers)
	a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy)
	for range readers {
		if v := want[client.ServiceView](t, <-answers, 200); v.Index <= index || v.Endpoints[0].Health != fsm.Unhealthy {
			t.Fatalf("answer %+v", v)
		}
	}
	if n := encodes() - before; n != 1 {
		t.Errorf("%d readers of one change: %d encodes", readers, n)
	}
	awaitWatchers(t, a, 0)
	// An older state, of a slower reader, does not take the newer one's place.
	for n := range 50 {
		a.do("GET", "/v1/services/web?zone="+strconv.Itoa(n%2), "")
	}
	if n := encodes() - before; n != 3 {
		t.Errorf("two filters: %d encodes", n)
	}
}

// A reader is told when what it waits for goes away, or goes back in time.
func TestServiceEndsBackwards(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	before := a.cluster.State()
	a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy)
	answer := make(chan *httptest.ResponseRecorder, 1)
	block := func(path string) {
		index := indexOf(t, a.do("GET", path, ""))
		go func() { answer <- a.do("GET", fmt.Sprintf("%s?wait=10m&index=%d", path, index), "") }()
		awaitWatchers(t, a, 1)
	}
	block("/v1/services/web")
	var old strings.Builder
	if err := before.At(a.cluster.State().Index()+1, fsmtest.Term).WriteSnapshot(&old); err != nil {
		t.Fatal(err)
	}
	if err := a.cluster.RestoreSnapshot(t.Context(), strings.NewReader(old.String())); err != nil {
		t.Fatal(err)
	}
	if v := want[client.ServiceView](t, <-answer, 200); v.Endpoints[0].Health != fsm.Healthy {
		t.Errorf("after the restore: %+v", v)
	}
	a.cluster.Must(fsm.DeleteGroup{Group: "api"})
	a.cluster.Report(httpapitest.InstanceID(9), fsm.Stopping, "")
	a.cluster.Report(httpapitest.InstanceID(9), fsm.Stopped, "")
	block("/v1/services/api")
	a.cluster.Must(fsm.RemoveGroup{Group: "api"})
	problem(t, <-answer, 404, fsm.NotFound)
	// Shutdown waits for nobody who waits.
	block("/v1/services/web")
	if err := a.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	want[client.ServiceView](t, <-answer, 200)
}

func TestWatchersAreBounded(t *testing.T) {
	if httpapi.MaxWatchers >= httpapi.DefaultConnections {
		t.Error("watchers can take every connection")
	}
	a := newAPI(t)
	path := fmt.Sprintf("/v1/services/web?wait=1ms&index=%d", a.cluster.State().Index())
	a.server.AddWatchers(httpapi.MaxWatchers)
	for range 2 {
		problem(t, a.do("GET", path, ""), 429, fsm.Exhausted)
	}
	a.server.AddWatchers(-1)
	want[client.ServiceView](t, a.do("GET", path, ""), 200)
	if n := a.server.Watchers(); n != httpapi.MaxWatchers-1 {
		t.Errorf("%d watchers are left, want %d", n, httpapi.MaxWatchers-1)
	}
}
