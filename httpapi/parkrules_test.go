package httpapi_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// send sends bytes as they are.
func (l *line) send(s string) {
	l.t.Helper()
	if _, err := io.WriteString(l.conn, s); err != nil {
		l.t.Fatal(err)
	}
}

// read reads an answer whole.
func (l *line) read() (res *http.Response, body string) {
	l.t.Helper()
	res, err := http.ReadResponse(l.r, nil)
	if err != nil {
		l.t.Fatal(err)
	}
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		l.t.Fatal(err)
	}
	return res, string(raw)
}

// web is the path of a read that waits until the service changes.
func web(a *api, wait string) string {
	row, _ := a.cluster.State().ServiceIndexes.Get("web")
	return fmt.Sprintf("/v1/services/web?wait=%s&index=%d", wait, row.Index)
}

// heads makes header lines of some bytes in all.
func heads(lines int, line string) string {
	var b strings.Builder
	for n := range lines {
		_, _ = fmt.Fprintf(&b, line, n)
	}
	return b.String()
}

// TestAParkedRequestReturnsWhole: the request that is answered after the wait
// is the one that was sent.
func TestAParkedRequestReturnsWhole(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.TokenFile = tokenFile(t, goodTokens) })
	dial := listening(t, a)
	const end = "Authorization: Bearer " + viewerToken + "\r\n\r\n"
	l := dial()
	l.send("GET " + web(a, "1ms") + "&zone=b HTTP/1.1\r\nHost: n1\r\n" + end)
	if res, body := l.read(); res.StatusCode != 200 || !strings.Contains(body, `"endpoints":[]`) {
		t.Errorf("the query: %s %s", res.Status, body)
	}
	row, _ := a.cluster.State().ServiceIndexes.Get("web")
	long := heads(60, "X-Long-%d: "+strings.Repeat("x", 100)+"\r\n")
	l.send("GET " + web(a, "1ms") + " HTTP/1.1\r\nHost: n1\r\n" + long + fmt.Sprintf("If-None-Match: \"%d\"\r\n", row.Index) + end)
	if res, body := l.read(); res.StatusCode != 304 {
		t.Errorf("a long head: %s %s", res.Status, body)
	}
	l.send("GET " + web(a, "1ms") + " HTTP/1.1\r\nHost: n1\r\nConnection: close\r\n" + end)
	if rest, err := io.ReadAll(l.r); err != nil || !strings.HasPrefix(string(rest), "HTTP/1.1 200 ") {
		t.Errorf("connection: close: %q, %v", rest, err)
	}
}

// TestRequestsThatAreNotParked are answered as any other, and so is the next
// one on their connection.
func TestRequestsThatAreNotParked(t *testing.T) {
	a := newAPI(t)
	dial := listening(t, a)
	l := dial()
	l.send("GET " + web(a, "1ms") + " HTTP/1.1\r\nHost: n1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
	if res, body := l.read(); res.StatusCode != 200 {
		t.Errorf("a body: %s %s", res.Status, body)
	}
	l.send("GET /v1/services/web HTTP/1.1\r\nHost: n1\r\n\r\n")
	if res, body := l.read(); res.StatusCode != 200 {
		t.Errorf("after a body: %s %s", res.Status, body)
	}
	// Written as the server does, this head is longer than it takes.
	l.send("GET " + web(a, "1ms") + " HTTP/1.1\r\nHost: n1\r\n" + heads(2200, "X%04d:v\r\n") + "\r\n")
	if res, body := l.read(); res.StatusCode != 200 {
		t.Errorf("a head of many lines: %s %s", res.Status, body)
	}
	old := dial()
	old.send("GET " + web(a, "1ms") + " HTTP/1.0\r\nHost: n1\r\n\r\n")
	if rest, err := io.ReadAll(old.r); err != nil || !strings.HasPrefix(string(rest), "HTTP/1.0 200 ") {
		t.Errorf("HTTP/1.0: %q, %v", rest, err)
	}
}

// TestPipelinedRequests: what is sent together with a request that waits ends
// the wait, and is answered too.
func TestPipelinedRequests(t *testing.T) {
	a := newAPI(t)
	l := listening(t, a)()
	l.send("GET " + web(a, "10m") + " HTTP/1.1\r\nHost: n1\r\n\r\nGET /v1/services/web?zone=b HTTP/1.1\r\nHost: n1\r\n\r\n")
	if res, body := l.read(); res.StatusCode != 200 || strings.Contains(body, `"endpoints":[]`) {
		t.Errorf("the first: %s %s", res.Status, body)
	}
	if res, body := l.read(); res.StatusCode != 200 || !strings.Contains(body, `"endpoints":[]`) {
		t.Errorf("the second: %s %s", res.Status, body)
	}
}

// TestRequestsThatWaitAreCountedOnce, and how long they waited is not counted.
func TestRequestsThatWaitAreCountedOnce(t *testing.T) {
	a := newAPI(t)
	l := listening(t, a)()
	l.send("GET " + web(a, "1ms") + " HTTP/1.1\r\nHost: n1\r\n\r\n")
	l.read()
	const of = `method="GET",route="/v1/services/{group}"} `
	awaitMetric(t, a, "paceline_http_requests_in_flight{"+of+"0\n")
	awaitMetric(t, a, `paceline_http_requests_total{code="2xx",`+of+"1\n")
	a.do("GET", web(a, "1ms"), "") // waits where it is
	awaitMetric(t, a, `paceline_http_requests_total{code="2xx",`+of+"2\n")
	awaitMetric(t, a, "paceline_http_request_seconds_count{"+of+"0\n")
}

func awaitMetric(t *testing.T, a *api, text string) {
	t.Helper()
	await(t, text, func() bool { return strings.Contains(a.do("GET", "/metrics", "").Body.String(), text) })
}

// TestAReaderThatGoesLeavesNothing: its connection makes room for another one,
// and nobody waits for news of its service.
func TestAReaderThatGoesLeavesNothing(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.Connections = 1 })
	dial := listening(t, a)
	first := dial()
	first.ask("GET", web(a, "10m"))
	awaitWatchers(t, a, 1)
	_ = first.conn.Close()
	awaitWatchers(t, a, 0)
	if n := a.server.Feeds(); n != 0 {
		t.Errorf("%d services are waited for by nobody", n)
	}
	next := dial()
	next.ask("GET", "/v1/services/web")
	next.answer("GET")
}

