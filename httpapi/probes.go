package httpapi

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func probeRoutes() []*route {
	const tag = "node"
	return []*route{
		{id: "index", method: http.MethodGet, path: "/", tag: tag, summary: "What there is",
			access: Public, answer: client.Index{}, handle: index},
		{id: "livez", method: http.MethodGet, path: "/livez", tag: tag, summary: "The process runs",
			access: Public, produces: "text/plain", handle: livez},
		{id: "readyz", method: http.MethodGet, path: "/readyz", tag: tag, summary: "The node can serve; with reasons",
			access: Public, answer: client.Readiness{}, handle: readyz,
			query: []param{{name: "verbose", kind: "boolean", doc: "Answer with every check."}}},
		{id: "metrics", method: http.MethodGet, path: "/metrics", tag: tag, summary: "Metrics for Prometheus",
			access: Viewer, produces: "text/plain", handle: scrape},
		{id: "openapi", method: http.MethodGet, path: "/openapi.json", tag: tag, summary: "This description of the API",
			access: Public, produces: "application/openapi+json", handle: openAPI},
	}
}

func index(c *call) error {
	out := client.Index{Product: "paceline", Version: c.s.cfg.Version, Node: c.s.cfg.Node, OpenAPI: "/openapi.json"}
	for _, r := range c.s.routes {
		if r.method == http.MethodGet {
			out.Resources = append(out.Resources, r.path)
		}
	}
	return c.json(http.StatusOK, out)
}

func livez(c *call) error {
	c.send(http.StatusOK, typeText, []byte("ok\n"))
	return nil
}

// readyz says whether clients should be sent here, and why not.
func readyz(c *call) error {
	r := c.s.readiness()
	if !r.Ready {
		e := fsm.Errorf(fsm.Unavailable, "node", c.s.cfg.Node, "is not ready")
		for _, check := range r.Checks {
			if !check.OK {
				e.Fields = append(e.Fields, fsm.FieldError{Field: check.Name, Message: check.Reason})
			}
		}
		return e
	}
	if c.flag("verbose") {
		return c.json(http.StatusOK, r)
	}
	c.send(http.StatusOK, typeText, []byte("ok\n"))
	return nil
}

func (s *Server) readiness() client.Readiness {
	st := s.cfg.Status()
	age := s.cfg.Cluster.Stale()
	checks := []client.Check{
		{Name: "leader", OK: st.Leader != "", Reason: orElse(st.Leader != "", "the leader is "+st.Leader, "no leader is known; is a quorum of the nodes up?")},
		{Name: "state", OK: st.Problem == "", Reason: orElse(st.Problem == "", "the state is intact", st.Problem)},
		{Name: "fresh", OK: age <= staleNotReady, Reason: "the state is " + age.Round(1e6).String() + " old"},
	}
	if reason := s.leaving.Load(); reason != nil {
		checks = append(checks, client.Check{Name: "serving", Reason: *reason})
	}
	if s.cfg.Ready != nil {
		checks = append(checks, s.cfg.Ready()...)
	}
	r := client.Readiness{Ready: true, Checks: checks}
	for _, check := range checks {
		r.Ready = r.Ready && check.OK
	}
	return r
}

func orElse(ok bool, yes, no string) string {
	if ok {
		return yes
	}
	return no
}

func scrape(c *call) error {
	c.headers(c.c.Writer.Header())
	h := promhttp.HandlerFor(c.s.cfg.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes})
	h.ServeHTTP(c.c.Writer, c.c.Request)
	return nil
}

func openAPI(c *call) error {
	c.send(http.StatusOK, []string{"application/openapi+json"}, c.s.openapi)
	return nil
}
