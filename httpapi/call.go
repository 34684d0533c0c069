package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// call is one request on its way through the API.
type call struct {
	s         *Server
	c         *gin.Context
	route     *route
	ctx       context.Context
	requestID string
	role      Access
	query     url.Values // nil when there is none

	index  uint64        // that the answer reflects; 0 for the present one
	stale  time.Duration // age of that state
	waited bool          // the time of the request says nothing about us

	begun   time.Time
	resumed bool // it was parked, and has returned
	parked  bool // nothing is answered now
}

// Media types of answers.
var (
	typeJSON    = []string{"application/json"}
	typeProblem = []string{client.ProblemType}
	typeText    = []string{"text/plain; charset=utf-8"}
)

// serve runs one request: the only layer between the router and a handler.
func (s *Server) serve(gc *gin.Context, r *route) {
	c := &call{s: s, c: gc, route: r, ctx: gc.Request.Context(), stale: -1, begun: time.Now()}
	m := s.metrics.of(r)
	m.inFlight.Inc()
	defer func() { // also when the connection is cut on purpose
		m.inFlight.Dec()
		if c.parked {
			return // it is counted when it is answered
		}
		status := gc.Writer.Status()
		m.count(status, time.Since(c.begun), c.waited || r.stream)
		s.logAccess(c, status, c.begun)
	}()
	defer func() {
		if p := recover(); p != nil {
			c.panicked(p)
		}
	}()
	if conn := connectionOf(gc.Request); conn != nil && conn.again != nil {
		c.requestID, c.begun, c.resumed, c.waited = conn.again.requestID, conn.again.begun, true, true
		conn.again = nil
	} else {
		c.requestID = s.ids.of(gc.Request.Header)
	}
	gc.Writer.Header()[client.HeaderRequestID] = []string{c.requestID}
	if err := c.run(); errors.Is(err, errParked) {
		c.parked = true
	} else if err != nil {
		c.fail(err)
	}
}

// run admits the request and calls its handler.
func (c *call) run() error {
	role, err := c.s.admit(c.credentials(), c.route.access)
	if err != nil {
		return err
	}
	c.role = role
	if err := c.parseQuery(); err != nil {
		return err
	}
	if !c.route.write {
		return c.route.handle(c)
	}
	ctx := fsm.WithActor(c.ctx, string(role))
	if key := c.c.Request.Header.Get(client.HeaderIdempotencyKey); key != "" {
		if len(key) > client.MaxIdempotencyKey || !printable(key) {
			return invalidField("request", "", client.HeaderIdempotencyKey,
				"must be 1 to "+strconv.Itoa(client.MaxIdempotencyKey)+" printable ASCII characters")
		}
		ctx = fsm.WithRequestID(ctx, key)
	}
	timeout := c.s.cfg.WriteTimeout
	if c.route.timeout > 0 {
		timeout = c.route.timeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c.ctx = ctx
	return c.route.handle(c)
}

// credentials are the headers that may say who asks. Consul's clients have a
// header of their own for their token.
func (c *call) credentials() http.Header {
	h := c.c.Request.Header
	if token := h.Get(headerConsulToken); c.route.consul && token != "" && h.Get("Authorization") == "" {
		return http.Header{"Authorization": {"Bearer " + token}}
	}
	return h
}

// panicked turns a panic of a handler into a problem, and tells the log where.
func (c *call) panicked(p any) {
	if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
		panic(p) // cuts the connection on purpose
	}
	c.s.log.Error("handler panicked", "requestId", c.requestID, "route", c.route.id,
		"panic", p, "stack", string(debug.Stack()))
	c.fail(fsm.Errorf(fsm.Internal, "", "", "the node hit a bug while it handled this request; nothing was answered by it").
		WithHint("look in the log of node %s for requestId %s", c.s.cfg.Node, c.requestID))
}