// TestNewsDoNotEndWhatHasReturned: once a request has returned, news for those
// who still wait do nothing to its connection.
func TestNewsDoNotEndWhatHasReturned(t *testing.T) {
	a := newAPI(t)
	dial := listening(t, a)
	early, other := dial(), dial()
	early.ask("GET", web(a, "10m"))
	other.ask("GET", web(a, "10m"))
	awaitWatchers(t, a, 2)
	early.ask("GET", "/v1/services/web")
	early.answer("GET")
	early.answer("GET")
	awaitWatchers(t, a, 1)
	a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy)
	other.answer("GET")
	early.ask("GET", "/v1/services/web")
	early.answer("GET")
}

// hooked calls a hook between a look at the state and its use.
type hooked struct {
	*httpapitest.Cluster
	hook atomic.Pointer[func()]
}

// State implements httpapi.Cluster.
func (h *hooked) State() *fsm.State {
	s := h.Cluster.State()
	if f := h.hook.Load(); f != nil {
		(*f)()
	}
	return s
}

func newHooked(t *testing.T) (*api, *hooked) {
	t.Helper()
	h := &hooked{}
	return newAPI(t, func(c *httpapi.Config) {
		h.Cluster = c.Cluster.(*httpapitest.Cluster)
		c.Cluster = h
	}), h
}

// TestNewsThatComeWhileAReaderLooks are not lost, wherever it waits.
func TestNewsThatComeWhileAReaderLooks(t *testing.T) {
	for _, parked := range []bool{true, false} {
		t.Run(fmt.Sprintf("parked %v", parked), func(t *testing.T) {
			a, h := newHooked(t)
			dial := listening(t, a)
			path := web(a, "10m")
			answered, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(answered)
				a.do("GET", path, "")
			}()
			awaitWatchers(t, a, 1)
			var fired atomic.Bool
			hook := func() {
				if a.server.Watchers() == 2 && fired.CompareAndSwap(false, true) { // the reader's first look
					a.cluster.Report(httpapitest.InstanceID(1), "", fsm.Unhealthy)
					<-answered // all are woken
				}
			}
			h.hook.Store(&hook)
			go func() {
				defer close(done)
				if !parked {
					a.do("GET", path, "")
				}
			}()
			if parked {
				l := dial()
				l.ask("GET", path)
				l.answer("GET")
			}
			await(t, "answers", func() bool {
				select {
				case <-done:
					return true
				default:
					return false
				}
			})
		})
	}
}

// TestAShutdownParksNobody: a request that comes to wait when the parked ones
// have returned is answered, before its connection is closed.
func TestAShutdownParksNobody(t *testing.T) {
	a, h := newHooked(t)
	l := listening(t, a)()
	path := web(a, "10m")
	entered, shut := make(chan struct{}), make(chan struct{})
	var fired atomic.Bool
	hook := func() {
		if fired.CompareAndSwap(false, true) {
			close(entered)
			<-shut
		}
	}
	h.hook.Store(&hook)
	l.ask("GET", path)
	<-entered
	stopped := make(chan error, 1)
	go func() { stopped <- a.server.Shutdown(t.Context()) }()
	await(t, "refused connections", func() bool { // the listener is closed after the parked ones have returned
		conn, err := net.Dial("tcp", l.conn.RemoteAddr().String())
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	close(shut)
	l.answer("GET")
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
