package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// origin is the server behind the proxies: it answers quickly and always the
// same, so that what is measured is the proxy.
type origin struct {
	body []byte
	big  []byte
}

// newOrigin makes an origin whose answers name it.
func newOrigin(name string) *origin {
	body := fmt.Sprintf(`{"origin":%q,"message":"`, name)
	const end = `"}`
	body += strings.Repeat("x", max(originBytes-len(body)-len(end), 0)) + end
	return &origin{body: []byte(body), big: make([]byte, maxBigKiB<<10)}
}

// handle answers "/", "/slow?ms=N" and "/big?kb=N".
func (o *origin) handle(c *fasthttp.RequestCtx) {
	c.SetContentType("application/json")
	switch string(c.Path()) {
	case "/slow":
		ms, err := c.QueryArgs().GetUint("ms")
		if err != nil || ms > maxSlowMs {
			c.Error(fmt.Sprintf("ms must be 0 to %d", maxSlowMs), fasthttp.StatusBadRequest)
			return
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
		c.Response.SetBodyRaw(o.body)
	case "/big":
		kb, err := c.QueryArgs().GetUint("kb")
		if err != nil || kb > maxBigKiB {
			c.Error(fmt.Sprintf("kb must be 0 to %d", maxBigKiB), fasthttp.StatusBadRequest)
			return
		}
		c.SetContentType("application/octet-stream")
		c.Response.SetBodyRaw(o.big[:kb<<10])
	default:
		c.Response.SetBodyRaw(o.body)
	}
}

// serveOrigin is "paceline-bench origin": it listens where an instance of
// Paceline is told to, and ends on ctx after the requests in hand.
func serveOrigin(ctx context.Context) error {
	host, port := os.Getenv("PACELINE_ADDRESS"), os.Getenv("PORT")
	if host == "" || port == "" {
		return errors.New("an origin needs PORT and PACELINE_ADDRESS in its environment, as instances get them")
	}
	l, err := net.Listen("tcp", net.JoinHostPort(host, port))
	if err != nil {
		return err
	}
	s := &fasthttp.Server{
		Handler: newOrigin(port).handle, NoDefaultServerHeader: true, CloseOnShutdown: true,
		Concurrency: maxOriginConns, IdleTimeout: 2 * time.Minute, MaxRequestBodySize: 1 << 20,
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.Background(), originStop)
	defer cancel()
	// Connections that are still open then are the proxies' idle ones.
	if err := s.ShutdownWithContext(end); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}
