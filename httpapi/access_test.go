package httpapi_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
)

const (
	viewerToken   = "viewer-token-00001"
	operatorToken = "operator-token-001"
	adminToken    = "admin-token-000001"
)

func tokenFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tokens")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const goodTokens = "# who may what\nviewer:" + viewerToken + "\noperator: " + operatorToken + "\nadmin:" + adminToken + "\n"

// access is who may use which route, written down a second time on purpose: a
// route that is new or has another level must be changed here as well.
var access = map[string]httpapi.Access{
	"index": httpapi.Public, "livez": httpapi.Public, "readyz": httpapi.Public, "openapi": httpapi.Public,
	"metrics":        httpapi.Viewer,
	"list-templates": httpapi.Viewer, "get-template": httpapi.Viewer, "put-template": httpapi.Operator, "delete-template": httpapi.Operator,
	"list-groups": httpapi.Viewer, "get-group": httpapi.Viewer, "get-group-status": httpapi.Viewer,
	"put-group": httpapi.Operator, "patch-group": httpapi.Operator, "delete-group": httpapi.Operator, "scale-group": httpapi.Operator,
	"list-policies": httpapi.Viewer, "get-policy": httpapi.Viewer, "put-policy": httpapi.Operator, "delete-policy": httpapi.Operator,
	"list-decisions": httpapi.Viewer, "list-activities": httpapi.Viewer, "push-metrics": httpapi.Operator,
	"list-instances": httpapi.Viewer, "list-group-instances": httpapi.Viewer, "get-instance": httpapi.Viewer,
	"stop-instance": httpapi.Operator, "send-heartbeat": httpapi.Operator, "get-instance-logs": httpapi.Viewer,
	"list-nodes": httpapi.Viewer, "get-node": httpapi.Viewer, "drain-node": httpapi.Operator, "undrain-node": httpapi.Operator,
	"leave-node": httpapi.Admin, "remove-node": httpapi.Admin,
	"get-cluster": httpapi.Viewer, "transfer-leadership": httpapi.Admin, "save-snapshot": httpapi.Admin, "restore-snapshot": httpapi.Admin,
	"list-services": httpapi.Viewer, "get-service": httpapi.Viewer, "discover-prometheus": httpapi.Viewer,
	"consul-health-service": httpapi.Viewer, "consul-catalog-service": httpapi.Viewer, "consul-catalog-services": httpapi.Viewer, "consul-agent-self": httpapi.Viewer,
	"list-events":       httpapi.Viewer,
	"get-session-stats": httpapi.Viewer, "get-session": httpapi.Viewer, "route-session": httpapi.Operator, "delete-session": httpapi.Operator,
	"get-session-data": httpapi.Operator, "put-session-data": httpapi.Operator, "delete-session-data": httpapi.Operator,
}

// Every route × every caller.
func TestRouteAccess(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.TokenFile = tokenFile(t, goodTokens) })
	rank := map[httpapi.Access]int{httpapi.Public: 1, httpapi.Viewer: 2, httpapi.Operator: 3, httpapi.Admin: 4}
	callers := map[httpapi.Access]string{
		httpapi.Public: "", httpapi.Viewer: viewerToken, httpapi.Operator: operatorToken, httpapi.Admin: adminToken,
	}
	seen := map[string]bool{}
	for _, r := range httpapi.Routes() {
		seen[r.ID] = true
		need, listed := access[r.ID]
		if !listed || need != r.Access || rank[r.Access] == 0 {
			t.Errorf("%s %s (%s) is for %q, expected %q", r.Method, r.Path, r.ID, r.Access, need)
			continue
		}
		path := strings.NewReplacer("{group}", "none", "{template}", "none", "{policy}", "none", "{instance}", "none", "{node}", "none", "{service}", "none", "{session}", "none").Replace(r.Path)
		for caller, token := range callers {
			var headers []string
			if token != "" {
				headers = append(headers, "Authorization: Bearer "+token)
			}
			w := a.do(r.Method, path, "", headers...)
			switch {
			case rank[caller] >= rank[need]:
				if w.Code == 401 || w.Code == 403 {
					t.Errorf("%s as %s: %d", r.ID, caller, w.Code)
				}
			case caller == httpapi.Public:
				problem(t, w, 401, fsm.Unauthorized)
			default:
				problem(t, w, 403, fsm.Forbidden)
			}
		}
	}
	for id := range access {
		if !seen[id] {
			t.Errorf("route %s is gone", id)
		}
	}
}

func TestTokens(t *testing.T) {
	path := tokenFile(t, goodTokens)
	a := newAPI(t, func(c *httpapi.Config) { c.TokenFile = path })
	status := func(authorization string) int {
		return a.do(http.MethodGet, "/v1/groups", "", "Authorization: "+authorization).Code
	}
	for sent, code := range map[string]int{
		"Bearer " + viewerToken: 200, "bearer " + adminToken: 200, "": 401, "Bearer ": 401, "Bearer wrong": 401,
		"Basic " + viewerToken: 401, viewerToken: 401, "Bearer " + viewerToken + "x": 401,
	} {
		if got := status(sent); got != code {
			t.Errorf("%q: %d, want %d", sent, got, code)
		}
	}
	// The role is the actor of what it does.
	a.do("POST", "/v1/groups/web/scale", `{"desired":4}`, "Authorization: Bearer "+operatorToken)
	for _, act := range a.cluster.State().Activities.Backward("web/") {
		if act.Actor != "operator" {
			t.Errorf("actor %q", act.Actor)
		}
		break
	}
	// A file that is no good leaves the tokens in force; a good one replaces them.
	if err := os.WriteFile(path, []byte("viewer:short\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.server.Reload(); err == nil || status("Bearer "+viewerToken) != 200 {
		t.Errorf("reload of a bad file: %v", err)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(goodTokens, viewerToken, "another-viewer-001", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := a.server.Reload(); err != nil || status("Bearer "+viewerToken) != 401 || status("Bearer another-viewer-001") != 200 {
		t.Errorf("reload of a good file: %v", err)
	}
}

func TestBadTokenFiles(t *testing.T) {
	a := newAPI(t)
	for name, text := range map[string]string{
		"empty": "", "no role": "token-without-role\n", "unknown role": goodTokens + "root:root-token-0000001\n",
		"public": goodTokens + "public:public-token-000001\n", "missing role": "viewer:" + viewerToken + "\nadmin:" + adminToken + "\n",
		"short": goodTokens + "admin:short\n",
	} {
		_, err := httpapi.New(httpapi.Config{Node: "n1", Cluster: a.cluster, Status: a.cluster.Status, TokenFile: tokenFile(t, text)})
		if fsm.KindOf(err) != fsm.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := httpapi.New(httpapi.Config{Node: "n1", Cluster: a.cluster, Status: a.cluster.Status, TokenFile: "/nonexistent"}); err == nil {
		t.Error("a token file that is not there is ignored")
	}
}
