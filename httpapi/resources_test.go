package httpapi_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

const jobTemplate = `{"driver":"process","command":"@sample","labels":{"team":"a"}}`

func TestTemplateLifecycle(t *testing.T) {
	a := newAPI(t)
	w := a.do("PUT", "/v1/templates/job", jobTemplate)
	made := want[fsm.Template](t, w, http.StatusCreated)
	if made.Name != "job" || made.Version != 1 || made.Revision == 0 || made.Labels["team"] != "a" {
		t.Errorf("created %+v", made)
	}
	checkHeaders(t, w.Header())
	if tag := w.Header().Get("ETag"); tag != fmt.Sprintf("%q", strconv.FormatUint(made.Revision, 10)) {
		t.Errorf("ETag %s for revision %d", tag, made.Revision)
	}
	read := a.do("GET", "/v1/templates/job", "")
	if got := want[fsm.Template](t, read, 200); got.Revision != made.Revision {
		t.Errorf("read %+v", got)
	}
	// What was read can be changed and put back, with the fields of the server.
	body := strings.Replace(read.Body.String(), `"team":"a"`, `"team":"b"`, 1)
	if got := want[fsm.Template](t, a.do("PUT", "/v1/templates/job", body), 200); got.Version != 2 || got.Labels["team"] != "b" {
		t.Errorf("replaced %+v", got)
	}
	if w := a.do("DELETE", "/v1/templates/job", ""); w.Code != http.StatusNoContent || w.Body.Len() != 0 {
		t.Errorf("delete: %d %s", w.Code, w.Body)
	}
	problem(t, a.do("GET", "/v1/templates/job", ""), 404, fsm.NotFound)
}

func TestConditionalWrites(t *testing.T) {
	a := newAPI(t)
	put := func(team string, headers ...string) (int, string) {
		w := a.do("PUT", "/v1/templates/job", strings.Replace(jobTemplate, `"a"`, `"`+team+`"`, 1), headers...)
		if w.Code >= 400 {
			problem(t, w, w.Code, fsm.StaleRevision)
		}
		return w.Code, w.Header().Get("ETag")
	}
	if code, _ := put("x", "If-Match: *"); code != 412 {
		t.Errorf("If-Match: * of nothing gave %d", code)
	}
	code, first := put("a", "If-None-Match: *")
	if code != 201 {
		t.Fatalf("create only gave %d", code)
	}
	if code, _ := put("b", "If-None-Match: *"); code != 412 {
		t.Errorf("create only of something gave %d", code)
	}
	if code, _ := put("b", "If-Match: "+first); code != 200 {
		t.Errorf("a fresh ETag gave %d", code)
	}
	if code, _ := put("c", "If-Match: "+first); code != 412 {
		t.Errorf("a stale ETag gave %d", code)
	}
	if code, _ := put("d", "If-Match: *"); code != 200 {
		t.Errorf("If-Match: * gave %d", code)
	}
	problem(t, a.do("DELETE", "/v1/templates/job", "", "If-Match: "+first), 412, fsm.StaleRevision)
	problem(t, a.do("PUT", "/v1/templates/job", jobTemplate, "If-Match: job"), 422, fsm.Invalid)
	problem(t, a.do("PUT", "/v1/templates/job", jobTemplate, "If-Match: \"1\"", "If-None-Match: *"), 422, fsm.Invalid)
	w := a.do("GET", "/v1/templates/web", "")
	if w := a.do("GET", "/v1/templates/web", "", "If-None-Match: "+w.Header().Get("ETag")); w.Code != 304 || w.Body.Len() != 0 {
		t.Errorf("unchanged gave %d", w.Code)
	}
}

