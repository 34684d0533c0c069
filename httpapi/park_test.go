package httpapi_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// line is one connection to a server that listens.
type line struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func listening(t *testing.T, a *api) func() *line {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(l) }()
	t.Cleanup(func() {
		_ = a.server.Shutdown(context.Background())
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return func() *line {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(patience))
		return &line{t, conn, bufio.NewReader(conn)}
	}
}

func (l *line) ask(method, path string) {
	l.t.Helper()
	if _, err := fmt.Fprintf(l.conn, "%s %s HTTP/1.1\r\nHost: n1\r\nX-Request-Id: the-one\r\n\r\n", method, path); err != nil {
		l.t.Fatal(err)
	}
}

func (l *line) answer(method string) *http.Response {
	l.t.Helper()
	res, err := http.ReadResponse(l.r, &http.Request{Method: method})
	if err != nil {
		l.t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != 200 || res.Header.Get(client.HeaderRequestID) != "the-one" || res.Header.Get(client.HeaderServiceIndex) == "" {
		l.t.Fatalf("%s: %v", res.Status, res.Header)
	}
	return res
}

// A request that waits is parked outside of net/http; its client sees nothing
// of that, however often it waits on one connection.
func TestParkedRequests(t *testing.T) {
	a := newAPI(t)
	dial := listening(t, a)
	path := func() string {
		row, _ := a.cluster.State().ServiceIndexes.Get("web")
		return fmt.Sprintf("/v1/services/web?wait=10m&index=%d", row.Index)
	}
	l := dial()
	for n := range 4 {
		method := []string{"GET", "HEAD"}[n%2]
		l.ask(method, path())
		awaitWatchers(t, a, 1)
		a.cluster.Report(httpapitest.InstanceID(1), "", []fsm.Health{fsm.Unhealthy, fsm.Healthy}[n%2])
		l.answer(method)
		awaitWatchers(t, a, 0)
	}
	// The wait ends by itself, and a request that is sent meanwhile ends it.
	l.ask("GET", strings.Replace(path(), "10m", "1ms", 1))
	l.answer("GET")
	early := dial()
	early.ask("GET", path())
	awaitWatchers(t, a, 1)
	early.ask("GET", "/v1/services/web")
	early.answer("GET")
	early.answer("GET")
	// A client that goes away is noticed.
	early.ask("GET", path())
	awaitWatchers(t, a, 1)
	_ = early.conn.Close()
	awaitWatchers(t, a, 0)
	// Shutdown answers those who wait.
	last := dial()
	last.ask("GET", path())
	awaitWatchers(t, a, 1)
	if err := a.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	last.answer("GET")
}
