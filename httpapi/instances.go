package httpapi

import (
	"io"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

var instanceFilters = []param{
	{name: "node", kind: "string", doc: "Only instances on this node."},
	{name: "zone", kind: "string", doc: "Only instances in this zone."},
	{name: "template", kind: "string", doc: "Only instances of this template."},
	{name: "state", kind: "string", doc: "Only instances in this state.",
		enum: []string{"planned", "starting", "running", "draining", "stopping", "stopped", "failed", "lost"}},
	{name: "health", kind: "string", doc: "Only instances of this health.", enum: []string{"unknown", "healthy", "unhealthy"}},
}

func instanceRoutes() []*route {
	const tag, one = "instances", "/v1/instances/{instance}"
	all := append([]param{{name: "group", kind: "string", doc: "Only instances of this group."}}, instanceFilters...)
	return []*route{
		{id: "list-instances", method: http.MethodGet, path: "/v1/instances", tag: tag, summary: "List the instances of all groups",
			access: Viewer, read: true, paged: true, query: all, answer: client.List[fsm.Instance]{}, handle: listInstances},
		{id: "list-group-instances", method: http.MethodGet, path: "/v1/groups/{group}/instances", tag: tag, summary: "List a group's instances",
			access: Viewer, read: true, paged: true, query: instanceFilters, answer: client.List[fsm.Instance]{}, handle: listGroupInstances},
		{id: "get-instance", method: http.MethodGet, path: one, tag: tag, summary: "Read an instance",
			access: Viewer, read: true, answer: fsm.Instance{}, handle: getInstance},
		{id: "stop-instance", method: http.MethodDelete, path: one, tag: tag, summary: "Drain an instance, then end it",
			access: Operator, write: true, answer: fsm.Instance{}, status: http.StatusAccepted, handle: stopInstance,
			query: []param{{name: "reason", kind: "string", doc: "Why; it is shown in the group's activities."}}},
		{id: "send-heartbeat", method: http.MethodPut, path: one + "/health", tag: tag, summary: "Say for an instance with a ttl check whether it can serve",
			access: Operator, body: client.Heartbeat{}, answer: client.HeartbeatTaken{}, handle: sendHeartbeat},
		{id: "get-instance-logs", method: http.MethodGet, path: one + "/logs", tag: tag, summary: "Read an instance's output",
			access: Viewer, stream: true, produces: "text/plain", handle: instanceLogs,
			query: []param{
				{name: "tail", kind: "integer", doc: "The number of last lines: 100 by default, at most 10000."},
				{name: "offset", kind: "integer", doc: "Go on at this byte, as told in Paceline-Log-Offset."},
				{name: "follow", kind: "boolean", doc: "Go on while the instance lives."},
			}},
	}
}

// keepInstance makes the filter of a listing.
func (c *call) keepInstance() func(*fsm.Instance) bool {
	q := c.query
	group, node, zone, template := q.Get("group"), q.Get("node"), q.Get("zone"), q.Get("template")
	state, health := q.Get("state"), q.Get("health")
	is := func(want, have string) bool { return want == "" || want == have }
	return func(i *fsm.Instance) bool {
		return is(group, i.Group) && is(node, i.Node) && is(zone, i.Zone) && is(template, i.Template) &&
			is(state, string(i.State)) && is(health, string(i.Health))
	}
}

func listInstances(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	s, err := c.state()
	if err != nil {
		return err
	}
	if group := c.query.Get("group"); group != "" { // by the index, not by a full scan
		skip := func(id string) bool { return id <= p.after }
		return list(c, p, s.InstancesOf(group), skip, c.keepInstance())
	}
	return list(c, p, s.Instances.From(p.from()), nil, c.keepInstance())
}

func listGroupInstances(c *call) error {
	p, s, g, err := c.groupPage()
	if err != nil {
		return err
	}
	skip := func(id string) bool { return id <= p.after }
	return list(c, p, s.InstancesOf(g.Name), skip, c.keepInstance())
}

func getInstance(c *call) error {
	find := func(s *fsm.State) (*fsm.Instance, error) { return s.Instances.Lookup(c.param("instance")) }
	return show(c, find, func(i *fsm.Instance) uint64 { return i.Revision })
}

func stopInstance(c *call) error {
	id := c.param("instance")
	cause := c.query.Get("reason")
	if cause == "" {
		cause = "stopped by hand"
	}
	if len(cause) > maxReason {
		return invalidField("query", "", "reason", "has "+strconv.Itoa(len(cause))+" bytes, at most "+strconv.Itoa(maxReason)+" are allowed")
	}
	if _, err := c.write(fsm.StopInstances{Instances: []string{id}, Cause: cause}); err != nil {
		return err
	}
	i, err := c.s.cfg.Cluster.State().Instances.Lookup(id)
	if err != nil {
		return err
	}
	c.etag(i.Revision)
	return c.json(http.StatusAccepted, i)
}

// sendHeartbeat hands what an instance says about itself to its node.
func sendHeartbeat(c *call) error {
	var beat client.Heartbeat
	if err := c.body(&beat, nil); err != nil {
		return err
	}
	i, err := c.s.cfg.Cluster.State().Instances.Lookup(c.param("instance"))
	if err != nil {
		return err
	}
	f := &faults{}
	if beat.Status != client.HeartbeatPass && beat.Status != client.HeartbeatFail {
		f.add("status", "must be %q or %q", client.HeartbeatPass, client.HeartbeatFail)
	}
	if len(beat.Output) > MaxHeartbeatOutput {
		f.add("output", "has %d bytes, at most %d are allowed", len(beat.Output), MaxHeartbeatOutput)
	}
	if len(f.list) > 0 {
		return &fsm.Error{Kind: fsm.Invalid, Noun: "heartbeat", Key: i.ID, Message: "is not valid", Fields: f.list}
	}
	if c.s.cfg.Heartbeats == nil {
		return unavailable("does not take heartbeats")
	}
	taken, err := c.s.cfg.Heartbeats.Heartbeat(c.ctx, i.ID, beat)
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, taken)
}

