package httpapi_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

// serveOn runs the server's own listener, which parks, until the test ends.
func serveOn(t *testing.T, a *api, l net.Listener) {
	t.Helper()
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(l) }()
	t.Cleanup(func() {
		_ = a.server.Shutdown(context.Background())
	})
}

func ownServer(t *testing.T, a *api) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serveOn(t, a, l)
	return "http://" + l.Addr().String()
}

func listening(t *testing.T, a *api) func() *line {
	t.Helper()
	addr := strings.TrimPrefix(ownServer(t, a), "http://")
	return func() *line {
		conn, err := net.Dial("tcp", addr)
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

// openStream asks for a stream and reads its head.
func (l *line) openStream(path string) *http.Response {
	l.t.Helper()
	if _, err := fmt.Fprintf(l.conn, "GET %s HTTP/1.1\r\nHost: n1\r\nAccept: text/event-stream\r\nX-Request-Id: the-one\r\n\r\n", path); err != nil {
		l.t.Fatal(err)
	}
	res, err := http.ReadResponse(l.r, &http.Request{Method: "GET"})
	if err != nil {
		l.t.Fatal(err)
	}
	h := res.Header
	if res.StatusCode != 200 || h.Get(client.HeaderRequestID) != "the-one" || h.Get(client.HeaderServedBy) != "n1" ||
		h.Get("Content-Type") != "text/event-stream" || h.Get("Date") == "" || !res.Close {
		l.t.Fatalf("%s: %v", res.Status, h)
	}
	return res
}

// A parked stream ends as a whole at a shutdown, and is given up when its client
// goes, or has more to say than a client of a stream has.
func TestParkedStreamEnds(t *testing.T) {
	a := newAPI(t)
	dial := listening(t, a)
	gone, talks, stays := dial(), dial(), dial()
	for _, l := range []*line{gone, talks, stays} {
		res := l.openStream("/v1/services/web")
		defer res.Body.Close() //nolint:errcheck // the connection is closed by the test
		if l == stays {
			defer func() {
				body, err := io.ReadAll(res.Body)
				if err != nil || strings.Count(string(body), "data: ") != 1 {
					t.Errorf("got %q (%v), want one event and an end", body, err)
				}
			}()
		}
	}
	awaitWatchers(t, a, 3)
	_ = gone.conn.Close()
	awaitWatchers(t, a, 2)
	_, _ = talks.conn.Write([]byte("GET / HTTP/1.1\r\nHost: n1\r\n\r\n")) // for nothing
	_, _ = talks.conn.Write(bytes.Repeat([]byte("x"), 1<<20))
	awaitWatchers(t, a, 1)
	if n := a.server.Parked("web"); n != 1 {
		t.Errorf("%d connections are kept for one stream", n)
	}
	if err := a.server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	awaitWatchers(t, a, 0)
}

// HEAD of what may be a stream is answered, and the connection goes on.
func TestHeadOfStream(t *testing.T) {
	a := newAPI(t)
	l := listening(t, a)()
	for _, path := range []string{"/v1/services/web", "/v1/events"} {
		if _, err := fmt.Fprintf(l.conn, "HEAD %s HTTP/1.1\r\nHost: n1\r\nAccept: text/event-stream\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
		if res, err := http.ReadResponse(l.r, &http.Request{Method: "HEAD"}); err != nil || res.StatusCode != 200 || res.Close {
			t.Errorf("%s: %v %v", path, res, err)
		}
		if w := a.do("HEAD", path, "", "Accept: text/event-stream"); w.Code != 200 { // under somebody else's server
			t.Errorf("%s: %d", path, w.Code)
		}
	}
	awaitWatchers(t, a, 0)
}

// pipes is a listener without a network, for virtual time.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe"} }

// piped is one connection of that kind.
func piped(t *testing.T, a *api) *line {
	t.Helper()
	p := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	serveOn(t, a, p)
	ours, theirs := net.Pipe()
	p.conns <- theirs
	return &line{t, ours, bufio.NewReader(ours)}
}

// A parked stream without news shows that it lives.
func TestParkedStreamHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		res := piped(t, a).openStream("/v1/services/web")
		text := make(chan string)
		go func() {
			body, _ := io.ReadAll(res.Body)
			text <- string(body)
		}()
		<-time.After(time.Minute + time.Second) // of the bubble
		_ = a.server.Shutdown(t.Context())
		if got := <-text; strings.Count(got, ": still here\n\n") != 4 || strings.Count(got, "data: ") != 1 {
			t.Errorf("in a minute: %s", got)
		}
	})
}

// A client that does not take what it is sent holds up a shutdown no longer than
// its context lasts.
func TestShutdownCutsStuckStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		piped(t, a).openStream("/v1/services/web") // and its first event is not read
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		_ = a.server.Shutdown(ctx)
		if took := time.Since(began); took > time.Second { // of the bubble
			t.Errorf("it took %s", took)
		}
	})
}

// What is too large to be copied for each reader arrives as it is.
func TestLargeEventOfParkedStream(t *testing.T) {
	a := newAPI(t)
	a.cluster.Group("big", &fsm.Service{})
	for n := 100; n < 200; n++ {
		a.cluster.Run("big", httpapitest.InstanceID(n), "n1", "10.0.0.1:80", fsm.Healthy)
	}
	want := a.do("GET", "/v1/services/big", "").Body.String()
	url := ownServer(t, a)
	events, _ := openService(t, url+"/v1/services/big", "")
	if e := next(t, events); len(e.view.Endpoints) < 100 || len(want) < 8<<10 {
		t.Errorf("%d endpoints of %d bytes", len(e.view.Endpoints), len(want))
	}
	a.cluster.Report(httpapitest.InstanceID(100), "", fsm.Unhealthy)
	if e := next(t, events); e.view.Index == 0 {
		t.Error("no second event")
	}
}