func TestIdempotencyKeyAppliesOnce(t *testing.T) {
	a := newAPI(t)
	scale := func(desired int) *client.Problem {
		w := a.do("POST", "/v1/groups/web/scale", fmt.Sprintf(`{"desired":%d}`, desired), "Idempotency-Key: k1")
		if w.Code == 200 {
			if g := want[fsm.Group](t, w, 200); g.Name != "web" {
				t.Errorf("a replayed write answered %s", w.Body)
			}
			return nil
		}
		p := problem(t, w, 409, fsm.Conflict)
		return &p
	}
	if p := scale(4); p != nil {
		t.Fatal(p)
	}
	want[fsm.Group](t, a.do("POST", "/v1/groups/web/scale", `{"desired":5}`), 200)
	if p := scale(4); p != nil {
		t.Fatal(p)
	}
	if g, _ := a.cluster.State().Groups.Get("web"); g.Desired != 5 {
		t.Errorf("the retried write applied twice: desired is %d", g.Desired)
	}
	if p := scale(3); p == nil || !strings.Contains(p.Detail, "another write") {
		t.Errorf("a key used for two writes: %v", p)
	}
	problem(t, a.do("POST", "/v1/groups/web/scale", `{"desired":5}`, "Idempotency-Key: "+strings.Repeat("x", 121)), 422, fsm.Invalid)
}

func TestPatchGroup(t *testing.T) {
	a := newAPI(t)
	patch := func(body string, headers ...string) fsm.Group {
		t.Helper()
		return want[fsm.Group](t, a.do("PATCH", "/v1/groups/web", body, append(headers, "Content-Type: application/merge-patch+json")...), 200)
	}
	g := patch(`{"maxSize":9,"labels":{"a":"1","b":"2"}}`)
	if g.MaxSize != 9 || g.MinSize != 1 || g.Desired != 3 || g.Labels["b"] != "2" {
		t.Errorf("patched %+v", g)
	}
	if g = patch(`{"labels":{"a":null}}`); len(g.Labels) != 1 || g.Labels["b"] != "2" {
		t.Errorf("labels %v", g.Labels)
	}
	p := problem(t, a.do("PATCH", "/v1/groups/web", `{"minSize":10,"colour":"red"}`), 422, fsm.Invalid)
	if got := fmt.Sprint(fieldsOf(p)); !strings.Contains(got, "colour") || !strings.Contains(got, "minSize") {
		t.Errorf("fields %s", got)
	}
	for _, body := range []string{`[]`, `null`, `3`, `{"maxSize":4,"maxSize":5}`, `{`} {
		problem(t, a.do("PATCH", "/v1/groups/web", body), 422, fsm.Invalid)
	}
	problem(t, a.do("PATCH", "/v1/groups/none", `{}`), 404, fsm.NotFound)
	problem(t, a.do("PATCH", "/v1/groups/web", `{"maxSize":4}`, `If-Match: "1"`), 412, fsm.StaleRevision)
}

// A patch starts again when the group changed between its reading and its
// writing, and loses nobody's change.
func TestPatchRetriesOnRevision(t *testing.T) {
	a := newAPI(t)
	interfere := 2
	a.cluster.Refuse = func(cmd fsm.Command) error {
		if _, isPut := cmd.(fsm.PutGroup); isPut && interfere > 0 {
			interfere--
			a.cluster.Must(fsm.SetDesired{Group: "web", To: 4 + interfere})
		}
		return nil
	}
	headers := []string{"Idempotency-Key: patch-1"}
	g := want[fsm.Group](t, a.do("PATCH", "/v1/groups/web", `{"maxSize":8}`, headers...), 200)
	if g.MaxSize != 8 || g.Desired != 4 {
		t.Errorf("patched %+v", g)
	}
	a.cluster.Must(fsm.SetDesired{Group: "web", To: 2})
	again := want[fsm.Group](t, a.do("PATCH", "/v1/groups/web", `{"maxSize":8}`, headers...), 200)
	if again.Desired != 2 {
		t.Errorf("a patch that was sent again changed the group: %+v", again)
	}
}

