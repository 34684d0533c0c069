package httpapi_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// serviceEvent is one event as it came over the wire.
type serviceEvent struct {
	id    uint64
	event string
	view  client.ServiceView
}

// openService opens a stream; it ends with the test or when stop is called.
func openService(t *testing.T, url, lastID string) (events <-chan serviceEvent, stop func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	req, err := http.NewRequestWithContext(ctx, "GET", url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	out := make(chan serviceEvent, 100)
	var done sync.WaitGroup
	done.Go(func() {
		defer close(out)
		var e serviceEvent
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "id":
				e.id, _ = strconv.ParseUint(value, 10, 64)
			case "event":
				e.event = value
			case "data":
				_ = json.Unmarshal([]byte(value), &e.view)
				out <- e
				e = serviceEvent{}
			}
		}
	})
	stop = func() {
		cancel()
		_ = resp.Body.Close()
		done.Wait()
		http.DefaultClient.CloseIdleConnections()
	}
	t.Cleanup(stop)
	return out, stop
}

func next(t *testing.T, events <-chan serviceEvent) serviceEvent {
	t.Helper()
	select {
	case e, ok := <-events:
		if !ok {
			t.Fatal("the stream has ended")
		}
		return e
	case <-time.After(patience):
		t.Fatal("no event came")
	}
	return serviceEvent{}
}

// Streams are the same whether net/http has their connection or they are parked.
func TestServiceStream(t *testing.T) {
	t.Run("net/http", func(t *testing.T) {
		testServiceStream(t, func(t *testing.T, a *api) string { _, url := live(t, a); return url })
	})
	t.Run("parked", func(t *testing.T) { testServiceStream(t, ownServer) })
}

func testServiceStream(t *testing.T, serve func(*testing.T, *api) (url string)) {
	a := newAPI(t)
	secondGroup(a)
	url := serve(t, a)
	index := indexOf(t, a.do("GET", "/v1/services/api", ""))
	events, stop := openService(t, url+"/v1/services/api", "")
	if e := next(t, events); e.id != index || e.event != client.EventService || e.view.Index != index || len(e.view.Endpoints) != 1 {
		t.Fatalf("the first event is %+v", e)
	}
	a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy) // of another service
	a.cluster.Report(httpapitest.InstanceID(9), "", fsm.Unhealthy)
	e := next(t, events)
	if e.id <= index || e.view.Index != e.id || e.view.Endpoints[0].Health != fsm.Unhealthy {
		t.Errorf("after %d: %+v", index, e)
	}
	stop()
	last := e.id

	// A reader that is up to date gets only what is new, on another node too.
	b := newServerOn(t, a.cluster)
	other := serve(t, b)
	events, _ = openService(t, other+"/v1/services/api", fmt.Sprint(last))
	all, _ := openService(t, other+"/v1/services/api?snapshot", fmt.Sprint(last))
	behind, _ := openService(t, other+"/v1/services/api?passing", fmt.Sprint(index))
	if e := next(t, all); e.id != last || len(e.view.Endpoints) != 1 {
		t.Errorf("the snapshot is %+v", e)
	}
	if e := next(t, behind); e.id != last || len(e.view.Endpoints) != 0 {
		t.Errorf("what was missed: %+v", e)
	}
	a.cluster.Report(httpapitest.InstanceID(9), "", fsm.Healthy)
	for _, s := range []<-chan serviceEvent{events, all, behind} {
		if e := next(t, s); e.id <= last || len(e.view.Endpoints) != 1 || e.view.Endpoints[0].Health != fsm.Healthy {
			t.Errorf("what is new: %+v", e)
		}
	}
	problem(t, a.do("GET", "/v1/services/api", "", "Accept: text/event-stream", "Last-Event-ID: 4.1"), 422, fsm.Invalid)
	problem(t, a.do("GET", "/v1/services/none", "", "Accept: text/event-stream"), 404, fsm.NotFound)

	a.cluster.Must(fsm.DeleteGroup{Group: "api"})
	a.cluster.Report(httpapitest.InstanceID(9), fsm.Stopping, "")
	a.cluster.Report(httpapitest.InstanceID(9), fsm.Stopped, "")
	a.cluster.Must(fsm.RemoveGroup{Group: "api"})
	for e := range events {
		if e.event == client.EventServiceRemoved && e.view.Group == "api" {
			return
		}
	}
	t.Error("the stream ended without saying why")
}

// A reader that comes from a node which is ahead does not go back in time
// here: it waits until this node has caught up.
func TestServiceStreamOnANodeThatLags(t *testing.T) {
	a := newAPI(t)
	url := ownServer(t, a)
	ahead := a.cluster.State().Index() + 3
	events, _ := openService(t, url+"/v1/services/web", fmt.Sprint(ahead))
	awaitWatchers(t, a, 1)
	for n := a.cluster.State().Index(); n <= ahead; n = a.cluster.State().Index() {
		a.cluster.Report(httpapitest.InstanceID(1), "", []fsm.Health{fsm.Healthy, fsm.Unhealthy}[n%2])
	}
	if e := next(t, events); e.id <= ahead {
		t.Errorf("event %d for a reader that has seen %d", e.id, ahead)
	}
}

// recorder is a response that can be read while it is written.
type recorder struct {
	mu sync.Mutex
	*httptest.ResponseRecorder
}

func (r *recorder) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ResponseRecorder.Write(b)
}

func (r *recorder) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Body.String()
}

// A stream without news shows that it lives.
func TestServiceStreamHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		w := &recorder{ResponseRecorder: httptest.NewRecorder()}
		ctx, cancel := context.WithCancel(t.Context())
		req := httptest.NewRequestWithContext(ctx, "GET", "/v1/services/web", nil)
		req.Header.Set("Accept", "text/event-stream")
		var done sync.WaitGroup
		done.Go(func() { a.server.ServeHTTP(w, req) })
		<-time.After(time.Minute) // of the bubble
		synctest.Wait()
		if text := w.text(); strings.Count(text, ": still here\n\n") != 4 || strings.Count(text, "data: ") != 1 {
			t.Errorf("in a minute: %s", text)
		}
		cancel()
		done.Wait()
	})
}
