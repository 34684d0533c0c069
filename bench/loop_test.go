package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// fakeServer answers in virtual time: the clock moves only while the loop
// waits.
type fakeServer struct {
	at      time.Time
	service time.Duration
	// stall is a time in which nothing is answered, from the start on.
	stallFrom, stallTo time.Duration
	hang               map[int]bool // connections that never answer
	refuse             error

	start time.Time
	done  map[int]time.Time // by connection, when it will be answered
	drops int
	onTo  func(time.Duration) // called when the clock moves
}

func newFakeServer(service time.Duration) *fakeServer {
	start := time.Unix(1000, 0)
	return &fakeServer{at: start, start: start, service: service, done: map[int]time.Time{}, hang: map[int]bool{}}
}

func (f *fakeServer) now() time.Time { return f.at }

func (f *fakeServer) send(c int) error {
	if f.refuse != nil {
		return f.refuse
	}
	if f.hang[c] {
		return nil
	}
	end := f.at.Add(f.service)
	if since := end.Sub(f.start); since >= f.stallFrom && since < f.stallTo {
		end = f.start.Add(f.stallTo)
	}
	f.done[c] = end
	return nil
}

func (f *fakeServer) wait(until time.Time, to []answer) ([]answer, error) {
	next := until
	for _, end := range f.done {
		if end.Before(next) {
			next = end
		}
	}
	if next.After(f.at) {
		f.at = next
	}
	if f.onTo != nil {
		f.onTo(f.at.Sub(f.start))
	}
	for c, end := range f.done {
		if !end.After(f.at) {
			delete(f.done, c)
			to = append(to, answer{conn: c})
		}
	}
	return to, nil
}

func (f *fakeServer) drop(c int) {
	delete(f.done, c)
	f.drops++
}

func runLoop(t *testing.T, f *fakeServer, l *loop) *loadResult {
	t.Helper()
	l.wire, l.now, l.deadline = f, f.now, 5*time.Second
	res, err := l.run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return res
}

func TestOpenLoopKeepsItsRate(t *testing.T) {
	res := runLoop(t, newFakeServer(3*time.Millisecond), &loop{conns: 8, rate: 1000, window: 2 * time.Second})
	if res.ops != 2000 || res.errs != 0 || res.window != 2*time.Second {
		t.Errorf("%d answers, %d errors in %v; want 2000, 0 in 2s", res.ops, res.errs, res.window)
	}
	for _, q := range []float64{0, 0.5, 1} {
		if got := res.quantile(q); got != 3*time.Millisecond {
			t.Errorf("quantile %v is %v, want 3ms", q, got)
		}
	}
}

// TestOpenLoopCountsFromTheIntendedTime is the correction for coordinated
// omission: a second without answers is charged to each request that was to
// begin in it, not only to the four that were under way.
func TestOpenLoopCountsFromTheIntendedTime(t *testing.T) {
	f := newFakeServer(time.Millisecond)
	f.stallFrom, f.stallTo = time.Second, 2*time.Second
	res := runLoop(t, f, &loop{conns: 4, rate: 1000, window: 4 * time.Second})
	if res.ops != 4000 || res.errs != 0 {
		t.Fatalf("%d answers, %d errors; want 4000 and 0", res.ops, res.errs)
	}
	// The backlog of 1000 waits for 1 s down to 0, and goes at 4000/s while
	// 1000/s arrive: a third of a second more. So 1333 of 4000 were late, and
	// the middle one of the first 1000 by about half a second.
	if got := res.quantile(0.66); got > 2*time.Millisecond {
		t.Errorf("66 %% took up to %v, want the service time", got)
	}
	if got := res.quantile(0.875); got < 500*time.Millisecond || got > 750*time.Millisecond {
		t.Errorf("87.5 %% took up to %v, want about 0.6s", got)
	}
	if got := res.quantile(1); got < 990*time.Millisecond || got > 1010*time.Millisecond {
		t.Errorf("the longest took %v, want 1s", got)
	}
}

func TestOpenLoopCountsWhatItCouldNotSend(t *testing.T) {
	l := &loop{conns: 1, rate: 1000, window: 2 * time.Second}
	res := runLoop(t, newFakeServer(10*time.Millisecond), l)
	// One connection at 100/s for the window and the deadline after it.
	if res.ops < 695 || res.ops > 705 || res.ops+res.errs != 2000 {
		t.Errorf("%d answers and %d errors, want about 700 and 2000 in all", res.ops, res.errs)
	}
	if n := l.failures["never sent, because every connection was waiting"]; n < res.errs-1 {
		t.Errorf("failures %v, want those that were never sent", l.failures)
	}
}

func TestClosedLoopWaitsForAnswers(t *testing.T) {
	res := runLoop(t, newFakeServer(10*time.Millisecond), &loop{conns: 5, window: time.Second})
	if res.ops != 500 || res.perSecond() != 500 || res.quantile(0.99) != 10*time.Millisecond {
		t.Errorf("%d answers, %v/s, p99 %v; want 500, 500, 10ms", res.ops, res.perSecond(), res.quantile(0.99))
	}
}