// instanceLogs sends the log in chunks: once, or for as long as the instance
// and the client live.
func instanceLogs(c *call) error {
	i, err := c.s.cfg.Cluster.State().Instances.Lookup(c.param("instance"))
	if err != nil {
		return err
	}
	if c.s.cfg.Logs == nil {
		return unavailable("does not serve logs")
	}
	q := LogQuery{Tail: c.number("tail", defaultTail), Offset: -1}
	if q.Tail > maxTail {
		return invalidField("query", "", "tail", "must be at most "+strconv.Itoa(maxTail))
	}
	if c.query.Get("offset") != "" {
		q.Offset = int64(c.number("offset", math.MaxInt32))
	}
	if !c.flag("follow") {
		return c.logOnce(i.ID, q)
	}
	return c.stream(func(out *stream) error { return c.followLog(out, i.ID, q) })
}

func (c *call) logOnce(id string, q LogQuery) error {
	chunk, err := c.s.cfg.Logs.Logs(c.ctx, id, q)
	if err != nil {
		return err
	}
	c.c.Writer.Header().Set(client.HeaderLogOffset, strconv.FormatInt(chunk.Next, 10))
	c.send(http.StatusOK, typeText, chunk.Data)
	return nil
}

func (c *call) followLog(out *stream, id string, q LogQuery) error {
	for {
		chunk, err := c.s.cfg.Logs.Logs(out.ctx, id, q)
		if err != nil {
			return err
		}
		out.open(typeText[0])
		if len(chunk.Data) > 0 {
			if err := out.write(chunk.Data); err != nil {
				return io.EOF
			}
		}
		if chunk.Ended && len(chunk.Data) == 0 {
			return io.EOF
		}
		q.Offset, q.Wait = chunk.Next, logWait
		if len(chunk.Data) == 0 && !pause(out.ctx, logPoll) {
			return io.EOF
		}
	}
}

// metricsRoutes are how samples come in.
func metricsRoutes() []*route {
	return []*route{{
		id: "push-metrics", method: http.MethodPost, path: "/v1/groups/{group}/metrics", tag: "metrics",
		summary: "Push samples for the group's policies", access: Operator, body: client.MetricsRequest{},
		answer: client.Accepted{}, status: http.StatusAccepted, handle: pushMetrics,
	}}
}

func pushMetrics(c *call) error {
	var req client.MetricsRequest
	if err := c.body(&req, nil); err != nil {
		return err
	}
	s := c.s.cfg.Cluster.State()
	g, err := s.Groups.Lookup(c.param("group"))
	if err != nil {
		return err
	}
	now := time.Now()
	if err := checkSamples(s, g, req.Samples, now); err != nil {
		return err
	}
	if c.s.cfg.Metrics == nil {
		return unavailable("does not take metrics")
	}
	for i := range req.Samples {
		if req.Samples[i].At.IsZero() {
			req.Samples[i].At = now
		}
	}
	if err := c.s.cfg.Metrics.PushMetrics(c.ctx, g.Name, req.Samples); err != nil {
		return err
	}
	return c.json(http.StatusAccepted, client.Accepted{Accepted: len(req.Samples)})
}

// checkSamples refuses what must never reach a policy.
func checkSamples(s *fsm.State, g *fsm.Group, samples []client.MetricSample, now time.Time) error {
	f := &faults{}
	if len(samples) == 0 || len(samples) > MaxSamples {
		f.add("samples", "has %d entries, 1 to %d are allowed", len(samples), MaxSamples)
	}
	for n, x := range samples {
		at := "samples[" + strconv.Itoa(n) + "]"
		if !fsm.ValidMetric(x.Metric) {
			f.add(at+".metric", "must be a name such as cpu or queue_depth")
		}
		if math.IsNaN(x.Value) || math.IsInf(x.Value, 0) {
			f.add(at+".value", "must be a finite number")
		}
		if i, ok := s.Instances.Get(x.Instance); x.Instance != "" && (!ok || i.Group != g.Name) {
			f.add(at+".instance", "is %q, which is not an instance of group %q", x.Instance, g.Name)
		}
		if !x.At.IsZero() && now.Sub(x.At).Abs() > maxSampleSkew {
			f.add(at+".at", "is %s, more than %s away from now", x.At.Format(time.RFC3339), maxSampleSkew)
		}
		if len(f.list) >= MaxFieldErrors {
			break
		}
	}
	if len(f.list) == 0 {
		return nil
	}
	return &fsm.Error{Kind: fsm.Invalid, Noun: "metrics", Key: g.Name, Message: "is not valid", Fields: f.list}
}
