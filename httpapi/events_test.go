package httpapi_test

import (
	"bufio"
	"context"
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// recent lists events once the stream has caught up with the state.
func recent(t *testing.T, a *api, query, until string) []client.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for ctx.Err() == nil {
		if w := a.do("GET", "/v1/events?limit=1000", ""); strings.Contains(w.Body.String(), until) {
			return want[client.List[client.Event]](t, a.do("GET", "/v1/events"+query, ""), 200).Items
		}
	}
	t.Fatalf("no event says %q", until)
	return nil
}

func typesOf(events []client.Event) string {
	var types []string
	for _, e := range events {
		types = append(types, e.Type)
	}
	return strings.Join(types, " ")
}

func TestRecentEvents(t *testing.T) {
	a := newAPI(t)
	a.cluster.Must(fsm.DrainNode{Node: "n1", Drain: true, Reason: "new kernel"})
	a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy)
	a.cluster.Must(fsm.DeletePolicy{Group: "web", Policy: "idle"})
	a.cluster.Must(fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "web", MinSize: 1, MaxSize: 9, Desired: 3}})
	a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: "last", Driver: "process", Command: "@sample"}})
	all := recent(t, a, "?limit=1000", "template last was created")
	got := typesOf(all)
	for _, typ := range []string{
		"node.joined", "node.draining", "template.created", "group.created", "group.scaled", "group.launched", "group.updated",
		"instance.planned", "instance.starting", "instance.running", "instance.unhealthy", "policy.created", "policy.deleted",
	} {
		if !strings.Contains(got, typ) {
			t.Errorf("no %s in %s", typ, got)
		}
	}
	if all[0].Type != "template.created" || all[0].Template != "last" {
		t.Errorf("the newest is %+v", all[0])
	}
	seen := map[string]bool{}
	for _, e := range all {
		if seen[e.ID] || e.Message == "" || e.At.IsZero() {
			t.Errorf("event %+v", e)
		}
		seen[e.ID] = true
	}
	for query, types := range map[string]string{
		"?type=group.scaled": "group.scaled", "?type=node": "node.draining node.joined",
		"?type=policy,node.joined": "policy.deleted policy.created policy.created node.joined", "?node=n9": "",
		"?instance=" + httpapitest.InstanceID(2) + "&type=instance": "instance.starting instance.planned",
	} {
		if got := typesOf(want[client.List[client.Event]](t, a.do("GET", "/v1/events"+query, ""), 200).Items); got != types {
			t.Errorf("%s: %q, want %q", query, got, types)
		}
	}
	first := want[client.List[client.Event]](t, a.do("GET", "/v1/events?limit=1", ""), 200)
	rest := want[client.List[client.Event]](t, a.do("GET", "/v1/events?limit=1000&cursor="+first.Next, ""), 200)
	if len(rest.Items) != len(all)-1 || rest.Items[0].ID != all[1].ID {
		t.Errorf("the next page has %d of %d", len(rest.Items), len(all))
	}
}

// Sessions, their data and the keys of their cookies make no event, name no
// secret in one, and push no event out of what is remembered.
func TestSessionsAreNoEvents(t *testing.T) {
	a := newAPI(t)
	a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: "seen", Driver: "process", Command: "@sample"}})
	before := recent(t, a, "?limit=1000", "template seen was created")
	service := func(strategy string) {
		g, _ := a.cluster.State().Groups.Get("web")
		next := *g
		next.Service = &fsm.Service{Stickiness: fsm.Stickiness{Strategy: strategy}}
		a.cluster.Must(fsm.PutGroup{Group: next})
	}
	const secret, data, id = "sixteen secret b", "what the client keeps", "the-id-of-a-session"
	service(fsm.StickyShared)
	a.cluster.Must(fsm.RotateSessionKeys{ID: 1, Secret: []byte(secret)})
	a.cluster.Must(fsm.PutSessionData{Group: "web", Session: id, Data: []byte(data)})
	service(fsm.StickyTable)
	for k := range 4000 {
		key := fsm.SessionKey(strings.Repeat("s", 1+k%200))
		a.cluster.Must(fsm.AssignSessions{Group: "web", Keys: key[:]})
		a.cluster.Must(fsm.DeleteSessions{Group: "web", Keys: key[:]})
	}
	a.cluster.Must(fsm.PutTemplate{Template: fsm.Template{Name: "last", Driver: "process", Command: "@sample"}})
	after := recent(t, a, "?limit=1000", "template last was created")
	// The group was changed twice, the template is new.
	if len(after) != len(before)+3 {
		t.Errorf("%d events have become %d: %s", len(before), len(after), typesOf(after))
	}
	body := a.do("GET", "/v1/events?limit=1000", "").Body.String() + a.log.String()
	for _, private := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret)), data, base64.StdEncoding.EncodeToString([]byte(data)), id} {
		if strings.Contains(body, private) {
			t.Errorf("%q is in an event or the log", private)
		}
	}
}