func TestLoopCountsHungAndRefused(t *testing.T) {
	f := newFakeServer(10 * time.Millisecond)
	f.hang[2] = true
	l := &loop{conns: 4, window: 12 * time.Second}
	res := runLoop(t, f, l)
	if n := l.failures[errHung.Error()]; res.ops != 3600 || n != 3 || f.drops != 3 {
		t.Errorf("%d answers, %d hung, %d dropped; want 3600, 3, 3", res.ops, n, f.drops)
	}
	f = newFakeServer(0)
	f.refuse = errors.New("refused")
	l = &loop{conns: 2, rate: 100, window: time.Second}
	if res := runLoop(t, f, l); res.ops != 0 || res.errs != 100 || l.failures["refused"] != 100 {
		t.Errorf("%d answers, failures %v; want 0 and 100 refused", res.ops, l.failures)
	}
}

func TestLoopEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	f := newFakeServer(10 * time.Millisecond)
	f.onTo = func(d time.Duration) {
		if d >= time.Second {
			cancel()
		}
	}
	l := &loop{wire: f, conns: 2, window: time.Hour, deadline: 5 * time.Second, now: f.now}
	res, err := l.run(ctx)
	if err != nil || res.errs != 0 || res.window < time.Second || res.window > 1100*time.Millisecond {
		t.Errorf("ended after %v with %d errors, %v; want about 1s", res.window, res.errs, err)
	}
	if res.ops < 198 || res.ops > 204 {
		t.Errorf("%d answers, want about 200", res.ops)
	}
}

func TestLoopBoundsErrorTexts(t *testing.T) {
	l := &loop{failures: map[string]int{}}
	for i := range 50 {
		l.fail(strings.Repeat("x", i), 1)
	}
	if len(l.failures) != maxErrorTexts+1 || l.failures["other"] != 50-maxErrorTexts || l.res.errs != 50 {
		t.Errorf("%d texts, %d errors", len(l.failures), l.res.errs)
	}
}

func TestParseHead(t *testing.T) {
	cases := []struct {
		in   string
		want responseHead
		bad  bool
	}{
		{in: "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", want: responseHead{status: 200, body: 38, length: 5}},
		{in: "HTTP/1.1 503 No\r\nConnection: Close\r\nContent-Length:0\r\n\r\n", want: responseHead{status: 503, body: 56, close: true}},
		{in: "HTTP/1.1 200 OK\r\nContent-Le"},
		{in: "HTTP/1.1 200 OK\r\n\r\n", bad: true},
		{in: "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", bad: true},
		{in: "HTTP/1.1 two OK\r\nContent-Length: 1\r\n\r\n", bad: true},
		{in: "SSH-2.0\r\n\r\n", bad: true},
		{in: strings.Repeat("x", maxHeadBytes), bad: true},
	}
	for _, c := range cases {
		got, err := parseHead([]byte(c.in))
		if (err != nil) != c.bad || err == nil && got != c.want {
			t.Errorf("%.40q: %+v, %v; want %+v", c.in, got, err, c.want)
		}
	}
}

// TestEpollWire asks a real server for answers of each kind.
func TestEpollWire(t *testing.T) {
	mux := http.NewServeMux()
	body := strings.Repeat("x", 300_000)
	serve := func(w http.ResponseWriter, body string) {
		w.Header().Set("Content-Length", "300000")
		_, _ = w.Write([]byte(body))
	}
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { serve(w, body) })
	mux.HandleFunc("/close", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Connection", "close")
		serve(w, body)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, _ *http.Request) { serve(w, body[:1000]) })
	mux.HandleFunc("/broken", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
	s := httptest.NewServer(mux)
	defer s.Close()
	paths := []string{"/ok", "/close", "/cut", "/broken"}
	w, err := newEpollWire(s.Listener.Addr().String(), len(paths), func(c int) string { return paths[c] })
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	for range 3 { // the second and third are on connections that were used before, or on new ones
		got := map[int]error{}
		for c := range paths {
			if err := w.send(c); err != nil {
				t.Fatal(err)
			}
		}
		for len(got) < len(paths) && ctx.Err() == nil {
			answers, err := w.wait(time.Now().Add(time.Millisecond), nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, a := range answers {
				got[a.conn] = a.err
			}
		}
		if got[0] != nil || got[1] != nil || !errors.Is(got[2], errCut) || got[3] == nil || got[3].Error() != "status 502" {
			t.Fatalf("answers %v", got)
		}
	}
	if w.socks[0].fd < 0 || w.socks[1].fd >= 0 || w.socks[2].fd >= 0 {
		t.Error("only a connection that was not closed stays open")
	}
}

// TestEpollWireReopens resets the connection while it is idle: the next
// request goes over a new one.
func TestEpollWireReopens(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	w, err := newEpollWire(l.Addr().String(), 1, root)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.open(0); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
	if err := w.send(0); err != nil {
		t.Errorf("after an idle connection was reset: %v", err)
	}
}

func TestEpollWireRefused(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	w, err := newEpollWire(addr, 1, root)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := w.send(0); err == nil {
		t.Error("nobody listens, and the request was sent")
	}
	for _, bad := range []string{"localhost:1", "[::1]:80", "127.0.0.1"} {
		if _, err := newEpollWire(bad, 1, root); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
