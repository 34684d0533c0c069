package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// sessionNode is a real API whose group web has a strategy and one instance.
func sessionNode(t *testing.T, strategy string) *client.Client {
	t.Helper()
	cluster := httpapitest.New("n1")
	httpapitest.Web(cluster)
	cluster.Must(fsm.PutGroup{Group: fsm.Group{
		Name: "web", Template: "web", MinSize: 1, MaxSize: 5, Desired: 2,
		Service: &fsm.Service{Stickiness: fsm.Stickiness{Strategy: strategy}},
	}})
	s, err := httpapi.New(httpapi.Config{Node: "n1", Cluster: cluster, Status: cluster.Status})
	if err != nil {
		t.Fatal(err)
	}
	l := httptest.NewServer(s)
	t.Cleanup(func() {
		l.Close()
		_ = s.Shutdown(context.Background())
	})
	return connect(t, l.URL)
}

func TestSessions(t *testing.T) {
	c, ctx := sessionNode(t, fsm.StickyTable), t.Context()
	const id = "a/b c+d ü%2F" // whatever a text may be
	r, err := c.RouteSession(ctx, "web", id)
	if err != nil || !r.Created || r.Session != id || r.Instance != httpapitest.InstanceID(1) || r.Address == "" {
		t.Fatalf("%+v, %v", r, err)
	}
	s, err := c.GetSession(ctx, "web", id, client.WithConsistency(client.Strong))
	if err != nil || s.Session != id || s.Instance != r.Instance || !s.Lives || s.Key != r.Key {
		t.Errorf("%+v, %v", s, err)
	}
	stats, err := c.SessionStats(ctx, "web")
	if err != nil || stats.Sessions != 1 || stats.Assigned != 1 || len(stats.Slots) != 1 || stats.Strategy != fsm.StickyTable {
		t.Errorf("%+v, %v", stats, err)
	}
	if err := c.DeleteSession(ctx, "web", id); err != nil {
		t.Error(err)
	}
	if _, err := c.GetSession(ctx, "web", id); client.CodeOf(err) != fsm.NotFound {
		t.Errorf("after the delete: %v", err)
	}
	if _, err := c.GetSessionData(ctx, "web", id); client.CodeOf(err) != fsm.Conflict {
		t.Errorf("data of a sticky session: %v", err)
	}
}

func TestSessionData(t *testing.T) {
	c, ctx := sessionNode(t, fsm.StickyShared), t.Context()
	info, err := c.PutSessionData(ctx, "web", "anna", []byte{0, 255, '{'}, "application/x-cart", 5*time.Minute, client.IfAbsent())
	if err != nil || info.Bytes != 3 || info.ExpiresAt.Sub(info.UpdatedAt) != 5*time.Minute {
		t.Fatalf("%+v, %v", info, err)
	}
	d, err := c.GetSessionData(ctx, "web", "anna")
	if err != nil || string(d.Data) != "\x00\xff{" || d.ContentType != "application/x-cart" || d.Revision != info.Revision || !d.ExpiresAt.Equal(info.ExpiresAt) {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := c.PutSessionData(ctx, "web", "anna", nil, "", 0, client.IfAbsent()); client.CodeOf(err) != fsm.StaleRevision {
		t.Errorf("create only: %v", err)
	}
	if _, err := c.PutSessionData(ctx, "web", "anna", nil, "", time.Millisecond); client.CodeOf(err) != fsm.Invalid {
		t.Errorf("ttl of 1 ms: %v", err)
	}
	if info, err = c.PutSessionData(ctx, "web", "anna", []byte("new"), "", 0, client.IfRevision(d.Revision)); err != nil {
		t.Error(err)
	}
	if err := c.DeleteSessionData(ctx, "web", "anna", client.IfRevision(d.Revision)); client.CodeOf(err) != fsm.StaleRevision {
		t.Errorf("delete of an old revision: %v", err)
	}
	if err := c.DeleteSessionData(ctx, "web", "anna", client.IfRevision(info.Revision)); err != nil {
		t.Error(err)
	}
	if _, err := c.GetSessionData(ctx, "web", "anna"); client.CodeOf(err) != fsm.NotFound {
		t.Errorf("after the delete: %v", err)
	}
}

// A body of bytes is sent again whole, and its answer may come from another
// node.
func TestSessionDataFailsOver(t *testing.T) {
	good := newNode(t, func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/plain")
		_, _ = fmt.Fprint(w, "kept")
	})
	c := connect(t, deadAddress(t), newNode(t, cut).URL, good.URL)
	d, err := c.GetSessionData(t.Context(), "web", "anna")
	if err != nil || string(d.Data) != "kept" || d.ContentType != "text/plain" {
		t.Errorf("%+v, %v", d, err)
	}
}
