package httpapi_test

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// consulHealth is what programs read of Consul's health answer.
type consulHealth []struct {
	Node    struct{ Node, Address, Datacenter string }
	Service struct {
		ID, Service, Address string
		Port                 int
		Tags                 []string
		Meta                 map[string]string
		Weights              struct{ Passing int }
	}
	Checks []struct{ Status, ServiceID, Output string }
}

func consulIndex(t *testing.T, w *httptest.ResponseRecorder) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(w.Header().Get("X-Consul-Index"), 10, 64)
	if err != nil || n == 0 || w.Header().Get("X-Consul-KnownLeader") != "true" || w.Header().Get("X-Consul-LastContact") != "0" {
		t.Fatalf("headers %v", w.Header())
	}
	return n
}

func TestConsulHealth(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	endpoint(a, httpapitest.InstanceID(2), "127.0.0.1:20002", fsm.Unhealthy)
	w := a.do("GET", "/v1/health/service/api", "")
	h := want[consulHealth](t, w, 200)
	row, _ := a.cluster.State().ServiceIndexes.Get("api")
	if consulIndex(t, w) != row.Index || len(h) != 1 {
		t.Fatalf("%d entries at %v", len(h), w.Header())
	}
	s := h[0].Service
	if s.ID != httpapitest.InstanceID(9) || s.Service != "api" || s.Address != "2001:db8::1" || s.Port != 8080 || !slices.Equal(s.Tags, []string{"beta", "tier=front"}) ||
		s.Meta["zone"] != "a" || s.Weights.Passing != 1 || h[0].Node.Node != "n1" || h[0].Node.Address != "127.0.0.1" || h[0].Checks[0].Status != "passing" {
		t.Errorf("entry %+v", h[0])
	}
	for path, n := range map[string]int{
		"web": 2, "web?passing": 1, "web?passing=1&stale=&near=_agent&dc=dc1&cached": 1, "web?passing&consistent": 1, "web?tag=x": 0,
		"api?tag=tier": 1, "api?tag=tier%3Dfront&tag=beta": 1, "api?tag=tier%3Dfront&tag=alpha": 0, "none": 0,
	} {
		if h := want[consulHealth](t, a.do("GET", "/v1/health/service/"+path, ""), 200); len(h) != n || h == nil {
			t.Errorf("%s: %+v", path, h)
		}
	}
	a.cluster.Must(fsm.StopInstances{Instances: []string{httpapitest.InstanceID(1)}, Cause: "test"})
	for _, e := range want[consulHealth](t, a.do("GET", "/v1/health/service/web", ""), 200) {
		if e.Checks[0].Status != "critical" {
			t.Errorf("entry %+v", e)
		}
	}
	// What would narrow an answer is not ignored.
	problem(t, a.do("GET", "/v1/health/service/web?filter=Node.Node%3D%3Dn1", ""), 422, fsm.Invalid)
	problem(t, a.do("GET", "/v1/health/service/web?index=1&wait=soon", ""), 422, fsm.Invalid)
	// A new label is a new tag, though the endpoints are the same.
	a.cluster.Must(fsm.PutGroup{Group: fsm.Group{Name: "api", Template: "web", MinSize: 1, MaxSize: 5, Desired: 1, Labels: map[string]string{"new": ""},
		Service: &fsm.Service{Hosts: []string{"api.example"}, PathPrefix: "/v2"}}})
	if h := want[consulHealth](t, a.do("GET", "/v1/health/service/api", ""), 200); !slices.Equal(h[0].Service.Tags, []string{"new"}) {
		t.Errorf("tags %v", h[0].Service.Tags)
	}
}

func TestConsulCatalog(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	all := want[map[string][]string](t, a.do("GET", "/v1/catalog/services", ""), 200)
	if len(all) != 2 || !slices.Equal(all["api"], []string{"beta", "tier=front"}) || all["web"] == nil {
		t.Errorf("services %v", all)
	}
	type entry struct {
		Node, Address, ServiceID, ServiceName, ServiceAddress string
		ServicePort                                           int
	}
	list := want[[]entry](t, a.do("GET", "/v1/catalog/service/api", ""), 200)
	if len(list) != 1 || list[0] != (entry{"n1", "127.0.0.1", httpapitest.InstanceID(9), "api", "2001:db8::1", 8080}) {
		t.Errorf("entries %+v", list)
	}
	self := want[struct {
		Config struct{ Datacenter, NodeName string }
	}](t, a.do("GET", "/v1/agent/self", ""), 200)
	if self.Config.Datacenter != "paceline" || self.Config.NodeName != "n1" {
		t.Errorf("self %+v", self)
	}
}