func TestGroupStatusAndDelete(t *testing.T) {
	a := newAPI(t)
	st := want[client.GroupStatus](t, a.do("GET", "/v1/groups/web/status", ""), 200)
	if st.Desired != 3 || st.Current != 2 || st.Running != 1 || st.Healthy != 1 || st.Converged || st.Explanation == "" {
		t.Errorf("status %+v", st)
	}
	if st.States[fsm.Running] != 1 || st.States[fsm.Starting] != 1 || len(st.Instances) != 2 {
		t.Errorf("states %v", st.States)
	}
	a.cluster.Report(httpapitest.InstanceID(2), fsm.Running, fsm.Healthy)
	want[fsm.Group](t, a.do("POST", "/v1/groups/web/scale", `{"desired":2}`), 200)
	if st = want[client.GroupStatus](t, a.do("GET", "/v1/groups/web/status", ""), 200); !st.Converged {
		t.Errorf("not converged: %+v", st)
	}
	problem(t, a.do("DELETE", "/v1/templates/web", ""), 409, fsm.Conflict)
	if g := want[fsm.Group](t, a.do("DELETE", "/v1/groups/web", ""), 202); !g.Deleting {
		t.Errorf("deleted %+v", g)
	}
	problem(t, a.do("PUT", "/v1/groups/web", `{"template":"web","minSize":1,"maxSize":2,"desired":1}`), 409, fsm.Conflict)
}

func TestExplainComesFromTheNode(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) {
		c.Explain = func(group string) string { return "because of " + group }
	})
	if st := want[client.GroupStatus](t, a.do("GET", "/v1/groups/web/status", ""), 200); st.Explanation != "because of web" {
		t.Errorf("explanation %q", st.Explanation)
	}
}

func TestInstances(t *testing.T) {
	a := newAPI(t)
	id := httpapitest.InstanceID(1)
	for query, n := range map[string]int{
		"": 2, "?group=web": 2, "?group=none": 0, "?state=running": 1, "?health=healthy&node=n1": 1, "?zone=b": 0, "?template=web": 2,
	} {
		if l := want[client.List[fsm.Instance]](t, a.do("GET", "/v1/instances"+query, ""), 200); len(l.Items) != n {
			t.Errorf("%s: %d instances, want %d", query, len(l.Items), n)
		}
	}
	if l := want[client.List[fsm.Instance]](t, a.do("GET", "/v1/groups/web/instances?state=starting", ""), 200); len(l.Items) != 1 {
		t.Errorf("%d starting", len(l.Items))
	}
	if i := want[fsm.Instance](t, a.do("DELETE", "/v1/instances/"+id+"?reason=tired", ""), 202); i.State != fsm.Draining || i.Reason != "tired" {
		t.Errorf("stopped %+v", i)
	}
	if w := a.do("GET", "/v1/instances/"+id+"/logs?tail=2", ""); w.Body.String() != "two\nthree\n" || w.Header().Get("Paceline-Log-Offset") != "14" {
		t.Errorf("log %q", w.Body)
	}
	if w := a.do("GET", "/v1/instances/"+id+"/logs?follow&tail=1", ""); w.Body.String() != "three\n" {
		t.Errorf("followed log %q", w.Body)
	}
	problem(t, a.do("GET", "/v1/instances/none/logs", ""), 404, fsm.NotFound)
	problem(t, a.do("DELETE", "/v1/instances/none", ""), 404, fsm.NotFound)
	problem(t, a.do("GET", "/v1/instances?state=dancing", ""), 422, fsm.Invalid)
}

