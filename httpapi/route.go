package httpapi

import (
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"
)

// route is one operation of the API. The table of all routes is the one
// source of the router, the access checks, the metrics and the OpenAPI
// document.
type route struct {
	id      string // operation id
	method  string
	path    string // with {parameters}
	summary string
	tag     string
	access  Access
	// query are the parameters beyond those that every read has.
	query []param
	// body is a value of the request's type, nil for none.
	body         any
	bodyOptional bool
	media        string // of the body; JSON when empty
	// answer is a value of the answer's type, nil for none.
	answer any
	// produces is the media type of the answer; JSON when empty.
	produces string
	status   int // of success; 200 when 0
	// read has the parameters of consistency and blocking.
	read bool
	// write changes the state: it has a deadline and an Idempotency-Key.
	write bool
	// conditional takes If-Match and If-None-Match.
	conditional bool
	// service reads one service: it blocks for that service's own index.
	service bool
	// consul has the parameters of Consul's reads, and takes its token.
	consul bool
	// paged has limit and cursor.
	paged bool
	// stream runs for as long as the client wants.
	stream  bool
	timeout time.Duration
	handle  func(*call) error

	shape *shape // of body
}

// param is one query parameter.
type param struct {
	name, kind, doc string
	enum            []string
	repeated        bool // may be given more than once
}

// RouteInfo describes a route to tests and tools.
type RouteInfo struct {
	ID, Method, Path string
	Access           Access
}

// Routes lists every route of the API.
func Routes() []RouteInfo {
	var list []RouteInfo
	for _, r := range routes() {
		list = append(list, RouteInfo{r.id, r.method, r.path, r.access})
	}
	return list
}

// routes is the whole API.
func routes() []*route {
	return slices.Concat(
		templateRoutes(), groupRoutes(), policyRoutes(), historyRoutes(), metricsRoutes(),
		instanceRoutes(), nodeRoutes(), clusterRoutes(), eventRoutes(), probeRoutes(),
		serviceRoutes(), consulRoutes(),
		sessionRoutes(), sessionDataRoutes(),
	)
}

// unmatched stands for requests that no route takes.
func unmatched(id string, handle func(*call) error) *route {
	return &route{id: id, path: "unmatched", access: Public, handle: handle}
}

// build makes the router and the OpenAPI document from the table.
func (s *Server) build() error {
	gin.SetMode(gin.ReleaseMode)
	s.engine = gin.New()
	s.engine.HandleMethodNotAllowed = true
	s.engine.RedirectTrailingSlash = false
	s.engine.RedirectFixedPath = false
	// A slash within a session's id comes as %2F, see call.param.
	s.engine.UseRawPath, s.engine.UnescapePathValues = true, false
	if err := s.engine.SetTrustedProxies(nil); err != nil {
		return err
	}
	api := humagin.New(s.engine, openAPIConfig())
	for _, r := range s.routes {
		if r.body != nil {
			r.shape = shapeOf(r.body)
		}
		op := operation(api.OpenAPI().Components.Schemas, r)
		api.OpenAPI().AddOperation(op)
		api.Adapter().Handle(op, func(ctx huma.Context) { s.serve(humagin.Unwrap(ctx), r) })
	}
	noRoute, noMethod := unmatched("unknown-path", unknownPath), unmatched("wrong-method", wrongMethod)
	s.metrics.add(noRoute)
	noMethod.path = "unmatched"
	s.metrics.alias(noMethod, noRoute)
	s.engine.NoRoute(func(c *gin.Context) { s.serve(c, noRoute) })
	s.engine.NoMethod(func(c *gin.Context) { s.serve(c, noMethod) })
	doc, err := document(api.OpenAPI())
	s.openapi = doc
	return err
}

func unknownPath(c *call) error {
	return notFoundPath(shownPath(c.c.Request.URL.Path))
}

// shownPath leaves the id of a session out of a path: it may let a client in, and
// errors and logs are read by others.
func shownPath(path string) string {
	before, rest, found := strings.Cut(path, "/sessions/")
	if !found {
		return path
	}
	if slash := strings.IndexByte(rest, '/'); slash >= 0 {
		return before + "/sessions/{session}" + rest[slash:]
	}
	return before + "/sessions/{session}"
}

func wrongMethod(c *call) error {
	allow := c.c.Writer.Header().Get("Allow")
	methods := strings.Split(allow, ", ")
	if slices.Contains(methods, http.MethodGet) && !slices.Contains(methods, http.MethodHead) {
		c.c.Writer.Header().Set("Allow", allow+", HEAD")
	}
	return methodNotAllowed(c.c.Request.Method, shownPath(c.c.Request.URL.Path), allow)
}