// A reader may wait for a service that is not there yet, and for the list.
func TestConsulBlocks(t *testing.T) {
	a := newAPI(t)
	answers := map[string]chan *httptest.ResponseRecorder{}
	for _, path := range []string{"/v1/health/service/api", "/v1/catalog/services"} {
		await(t, "a list that has settled", func() bool {
			return path != "/v1/catalog/services" || consulIndex(t, a.do("GET", path, "")) >= 4
		})
		index := consulIndex(t, a.do("GET", path, ""))
		answer := make(chan *httptest.ResponseRecorder, 1)
		go func() { answer <- a.do("GET", fmt.Sprintf("%s?index=%d&wait=600000ms", path, index), "") }()
		answers[path] = answer
	}
	awaitWatchers(t, a, 2)
	for n := range 20 {
		a.cluster.Report(httpapitest.InstanceID(1), "", []fsm.Health{fsm.Healthy, fsm.Unhealthy}[n%2])
	}
	// What changes of a service does not change which services there are.
	list := "/v1/catalog/services"
	before := consulIndex(t, a.do("GET", list, ""))
	a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: "last", Driver: "process", Command: "@sample"}})
	recent(t, a, "", "template last was created")
	if after := consulIndex(t, a.do("GET", list, "")); after != before {
		t.Errorf("the index of the list went from %d to %d", before, after)
	}
	secondGroup(a)
	w := <-answers["/v1/health/service/api"]
	if want[consulHealth](t, w, 200); consulIndex(t, w) < 4 {
		t.Errorf("health at %d", consulIndex(t, w))
	}
	if all := want[map[string][]string](t, <-answers["/v1/catalog/services"], 200); all["api"] == nil {
		t.Errorf("services %v", all)
	}
	if w := a.do("GET", "/v1/health/service/api?index=0&wait=10m", ""); w.Code != 200 {
		t.Errorf("index 0 is not to block: %d", w.Code)
	}
}

// What went back between two reads ends a wait before it has begun.
func TestConsulGoesBack(t *testing.T) {
	a := newAPI(t)
	secondGroup(a)
	index := consulIndex(t, a.do("GET", "/v1/health/service/api", ""))
	a.cluster.Must(fsm.DeleteGroup{Group: "api"})
	a.cluster.Report(httpapitest.InstanceID(9), fsm.Failed, "")
	a.cluster.Must(fsm.RemoveGroup{Group: "api"})
	w := a.do("GET", fmt.Sprintf("/v1/health/service/api?index=%d&wait=10m", index), "")
	if w.Code != 200 || consulIndex(t, w) >= index {
		t.Errorf("%d at %d, before it was at %d", w.Code, consulIndex(t, w), index)
	}
}

// The answers that are kept show what nodes say of themselves now.
func TestConsulNodeChanges(t *testing.T) {
	a := newAPI(t)
	for n, rack := range []string{"r1", "r2"} {
		a.cluster.Must(fsm.RegisterNode{Node: fsm.Node{
			Name: "n1", Incarnation: uint64(n + 2), Zone: "a", Drivers: []string{"process"}, API: "127.0.0.1:7700", Labels: map[string]string{"rack": rack},
		}})
		if w := a.do("GET", "/v1/health/service/web", ""); !strings.Contains(w.Body.String(), `"rack":"`+rack+`"`) {
			t.Errorf("with rack %s: %s", rack, w.Body)
		}
	}
}

func TestConsulToken(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.TokenFile = tokenFile(t, goodTokens) })
	for _, path := range []string{"/v1/health/service/web", "/v1/catalog/services", "/v1/agent/self"} {
		if w := a.do("GET", path, "", "X-Consul-Token: "+viewerToken); w.Code != 200 {
			t.Errorf("%s: %d", path, w.Code)
		}
		problem(t, a.do("GET", path, "", "X-Consul-Token: wrong"), 401, fsm.Unauthorized)
	}
	problem(t, a.do("GET", "/v1/groups", "", "X-Consul-Token: "+adminToken), 401, fsm.Unauthorized)
}