func TestPolicies(t *testing.T) {
	a := newAPI(t)
	const step = `{"metric":"memory","operator":"greater","threshold":80,"direction":"up","adjustment":1,"cooldown":"1m"}`
	p := want[fsm.Policy](t, a.do("PUT", "/v1/groups/web/policies/full", step), 201)
	if p.Group != "web" || p.Name != "full" || !p.On() || p.EvaluationPeriods != 1 {
		t.Errorf("created %+v", p)
	}
	want[fsm.Policy](t, a.do("PUT", "/v1/groups/web/policies/full", step), 200)
	if l := want[client.List[fsm.Policy]](t, a.do("GET", "/v1/groups/web/policies", ""), 200); len(l.Items) != 3 {
		t.Errorf("%d policies", len(l.Items))
	}
	if w := a.do("DELETE", "/v1/groups/web/policies/full", ""); w.Code != 204 {
		t.Errorf("delete %d", w.Code)
	}
	problem(t, a.do("GET", "/v1/groups/web/policies/full", ""), 404, fsm.NotFound)
	problem(t, a.do("GET", "/v1/groups/none/policies/full", ""), 404, fsm.NotFound)
	problem(t, a.do("PUT", "/v1/groups/none/policies/full", step), 404, fsm.NotFound)
}

func TestHistoryIsNewestFirst(t *testing.T) {
	a := newAPI(t)
	d := want[client.List[fsm.Decision]](t, a.do("GET", "/v1/groups/web/decisions", ""), 200)
	if len(d.Items) != 2 || d.Items[0].To != 3 || d.Items[0].Winner != "busy" {
		t.Errorf("decisions %+v", d.Items)
	}
	if d = want[client.List[fsm.Decision]](t, a.do("GET", "/v1/groups/web/decisions?changed", ""), 200); len(d.Items) != 1 {
		t.Errorf("%d decisions that changed the size", len(d.Items))
	}
	act := want[client.List[fsm.Activity]](t, a.do("GET", "/v1/groups/web/activities?type=scaled", ""), 200)
	if len(act.Items) != 1 || act.Items[0].Policy != "busy" {
		t.Errorf("activities %+v", act.Items)
	}
}

