package httpapi_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

func TestHeartbeatsAreHandedOn(t *testing.T) {
	hearts := &httpapitest.Hearts{}
	a := newAPI(t, func(c *httpapi.Config) { c.Heartbeats = hearts })
	id := httpapitest.InstanceID(1)
	before := a.cluster.State().Index()
	taken := want[client.HeartbeatTaken](t, a.do("PUT", "/v1/instances/"+id+"/health", `{"status":"pass"}`), 200)
	if taken.TTL.Std() != 10*time.Second {
		t.Errorf("got %+v", taken)
	}
	want[client.HeartbeatTaken](t, a.do("PUT", "/v1/instances/"+id+"/health", `{"status":"fail","output":"no database"}`), 200)
	if got, want := hearts.Beats(), []string{id + " pass", id + " fail no database"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if a.cluster.State().Index() != before {
		t.Error("a heartbeat was written to the log")
	}
	longest := `{"status":"fail","output":"` + strings.Repeat("x", httpapi.MaxHeartbeatOutput) + `"}`
	want[client.HeartbeatTaken](t, a.do("PUT", "/v1/instances/"+id+"/health", longest), 200)
	hearts.Err = fsm.Errorf(fsm.Conflict, "instance", id, "has no ttl check")
	problem(t, a.do("PUT", "/v1/instances/"+id+"/health", `{"status":"pass"}`), 409, fsm.Conflict)
}

func TestHeartbeatsThatAreRefused(t *testing.T) {
	hearts := &httpapitest.Hearts{}
	a := newAPI(t, func(c *httpapi.Config) { c.Heartbeats = hearts })
	url := "/v1/instances/" + httpapitest.InstanceID(1) + "/health"
	problem(t, a.do("PUT", "/v1/instances/none/health", `{"status":"pass"}`), 404, fsm.NotFound)
	for body, field := range map[string]string{
		`{"status":"passing"}`: "status", `{}`: "status", `{"status":"pass","ttl":"1s"}`: "ttl",
		`{"status":"fail","output":"` + strings.Repeat("x", httpapi.MaxHeartbeatOutput+1) + `"}`: "output",
	} {
		p := problem(t, a.do("PUT", url, body), 422, fsm.Invalid)
		if got := fieldsOf(p); !slices.Contains(got, field) {
			t.Errorf("%.40s: faults in %q, want %s", body, got, field)
		}
	}
	if got := hearts.Beats(); len(got) > 0 {
		t.Errorf("handed on: %q", got)
	}
	b := newAPI(t)
	problem(t, b.do("PUT", url, `{"status":"pass"}`), 503, fsm.Unavailable)
}

// TestFlappingIsAnEvent: who follows the events sees why an instance counts as
// unhealthy.
func TestFlappingIsAnEvent(t *testing.T) {
	a := newAPI(t)
	id := httpapitest.InstanceID(1)
	a.cluster.Must(fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{
		ID: id, State: fsm.Running, Health: fsm.Unhealthy, HealthReason: fsm.HealthFlapping, Reason: "flapping: no database",
	}}})
	list := recent(t, a, "?type=instance.flapping", "is unhealthy: flapping")
	if len(list) != 1 || list[0].Instance != id || !strings.HasSuffix(list[0].Message, "is unhealthy: flapping: no database") {
		t.Errorf("got %+v", list)
	}
	i := want[fsm.Instance](t, a.do("GET", "/v1/instances/"+id, ""), 200)
	if i.Health != fsm.Unhealthy || i.HealthReason != fsm.HealthFlapping {
		t.Errorf("got %+v", i)
	}
	a.cluster.Report(id, fsm.Running, fsm.Healthy)
	if i = want[fsm.Instance](t, a.do("GET", "/v1/instances/"+id, ""), 200); i.HealthReason != "" {
		t.Errorf("healthy, and still %q", i.HealthReason)
	}
}
