package httpapi

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func serviceRoutes() []*route {
	const tag = "services"
	return []*route{
		{id: "list-services", method: http.MethodGet, path: "/v1/services", tag: tag, summary: "List the services: every group with what it offers",
			access: Viewer, read: true, paged: true, answer: client.List[client.ServiceSummary]{}, handle: listServices},
		{id: "get-service", method: http.MethodGet, path: "/v1/services/{group}", tag: tag,
			summary: "Read a service's endpoints; a live stream with Accept: text/event-stream",
			access:  Viewer, service: true, answer: client.ServiceView{}, handle: getService,
			query: []param{
				{name: "passing", kind: "boolean", doc: "Only endpoints that are healthy and not draining."},
				{name: "zone", kind: "string", doc: "Only endpoints in this zone."},
				{name: "limit", kind: "integer", doc: "At most so many endpoints, those that pass first; 0 for all."},
				{name: "snapshot", kind: "boolean", doc: "Begin a stream with the endpoints even if Last-Event-ID says that they are known."},
			}},
		{id: "discover-prometheus", method: http.MethodGet, path: "/v1/discovery/prometheus", tag: tag,
			summary: "The endpoints as targets of Prometheus (http_sd_configs)", access: Viewer, answer: []targetGroup{}, handle: prometheusTargets,
			query: []param{{name: "service", kind: "string", doc: "Only endpoints of this group."}}},
	}
}

// serviceIndex is the index at which a service last changed; 0 when there is
// none of that name.
func serviceIndex(s *fsm.State, group string) uint64 {
	if row, ok := s.ServiceIndexes.Get(group); ok {
		return row.Index
	}
	if s.Groups.Has(group) {
		return 1 // of a state that is older than the indexes
	}
	return 0
}

// passing says that clients should use an endpoint.
func passing(e *client.ServiceEndpoint) bool { return e.Health == fsm.Healthy && !e.Draining }

// endpointsOf lists what a group offers, in the order of the instances' ids.
func endpointsOf(s *fsm.State, group string) []client.ServiceEndpoint {
	list := []client.ServiceEndpoint{}
	for _, i := range s.InstancesOf(group) {
		e, ok := i.Endpoint()
		if !ok {
			continue
		}
		node, _ := s.Nodes.Get(e.Node)
		list = append(list, client.ServiceEndpoint{
			Instance: e.Instance, Incarnation: e.Incarnation, Node: e.Node, Zone: e.Zone, Address: e.Address,
			Health: e.Health, Draining: e.Draining, Weight: node.Weight(),
		})
	}
	return list
}

func listServices(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	s, err := c.state()
	if err != nil {
		return err
	}
	rows := func(yield func(string, *client.ServiceSummary) bool) {
		for name, g := range s.Groups.From(p.from()) {
			if !yield(name, summaryOf(s, g)) {
				return
			}
		}
	}
	return list(c, p, rows, nil, nil)
}

func summaryOf(s *fsm.State, g *fsm.Group) *client.ServiceSummary {
	sum := &client.ServiceSummary{Group: g.Name, Index: serviceIndex(s, g.Name), Routed: g.Service != nil}
	if g.Service != nil {
		sum.Hosts, sum.PathPrefix, sum.Listeners = g.Service.Hosts, g.Service.PathPrefix, g.Service.WithDefaults().Listeners
	}
	for _, i := range s.InstancesOf(g.Name) {
		e, ok := i.Endpoint()
		switch {
		case !ok:
			continue
		case e.Draining:
			sum.Draining++
		case e.Health == fsm.Healthy:
			sum.Passing++
		}
		sum.Endpoints++
	}
	return sum
}

// endpointFilter is which endpoints of a service are wanted.
type endpointFilter struct {
	passing bool
	zone    string
	limit   int
}

func (c *call) endpointFilter() endpointFilter {
	return endpointFilter{passing: c.flag("passing"), zone: c.query.Get("zone"), limit: c.number("limit", 0)}
}

// key names the filter among the remembered answers.
func (f endpointFilter) key() string {
	if f == (endpointFilter{}) {
		return ""
	}
	return fmt.Sprintf("%t %d %s", f.passing, f.limit, url.QueryEscape(f.zone))
}