// live is the API on a socket, with a client.
func live(t *testing.T, a *api) (*client.Client, string) {
	t.Helper()
	s := httptest.NewServer(a.server)
	t.Cleanup(s.Close)
	t.Cleanup(func() { _ = a.server.Shutdown(t.Context()) })
	c, err := client.New(client.Config{Endpoints: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, s.URL
}

// A stream that breaks goes on after the last event that was seen: none is
// missing, none comes twice.
func TestStreamResumes(t *testing.T) {
	a := newAPI(t)
	c, _ := live(t, a)
	all := recent(t, a, "?limit=1000", "2 to 3")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []string
	last := "1.0" // before everything
	for len(got) < len(all) {
		n := 0
		for e, err := range c.Events(ctx, last) {
			if err != nil {
				t.Fatal(err)
			}
			got, last = append(got, e.ID), e.ID
			if n++; n == 3 || len(got) == len(all) {
				break
			}
		}
	}
	for i, id := range got {
		if id != all[len(all)-1-i].ID {
			t.Fatalf("event %d is %s, want %s", i, id, all[len(all)-1-i].ID)
		}
	}
	// And what happens now comes as it happens.
	next := make(chan client.Event, 1)
	go func() {
		for e := range c.Events(ctx, last, client.WithFilter("type", "group.scaled")) {
			next <- e
			return
		}
	}()
	a.cluster.Must(fsm.DrainNode{Node: "n1", Drain: true})
	a.cluster.Must(fsm.SetDesired{Group: "web", To: 5, Reason: "more"})
	select {
	case e := <-next:
		if e.Message != "group web was scaled from 3 to 5: more" || e.Group != "web" {
			t.Errorf("event %+v", e)
		}
	case <-ctx.Done():
		t.Fatal("the event did not come")
	}
}

// A reader that is told nothing of a hole would believe it has seen all.
func TestStreamTellsOfAHole(t *testing.T) {
	a := newAPI(t)
	a.cluster.Forget()
	a.cluster.Must(fsm.SetDesired{Group: "web", To: 5})
	b := newServerOn(t, a.cluster)
	c, _ := live(t, b)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	first := client.Event{}
	for e, err := range c.Events(ctx, "2.1") {
		if err != nil {
			t.Fatal(err)
		}
		first = e
		break
	}
	if first.Type != client.EventReset {
		t.Errorf("the first event is %+v", first)
	}
	other := httpapitest.New("n1")
	for other.State().Index() <= a.cluster.State().Index() {
		other.Must(fsm.DrainNode{Node: "n1", Drain: true})
	}
	var snap strings.Builder
	if err := other.SaveSnapshot(ctx, &snap); err != nil {
		t.Fatal(err)
	}
	if err := a.cluster.RestoreSnapshot(ctx, strings.NewReader(snap.String())); err != nil {
		t.Fatal(err)
	}
	recent(t, b, "", client.EventReset)
}

func TestStreamOnTheWire(t *testing.T) {
	a := newAPI(t)
	_, url := live(t, a)
	recent(t, a, "", "2 to 3")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "GET", url+"/v1/events?type=group.scaled", nil)
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", "1.0")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("content type %q", got)
	}
	checkHeaders(t, resp.Header)
	lines := bufio.NewScanner(resp.Body)
	var got []string
	for len(got) < 6 && lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), ":")
		got = append(got, name)
	}
	if strings.Join(got, ",") != "retry,id,,id,event,data" {
		t.Errorf("lines %v", got)
	}
	problem(t, a.do("GET", "/v1/events", "", "Accept: text/event-stream", "Last-Event-ID: yesterday"), 422, fsm.Invalid)
	http.DefaultClient.CloseIdleConnections()
}
