package client_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// view answers with a service at an index, of a node whose state is at another.
func view(index, state int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Paceline-Index", fmt.Sprint(state))
		_, _ = fmt.Fprintf(w, `{"group":"web","index":%d,"endpoints":[]}`, index)
	}
}

// A watch yields each version once, whatever the answers are repeated for,
// goes on where it was at another node, and follows a restored state back.
func TestWatchService(t *testing.T) {
	n := newNode(t, view(5, 9), view(5, 10), view(7, 10), fails(503, fsm.Unavailable), view(4, 4), view(8, 12), view(3, 20), fails(404, fsm.NotFound))
	var got []string
	for v, err := range connect(t, n.URL).WatchService(t.Context(), "web", client.WithPassing()) {
		if err != nil {
			got = append(got, string(client.CodeOf(err)))
			continue
		}
		got = append(got, fmt.Sprint(v.Index))
	}
	if strings.Join(got, " ") != "5 7 8 3 not_found" {
		t.Errorf("versions %v", got)
	}
	for i, index := range []int{0, 5, 5, 7, 7, 7, 8, 3} {
		if want := fmt.Sprintf("GET /v1/services/web?index=%d&passing=true&wait=50s", index); n.seen()[i] != want {
			t.Errorf("request %d: %s, want %s", i, n.seen()[i], want)
		}
	}
}

func TestWatchServiceEnds(t *testing.T) {
	n := newNode(t, view(5, 9))
	for range connect(t, n.URL).WatchService(t.Context(), "web") {
		break
	}
	if len(n.seen()) != 1 {
		t.Errorf("asked %v", n.seen())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for v, err := range connect(t, n.URL).WatchService(ctx, "web") {
		if v == nil || err != nil {
			t.Errorf("the end of the context is told as %v", err)
		}
		cancel()
	}
}

// Against the real API: what changes elsewhere is not yielded.
func TestWatchServiceOfTheAPI(t *testing.T) {
	cluster := httpapitest.New("n1")
	httpapitest.Web(cluster)
	s, err := httpapi.New(httpapi.Config{Node: "n1", Cluster: cluster, Status: cluster.Status})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	l := httptest.NewServer(s)
	defer l.Close()
	defer func() { _ = s.Shutdown(context.Background()) }()
	c := connect(t, l.URL)
	sum, err := c.Services(t.Context())
	if err != nil || len(sum.Items) != 1 || sum.Items[0].Passing != 1 {
		t.Fatalf("%+v, %v", sum, err)
	}
	var last uint64
	n := 0
	for v, err := range c.WatchService(t.Context(), "web", client.WithPassing()) {
		if err != nil || v.Index <= last || len(v.Endpoints) != (n+1)%2 {
			t.Fatalf("view %d after %d: %+v, %v", n, last, v, err)
		}
		if last, n = v.Index, n+1; n == 6 {
			break
		}
		for size := range 3 {
			cluster.Must(fsm.SetDesired{Group: "web", To: 1 + size})
		}
		cluster.Report(httpapitest.InstanceID(1), "", []fsm.Health{fsm.Healthy, fsm.Unhealthy}[n%2])
	}
}