func (f endpointFilter) apply(list []client.ServiceEndpoint) []client.ServiceEndpoint {
	list = slices.DeleteFunc(list, func(e client.ServiceEndpoint) bool {
		return f.passing && !passing(&e) || f.zone != "" && e.Zone != f.zone
	})
	if f.limit <= 0 || f.limit >= len(list) {
		return list
	}
	rank := func(e client.ServiceEndpoint) int {
		if passing(&e) {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(list, func(a, b client.ServiceEndpoint) int { return cmp.Compare(rank(a), rank(b)) })
	return list[:f.limit]
}

// serviceFrame is a service's answer as an event of a stream. The body of the
// plain answer is a part of it, so that both are one piece of memory.
func (s *Server) serviceFrame(state *fsm.State, group string, f endpointFilter) (frame []byte, index uint64) {
	index = serviceIndex(state, group)
	k := answerKey{form: "service", service: group, filter: f.key()}
	return s.directory.share(k, answerVersion{index: index}, func() []byte {
		v := client.ServiceView{Group: group, Index: index, Endpoints: f.apply(endpointsOf(state, group))}
		return fmt.Appendf(nil, "id: %d\nevent: %s\n%s%s\n\n", index, client.EventService, dataField, mustJSON(v))
	}), index
}

const dataField = "data: "

// bodyOf cuts the plain answer out of an event.
func bodyOf(frame []byte) []byte {
	_, body, _ := bytes.Cut(frame, []byte("\n"+dataField))
	return body[:len(body)-1]
}

// mustJSON encodes a value that can not fail to be encoded: its types have
// neither floats nor functions nor cycles.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}

func getService(c *call) error {
	if c.wantsStream() {
		return c.followService()
	}
	group := c.param("group")
	if v := c.query.Get("index"); v != "" {
		index, _ := strconv.ParseUint(v, 10, 63)
		wait, err := c.span("wait", defaultWait, maxWait)
		if err != nil {
			return err
		}
		if !c.s.cfg.Cluster.State().Groups.Has(group) {
			wait = 0 // there is nothing to wait for
		}
		if err := c.awaitService(group, index, wait); err != nil {
			return err
		}
	}
	s, err := c.consistent()
	if err != nil {
		return err
	}
	if _, err := s.Groups.Lookup(group); err != nil {
		return err
	}
	frame, index := c.s.serviceFrame(s, group, c.endpointFilter())
	c.etag(index)
	c.c.Writer.Header()[client.HeaderServiceIndex] = []string{strconv.FormatUint(index, 10)}
	if have, ok := parseTag(c.c.Request.Header.Get("If-None-Match")); ok && have == index {
		return c.empty(http.StatusNotModified)
	}
	c.send(http.StatusOK, typeJSON, bodyOf(frame))
	return nil
}

// awaitService blocks until a service has changed after an index.
func (c *call) awaitService(group string, index uint64, wait time.Duration) error {
	cluster := c.s.cfg.Cluster // a parked request must not keep the call
	return c.awaitFeed(group, func() uint64 { return serviceIndex(cluster.State(), group) }, index, wait)
}

// awaitFeed blocks until what a feed tells of has an index above the given
// one. It ends too when the index goes back, because the service was removed
// or the state restored, and when wait is over; neither is an error.
func (c *call) awaitFeed(service string, at func() uint64, index uint64, wait time.Duration) error {
	began := at()
	if began > index || wait == 0 || c.resumed {
		return nil
	}
	release, err := c.watching()
	if err != nil {
		return err
	}
	f := c.s.directory.join(service)
	d := c.s.directory
	leave := func() { d.leave(f); release() }
	over := func() bool { now := at(); return now > index || now < began }
	if c.park(f, time.Now().Add(wait), over, leave) {
		return errParked
	}
	defer leave()
	c.waited = true
	c.unhurried()
	ctx, cancel := context.WithTimeout(c.ctx, wait)
	defer cancel()
	defer context.AfterFunc(c.s.open, cancel)()
	for {
		news := d.news(f)
		if over() {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return c.c.Request.Context().Err()
		}
	}
}

// watching counts the caller among those who wait for services.
func (c *call) watching() (release func(), err error) {
	m := c.s.metrics
	if m.openWatches.Add(1) > MaxWatchers {
		m.openWatches.Add(-1)
		return nil, fsm.Errorf(fsm.Exhausted, "node", c.s.cfg.Node, "has %d watchers of services, the most that are allowed", MaxWatchers)
	}
	m.watchers.Inc()
	return func() { m.openWatches.Add(-1); m.watchers.Dec() }, nil
}