func TestMetricsIn(t *testing.T) {
	a := newAPI(t)
	w := a.do("POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":85},{"metric":"queue","value":3,"instance":"`+httpapitest.InstanceID(1)+`"}]}`)
	if got := want[client.Accepted](t, w, 202); got.Accepted != 2 {
		t.Errorf("accepted %+v", got)
	}
	if s := a.sink.Samples(); len(s) != 2 || s[0].Value != 85 || s[0].At.IsZero() {
		t.Errorf("samples %+v", s)
	}
}

func TestNodes(t *testing.T) {
	a := newAPI(t)
	a.cluster.Must(fsm.RegisterNode{Node: fsm.Node{Name: "n2", Incarnation: 7, API: "127.0.0.1:7710"}})
	if l := want[client.List[fsm.Node]](t, a.do("GET", "/v1/nodes", ""), 200); len(l.Items) != 2 {
		t.Errorf("%d nodes", len(l.Items))
	}
	if n := want[fsm.Node](t, a.do("POST", "/v1/nodes/n2/drain", `{"reason":"new kernel"}`), 200); n.State != fsm.NodeStateDraining || n.Reason != "new kernel" {
		t.Errorf("drained %+v", n)
	}
	if n := want[fsm.Node](t, a.do("POST", "/v1/nodes/n2/undrain", ""), 200); n.State != fsm.NodeStateReady {
		t.Errorf("undrained %+v", n)
	}
	if p := problem(t, a.do("POST", "/v1/nodes/n2/leave", ""), 409, fsm.Conflict); !strings.Contains(p.Hint, "127.0.0.1:7710") {
		t.Errorf("hint %q", p.Hint)
	}
	want[client.Done](t, a.do("POST", "/v1/nodes/n1/leave", ""), 200)
	if w := a.do("DELETE", "/v1/nodes/n2", ""); w.Code != 204 {
		t.Errorf("remove %d %s", w.Code, w.Body)
	}
	problem(t, a.do("GET", "/v1/nodes/n2", ""), 404, fsm.NotFound)
	problem(t, a.do("DELETE", "/v1/nodes/n2", ""), 404, fsm.NotFound)
	problem(t, a.do("DELETE", "/v1/nodes/n1", ""), 409, fsm.Conflict)
	if got := strings.Join(a.cluster.Calls(), ","); !strings.Contains(got, "leave") || !strings.Contains(got, "remove n2") {
		t.Errorf("calls %s", got)
	}
}

func TestCluster(t *testing.T) {
	a := newAPI(t)
	st := want[client.ClusterStatus](t, a.do("GET", "/v1/cluster", ""), 200)
	if st.Leader != "n1" || st.ID != "01TESTCLUSTER" || len(st.Members) != 1 || st.Quorum.Voters != 1 {
		t.Errorf("status %+v", st)
	}
	if d := want[client.Done](t, a.do("POST", "/v1/cluster/transfer-leadership", ""), 200); !strings.Contains(d.Message, "n1") {
		t.Errorf("transfer %+v", d)
	}
	problem(t, a.do("POST", "/v1/cluster/transfer-leadership", `{"to":"n9"}`), 404, fsm.NotFound)
	problem(t, a.do("POST", "/v1/cluster/transfer-leadership", `{"to":"NO"}`), 422, fsm.Invalid)
}

func TestSnapshotRoundTrip(t *testing.T) {
	a := newAPI(t)
	w := a.do("GET", "/v1/cluster/snapshot", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/octet-stream" {
		t.Fatalf("save: %d", w.Code)
	}
	checkHeaders(t, w.Header())
	saved := w.Body.String()
	want[fsm.Group](t, a.do("POST", "/v1/groups/web/scale", `{"desired":5}`), 200)
	restore := func(body string) int {
		return a.do("PUT", "/v1/cluster/snapshot", body, "Content-Type: application/octet-stream").Code
	}
	flipped := []byte(saved)
	flipped[len(flipped)/2] ^= 1
	for name, bad := range map[string]string{"truncated": saved[:len(saved)/2], "flipped": string(flipped), "other": "hello"} {
		if code := restore(bad); code != 422 {
			t.Errorf("%s snapshot: %d", name, code)
		}
	}
	if g, _ := a.cluster.State().Groups.Get("web"); g.Desired != 5 {
		t.Error("a bad snapshot changed the state")
	}
	problem(t, a.do("PUT", "/v1/cluster/snapshot", saved), 415, client.CodeUnsupportedMedia)
	if code := restore(saved); code != 200 {
		t.Errorf("restore: %d", code)
	}
	if g, _ := a.cluster.State().Groups.Get("web"); g.Desired != 3 {
		t.Errorf("desired is %d after the restore", g.Desired)
	}
	a.cluster.ReadError = fsm.Errorf(fsm.NoLeader, "", "", "there is no leader")
	problem(t, a.do("GET", "/v1/cluster/snapshot", ""), 503, fsm.NoLeader)
}

// A description that names no size can be applied again and again without
// undoing what the policies did.
func TestPutGroupWithoutSizeKeepsIt(t *testing.T) {
	a := newAPI(t)
	put := func(body string, status int) int {
		t.Helper()
		return want[fsm.Group](t, a.do("PUT", "/v1/groups/sized", body), status).Desired
	}
	const body = `{"template":"web","minSize":2,"maxSize":5}`
	if got := put(body, http.StatusCreated); got != 2 {
		t.Fatalf("a new group begins at %d, not at minSize", got)
	}
	want[fsm.Group](t, a.do("POST", "/v1/groups/sized/scale", `{"desired":4}`), 200)
	if got := put(body, 200); got != 4 {
		t.Errorf("applied again, the size is %d, not 4", got)
	}
	if got := put(`{"template":"web","minSize":2,"maxSize":3}`, 200); got != 3 {
		t.Errorf("within new limits, the size is %d, not 3", got)
	}
}
