// Package sample is the sample application that every paceline binary carries:
// a small HTTP server to try groups, policies and faults with. A template runs
// it with the command "@sample".
package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"time"
)

// The limits of the sample application.
const (
	// maxBusy bounds what one request may burn or sleep.
	maxBusy = 10 * time.Second
	// maxHeaderBytes and headerTimeout bound what a client may send.
	maxHeaderBytes = 8 << 10
	headerTimeout  = 5 * time.Second
	// drainTimeout bounds the wait for requests in flight.
	drainTimeout = 30 * time.Second
	// memoryGoal is what the garbage collector aims at; the sample is small, so
	// that a laptop runs a hundred of it.
	memoryGoal = 6 << 20
	// procs is how many cores one instance can burn.
	procs = 2
)

// Main runs the sample application until ctx ends or the process is told to
// stop, and returns the exit status. env looks up environment variables; out
// gets the log.
func Main(ctx context.Context, args []string, env func(string) string, out io.Writer) int {
	if len(args) > 0 {
		_, _ = fmt.Fprintf(out, "sample: takes no arguments, got %q\n", args)
		return 2
	}
	runtime.GOMAXPROCS(min(procs, runtime.GOMAXPROCS(0)))
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(memoryGoal)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := serve(ctx, env, out); err != nil {
		_, _ = fmt.Fprintf(out, "sample: %v\n", err)
		return 1
	}
	return 0
}

// serve answers requests until ctx ends and those in flight are answered.
func serve(ctx context.Context, env func(string) string, out io.Writer) error {
	port := env("PORT")
	if port == "" {
		return errors.New("PORT is not set; try PORT=8080 paceline sample")
	}
	host := env("PACELINE_ADDRESS")
	if host == "" {
		host = "127.0.0.1"
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	a := newApp(env)
	beats, err := newHeart(env)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	beating, stop := context.WithCancel(ctx)
	var heart sync.WaitGroup
	defer heart.Wait()
	defer stop()
	heart.Go(func() { beats.run(beating, a, out) })
	s := &http.Server{
		Handler: a.routes(), ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: maxHeaderBytes,
		IdleTimeout: time.Minute,
	}
	_, _ = fmt.Fprintf(out, "sample: instance %q of group %q on http://%s, pid %d\n", a.who.Instance, a.who.Group, l.Addr(), os.Getpid())
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	return a.drain(s, served, out)
}

// drain says at /healthz that no more work is wanted, and ends when the
// requests in flight have.
func (a *app) drain(s *http.Server, served <-chan error, out io.Writer) error {
	a.failing.Store(true)
	_, _ = fmt.Fprintf(out, "sample: stopping, %d requests in flight\n", a.inflight.Load())
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		return fmt.Errorf("requests in flight did not end: %w", err)
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	_, _ = fmt.Fprintf(out, "sample: stopped after %d requests\n", a.requests.Load())
	return nil
}
