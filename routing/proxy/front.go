package proxy

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

// front speaks TLS and HTTP/2 to clients: net/http frames the streams, and
// each of them becomes an exchange as a request of HTTP/1 does.
type front struct {
	p      *Proxy
	tls    *tls.Config
	server http.Server
	conns  chan net.Conn
	done   chan struct{}
	close  sync.Once
}

// http2Preface is what a client of HTTP/2 sends first.
var http2Preface = []byte("PRI * HTTP/2.0\r\n")

// connKey is the key of the *conn in a request's context.
type connKey struct{}

func newFront(p *Proxy) *front {
	f := &front{p: p, conns: make(chan net.Conn), done: make(chan struct{})}
	if p.cfg.TLS != nil {
		f.tls = p.cfg.TLS.Clone()
		f.tls.NextProtos = []string{"h2", "http/1.1"}
	}
	var protocols http.Protocols
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	f.server = http.Server{
		Handler: f, Protocols: &protocols, ReadHeaderTimeout: p.waits.head, IdleTimeout: defaultIdle, MaxHeaderBytes: maxHead,
		ErrorLog:                     slog.NewLogLogger(p.log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
		HTTP2:                        &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReceiveBufferPerStream: streamWindow},
		ConnContext: func(ctx context.Context, nc net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, connOf(nc))
		},
	}
	return f
}

// start begins to serve what is handed over.
func (f *front) start() {
	f.p.wg.Go(func() { _ = f.server.Serve(f) }) // ends with shutdown
}

// handed is a connection on its way to net/http. It remembers what it came
// from, and gives back first what was read of it.
type handed struct {
	net.Conn
	c     *conn
	early []byte
	ended chan struct{}
	once  sync.Once
}

// Read implements [net.Conn].
func (h *handed) Read(b []byte) (int, error) {
	if len(h.early) > 0 {
		n := copy(b, h.early)
		h.early = h.early[n:]
		return n, nil
	}
	return h.Conn.Read(b)
}

// Write implements [net.Conn]. A client that takes nothing for as long as a body
// may stand still has gone: the deadlines of its streams only reset those, which
// it does not take either.
func (h *handed) Write(b []byte) (int, error) {
	_ = h.SetWriteDeadline(time.Now().Add(h.c.p.waits.stuck))
	n, err := h.Conn.Write(b)
	if err != nil {
		_ = h.Close()
	}
	return n, err
}

// Close implements [net.Conn].
func (h *handed) Close() error {
	h.once.Do(func() { close(h.ended) })
	return h.Conn.Close()
}

func connOf(nc net.Conn) *conn {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	return nc.(*handed).c
}

// serve shakes hands on a connection and serves it in the protocol that the
// client has chosen.
func (f *front) serve(c *conn) {
	h := &handed{Conn: c.Conn, c: c, ended: make(chan struct{})}
	t := tls.Server(h, f.tls)
	ctx, cancel := context.WithTimeout(f.p.life, f.p.waits.head)
	err := t.HandshakeContext(ctx)
	cancel()
	if err != nil {
		f.p.log.Debug("a TLS handshake failed", "peer", c.peer, "err", err)
		_ = t.Close()
		return
	}
	c.proto = "https"
	if t.ConnectionState().NegotiatedProtocol == "h2" {
		f.hand(t, h)
		return
	}
	c.Conn = t
	c.serve()
}

// servePlain serves a connection that has begun with the preface of HTTP/2.
func (f *front) servePlain(c *conn, early []byte) {
	h := &handed{Conn: c.Conn, c: c, early: bytes.Clone(early), ended: make(chan struct{})}
	_ = c.SetDeadline(time.Time{}) // net/http sets its own
	f.hand(h, h)
}

// hand gives a connection to net/http and waits for its end.
func (f *front) hand(nc net.Conn, h *handed) {
	select {
	case f.conns <- nc:
		<-h.ended
	case <-f.done:
		_ = nc.Close()
	}
}

// Accept implements [net.Listener].
func (f *front) Accept() (net.Conn, error) {
	select {
	case c := <-f.conns:
		return c, nil
	case <-f.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (f *front) Close() error {
	f.close.Do(func() { close(f.done) })
	return nil
}

// Addr implements [net.Listener].
func (f *front) Addr() net.Addr { return f.p.shared.l.Addr() }

func (f *front) shutdown(ctx context.Context) error {
	err := f.server.Shutdown(ctx)
	if err != nil {
		_ = f.server.Close()
	}
	return err
}

// ServeHTTP implements [http.Handler] for one stream.
func (f *front) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	c := r.Context().Value(connKey{}).(*conn)
	w := workPool.Get().(*work)
	s := &h2stream{rw: rw, ctl: http.NewResponseController(rw), r: r}
	defer w.put()
	if !fillRequest(&w.req, r) {
		s.answer(answer{status: http.StatusBadRequest, code: "invalid", message: "the request's path, host or Content-Length is not valid"})
		return
	}
	var p place
	defer func() { p.give(c.peer) }()
	c.p.dispatch(&c.party, s, w, func(t *target, now time.Duration) bool { return p.take(t, c.peer, now) })
	if s.broken || !s.answered { // the client must not take a part for the whole, or nothing for an answer
		panic(http.ErrAbortHandler)
	}
}
