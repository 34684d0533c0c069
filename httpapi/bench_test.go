package httpapi_test

import (
	"context"
	"io"
	"net/http"
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
