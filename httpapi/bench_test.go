package httpapi_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/httpapi/httpapitest"
)

// instant answers every write at once: the benchmarks measure the handlers,
// not the state machine.
type instant struct {
	*httpapitest.Cluster
	row fsm.Template
}

// Propose implements httpapi.Cluster.
func (i *instant) Propose(_ context.Context, cmd fsm.Command) (fsm.Result, error) {
	t := i.row
	if put, ok := cmd.(fsm.PutTemplate); ok {
		t = put.Template
		t.Revision = 7
	}
	return fsm.Result{Index: 9, Value: &t}, nil
}

// blank is a response writer that keeps nothing.
type blank struct {
	h    http.Header
	code int
}

func (b *blank) Header() http.Header         { return b.h }
func (b *blank) Write(p []byte) (int, error) { return len(p), nil }
func (b *blank) WriteHeader(code int)        { b.code = code }

func benchmark(b *testing.B, method, path, body string, want int) {
	c := httpapitest.New("n1")
	httpapitest.Web(c)
	s, err := httpapi.New(httpapi.Config{
		Node: "n1", Cluster: &instant{Cluster: c}, Status: func() client.ClusterStatus { return client.ClusterStatus{} },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	var bad atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		req, _ := http.NewRequestWithContext(context.Background(), method, "http://n1"+path, nil)
		if body != "" {
			req.Header.Set("Content-Type", "application/json")
			req.ContentLength = int64(len(body))
		}
		w := &blank{h: http.Header{}}
		r := strings.NewReader(body)
		for pb.Next() {
			clear(w.h)
			r.Reset(body)
			req.Body = io.NopCloser(r)
			s.ServeHTTP(w, req)
			if w.code != want {
				bad.Add(1)
			}
		}
	})
	if n := bad.Load(); n > 0 {
		b.Fatalf("%d answers were not %d", n, want)
	}
}

func BenchmarkPutTemplate(b *testing.B) {
	label := strings.Repeat("x", 100)
	benchmark(b, http.MethodPut, "/v1/templates/web", `{"driver":"process","command":"@sample","labels":{"note":"`+label+`"}}`, 200)
}

func BenchmarkGetTemplate(b *testing.B) {
	benchmark(b, http.MethodGet, "/v1/templates/web", "", 200)
}

func BenchmarkGetGroup(b *testing.B) {
	benchmark(b, http.MethodGet, "/v1/groups/web", "", 200)
}

func BenchmarkInvalidTemplate(b *testing.B) {
	benchmark(b, http.MethodPut, "/v1/templates/web", `{"driver":"process","comand":"@sample","cpu":"x"}`, 422)
}

// BenchmarkServiceWatchers holds thousands of blocking reads, or streams, of one
// service, and wakes them by one change.
func BenchmarkServiceWatchers(b *testing.B) {
	b.Run("blocking", func(b *testing.B) {
		benchmarkWatchers(b, true, "GET /v1/services/web?wait=10m&index=%d HTTP/1.1\r\nHost: n1\r\n\r\n")
	})
	b.Run("stream", func(b *testing.B) {
		benchmarkWatchers(b, false, "GET /v1/services/web HTTP/1.1\r\nHost: n1\r\nAccept: text/event-stream\r\nLast-Event-ID: %d\r\n\r\n")
	})
}

// benchmarkWatchers asks once, or anew after each answer.
func benchmarkWatchers(b *testing.B, anew bool, request string) {
	const watchers = 9_000 // each has two files here
	a := newAPI(b)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- a.server.Serve(l) }()
	var before, waiting runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	conns := make([]net.Conn, watchers)
	for i := range conns {
		if conns[i], err = net.Dial("tcp", l.Addr().String()); err != nil {
			b.Fatal(err)
		}
	}
	ask := func() {
		index, _ := a.cluster.State().ServiceIndexes.Get("web")
		for _, c := range conns {
			if _, err := fmt.Fprintf(c, request, index.Index); err != nil {
				b.Fatal(err)
			}
		}
		for !strings.Contains(a.do("GET", "/metrics", "").Body.String(), fmt.Sprintf("service_watchers %d\n", watchers)) {
			runtime.Gosched()
		}
	}
	answer := make([]byte, 4096)
	read := func(until string) {
		for _, c := range conns {
			for got := ""; !strings.Contains(got, until); {
				n, err := c.Read(answer)
				if err != nil {
					b.Fatal(err)
				}
				got += string(answer[:n])
			}
		}
	}
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		if anew || n == 0 {
			ask()
		}
		if n == 0 {
			if !anew {
				read("retry:")
			}
			runtime.GC()
			runtime.ReadMemStats(&waiting)
		}
		b.StartTimer()
		a.cluster.Report(httpapitest.InstanceID(1), "", []fsm.Health{fsm.Unhealthy, fsm.Healthy}[n%2])
		read("endpoints")
	}
	used := float64(waiting.HeapInuse+waiting.StackInuse) - float64(before.HeapInuse+before.StackInuse)
	b.ReportMetric(used/watchers, "B/watcher")
	for _, c := range conns {
		_ = c.Close()
	}
	_ = a.server.Shutdown(context.Background())
	<-served
}
