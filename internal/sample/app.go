package sample

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// app is the state of one running sample.
type app struct {
	who      identity
	failing  atomic.Bool
	requests atomic.Int64
	inflight atomic.Int64
}

// identity is the answer of /whoami.
type identity struct {
	Instance string `json:"instance"`
	Group    string `json:"group"`
	Zone     string `json:"zone"`
	Node     string `json:"node"`
	PID      int    `json:"pid"`
}

func newApp(env func(string) string) *app {
	return &app{who: identity{
		Instance: env("PACELINE_INSTANCE"), Group: env("PACELINE_GROUP"), Zone: env("PACELINE_ZONE"),
		Node: env("PACELINE_NODE"), PID: os.Getpid(),
	}}
}

func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", a.index)
	mux.HandleFunc("GET /healthz", a.health)
	mux.HandleFunc("POST /fail", func(w http.ResponseWriter, _ *http.Request) { a.setFailing(w, true) })
	mux.HandleFunc("POST /recover", func(w http.ResponseWriter, _ *http.Request) { a.setFailing(w, false) })
	mux.HandleFunc("GET /metrics", a.metrics)
	mux.Handle("GET /whoami", a.counted(a.whoami))
	mux.Handle("/work", a.counted(a.busy(burn)))
	mux.Handle("/sleep", a.counted(a.busy(sleep)))
	return mux
}

// counted counts the requests that are work, which health checks are not.
func (a *app) counted(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.requests.Add(1)
		a.inflight.Add(1)
		defer a.inflight.Add(-1)
		h(w, r)
	})
}

func (a *app) index(w http.ResponseWriter, _ *http.Request) {
	_, _ = fmt.Fprintln(w, "paceline sample: GET /whoami /work?ms=50 /sleep?ms=50 /healthz /metrics, POST /fail /recover")
}

func (a *app) health(w http.ResponseWriter, _ *http.Request) {
	if a.failing.Load() {
		http.Error(w, "not serving", http.StatusServiceUnavailable)
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

func (a *app) setFailing(w http.ResponseWriter, failing bool) {
	a.failing.Store(failing)
	w.WriteHeader(http.StatusNoContent)
}

func (a *app) whoami(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a.who)
}

// busy is a handler that does something for the time that ?ms= asks for.
func (a *app) busy(do func(context.Context, time.Duration)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		span := 10 * time.Millisecond
		if text := r.URL.Query().Get("ms"); text != "" {
			ms, err := strconv.Atoi(text)
			if err != nil || ms < 0 || time.Duration(ms)*time.Millisecond > maxBusy {
				http.Error(w, fmt.Sprintf("ms must be a number between 0 and %d", maxBusy.Milliseconds()), http.StatusBadRequest)
				return
			}
			span = time.Duration(ms) * time.Millisecond
		}
		do(r.Context(), span)
		_, _ = fmt.Fprintf(w, "%s %s\n", a.who.Instance, span)
	}
}

// burn uses a core. It looks at the clock and the client between short pieces
// of work.
func burn(ctx context.Context, span time.Duration) {
	x := uint64(1)
	for end := time.Now().Add(span); time.Now().Before(end) && ctx.Err() == nil; {
		for range 20_000 {
			x = x*6364136223846793005 + 1442695040888963407
		}
	}
	if x == 0 {
		return // never: it keeps the compiler from leaving the work out
	}
}

func sleep(ctx context.Context, span time.Duration) {
	t := time.NewTimer(span)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// metrics answers in the Prometheus text format.
func (a *app) metrics(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_, _ = fmt.Fprintf(w, "# HELP sample_requests_total Requests for work.\n# TYPE sample_requests_total counter\nsample_requests_total %d\n"+
		"# HELP sample_inflight Requests being worked on.\n# TYPE sample_inflight gauge\nsample_inflight %d\n",
		a.requests.Load(), a.inflight.Load())
}