// fail answers with a problem document. An answer that has begun is cut off
// instead: half of one must not look like a whole one.
func (c *call) fail(err error) {
	if c.c.Writer.Written() {
		panic(http.ErrAbortHandler)
	}
	p := c.problem(err)
	if p.RetryAfterMs > 0 {
		c.c.Writer.Header().Set("Retry-After", strconv.FormatInt((p.RetryAfterMs+999)/1000, 10))
	}
	if p.Status == http.StatusUnauthorized {
		c.c.Writer.Header().Set("WWW-Authenticate", `Bearer realm="paceline"`)
	}
	_ = c.render(p.Status, typeProblem, p)
}

// buffer is an answer being made, with its encoder.
type buffer struct {
	bytes.Buffer
	enc *json.Encoder
}

// maxPooled keeps rare huge answers out of the pool.
const maxPooled = 256 << 10

// buffers is a pool of scratch memory: it holds no state between requests.
var buffers = sync.Pool{New: func() any {
	b := &buffer{}
	b.enc = json.NewEncoder(&b.Buffer)
	b.enc.SetEscapeHTML(false)
	return b
}}

func putBuffer(b *buffer) {
	if b.Cap() <= maxPooled {
		b.Reset()
		buffers.Put(b)
	}
}

// json answers with a value.
func (c *call) json(status int, v any) error { return c.render(status, typeJSON, v) }

func (c *call) render(status int, mediaType []string, v any) error {
	b := buffers.Get().(*buffer)
	defer putBuffer(b)
	if err := b.enc.Encode(v); err != nil {
		return err
	}
	c.send(status, mediaType, b.Bytes())
	return nil
}

// send writes head and body at once.
func (c *call) send(status int, mediaType []string, body []byte) {
	w := c.c.Writer
	h := w.Header()
	c.headers(h)
	if mediaType != nil {
		h["Content-Type"] = mediaType
		h["Content-Length"] = []string{strconv.Itoa(len(body))}
	}
	w.WriteHeader(status)
	if len(body) == 0 {
		w.WriteHeaderNow()
		return
	}
	_, _ = w.Write(body) // the client is gone; there is nobody to tell
}

// empty answers without a body.
func (c *call) empty(status int) error {
	c.send(status, nil, nil)
	return nil
}

// headers sets what every answer says about the state it reflects.
func (c *call) headers(h http.Header) {
	index, stale := c.index, c.stale
	if index == 0 {
		index = c.s.cfg.Cluster.State().Index()
	}
	if stale < 0 {
		stale = c.s.cfg.Cluster.Stale()
	}
	h[client.HeaderIndex] = []string{strconv.FormatUint(index, 10)}
	h[client.HeaderServedBy] = []string{c.s.cfg.Node}
	h[client.HeaderStale] = []string{strconv.FormatInt(stale.Milliseconds(), 10)}
}

// etag tells a row's revision.
func (c *call) etag(revision uint64) {
	c.c.Writer.Header()["Etag"] = []string{tagOf(revision)}
}

func tagOf(revision uint64) string {
	b := make([]byte, 0, 24)
	b = append(b, '"')
	b = strconv.AppendUint(b, revision, 10)
	return string(append(b, '"'))
}

// param returns a parameter of the path, unescaped.
func (c *call) param(name string) string {
	v := c.c.Param(name)
	if c.c.Request.URL.RawPath == "" {
		return v // the router has seen the path unescaped
	}
	if plain, err := url.PathUnescape(v); err == nil {
		return plain
	}
	return v
}

func (s *Server) logAccess(c *call, status int, begun time.Time) {
	if !s.log.Enabled(c.ctx, slog.LevelDebug) {
		return
	}
	r, path := c.c.Request, shownPath(c.c.Request.URL.Path)
	s.log.LogAttrs(c.ctx, slog.LevelDebug, "request",
		slog.String("requestId", c.requestID), slog.String("method", r.Method), slog.String("path", path),
		slog.Int("status", status), slog.Int("bytes", c.c.Writer.Size()), slog.Duration("took", time.Since(begun)),
		slog.String("role", string(c.role)), slog.String("from", r.RemoteAddr))
}
