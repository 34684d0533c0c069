package node

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"
)

// serveProfiles serves Go's profiles until ctx ends. Its address is on
// loopback, which the configuration has checked.
func (n *Node) serveProfiles(ctx context.Context) {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	s := &http.Server{Addr: n.cfg.DebugAddr, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.ListenAndServe(); ctx.Err() == nil {
		n.log.Warn("profiles are not served", "address", n.cfg.DebugAddr, "err", err)
	}
}
