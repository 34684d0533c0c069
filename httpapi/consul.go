package httpapi

import (
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// The part of Consul's API by which programs find services. It is read only:
// what registers itself with Consul is here an instance, and the cluster knows
// of it anyway.

// headerConsulToken is where Consul's clients put their token.
const headerConsulToken = "X-Consul-Token"

// consulDatacenter is the one datacenter that there is.
const consulDatacenter = "paceline"

// consulParams are those of every read of Consul's. Parameters that would
// narrow the answer and are not served are refused, as unknown ones are.
var consulParams = []param{
	{name: "index", kind: "integer", doc: "Block until X-Consul-Index is above this, or until wait is over."},
	{name: "wait", kind: "string", doc: "How long to block: 5m by default, at most 10m."},
	{name: "stale", kind: "boolean", doc: "This node's own state; the default."},
	{name: "consistent", kind: "boolean", doc: "Linearizable."},
	{name: "cached", kind: "boolean", doc: "Ignored; this node's own state is the cache."},
	{name: "dc", kind: "string", doc: "Ignored; there is one datacenter."},
	{name: "near", kind: "string", doc: "Ignored; the order of the answer means nothing."},
}

func consulRoutes() []*route {
	const tag = "consul"
	tags := param{name: "tag", kind: "string", repeated: true, doc: "Only services with this tag: key=value of a label, or its key alone; several must all be there."}
	return []*route{
		{id: "consul-health-service", method: http.MethodGet, path: "/v1/health/service/{service}", tag: tag, summary: "A service's endpoints, as Consul tells them",
			access: Viewer, consul: true, answer: []consulEntry{}, handle: consulHealth,
			query: []param{{name: "passing", kind: "boolean", doc: "Only endpoints that are healthy and not draining."}, tags}},
		{id: "consul-catalog-service", method: http.MethodGet, path: "/v1/catalog/service/{service}", tag: tag, summary: "A service's endpoints without their health, as Consul tells them",
			access: Viewer, consul: true, answer: []consulCatalogEntry{}, handle: consulCatalog, query: []param{tags}},
		{id: "consul-catalog-services", method: http.MethodGet, path: "/v1/catalog/services", tag: tag, summary: "The services with their tags, as Consul tells them",
			access: Viewer, consul: true, answer: map[string][]string{}, handle: consulServices},
		{id: "consul-agent-self", method: http.MethodGet, path: "/v1/agent/self", tag: tag, summary: "This node, as Consul tells it",
			access: Viewer, answer: consulAgent{}, consul: true, handle: consulSelf},
	}
}

func consulHealth(c *call) error {
	onlyPassing, tags := c.flag("passing"), c.query["tag"]
	filter := strconv.FormatBool(onlyPassing) + " " + strings.Join(tags, "\x00")
	return c.consulService("consul-health", filter, func(s *fsm.State, g *fsm.Group) any {
		out := []consulEntry{}
		for _, e := range consulEndpoints(s, g, tags) {
			if !onlyPassing || passing(&e) {
				out = append(out, consulEntryOf(s, g, &e))
			}
		}
		return out
	})
}

func consulCatalog(c *call) error {
	tags := c.query["tag"]
	return c.consulService("consul-catalog", strings.Join(tags, "\x00"), func(s *fsm.State, g *fsm.Group) any {
		out := []consulCatalogEntry{}
		for _, e := range consulEndpoints(s, g, tags) {
			out = append(out, consulCatalogOf(consulEntryOf(s, g, &e)))
		}
		return out
	})
}

// consulService answers with what list makes of a service. One that is not
// there is an empty list, and a reader may wait for it.
func (c *call) consulService(form, filter string, list func(*fsm.State, *fsm.Group) any) error {
	name := c.param("service")
	cluster := c.s.cfg.Cluster // as in awaitService
	index := func() uint64 { return serviceIndex(cluster.State(), name) }
	if err := c.consulWait(name, index); err != nil {
		return err
	}
	s, err := c.consulState()
	if err != nil {
		return err
	}
	at := max(serviceIndex(s, name), 1) // Consul's indexes are never 0
	g, ok := s.Groups.Get(name)
	if !ok {
		return c.consulSend(at, []byte("[]\n"))
	}
	k := answerKey{form: form, service: name, filter: filter}
	body := c.s.directory.share(k, answerVersion{at, max(g.Revision, nodesRevision(s))}, func() []byte { return append(mustJSON(list(s, g)), '\n') })
	return c.consulSend(at, body)
}

// nodesRevision is when a node's row has changed last: the answers show their
// addresses and labels.
func nodesRevision(s *fsm.State) (newest uint64) {
	for _, n := range s.Nodes.All() {
		newest = max(newest, n.Revision)
	}
	return newest
}

func consulServices(c *call) error {
	if err := c.consulWait(allServices, c.s.directory.listIndex); err != nil {
		return err
	}
	at := c.s.directory.listIndex() // before the state: the answer is never older than it says
	s, err := c.consulState()
	if err != nil {
		return err
	}
	out := map[string][]string{}
	for name, g := range s.Groups.All() {
		out[name] = tagsOf(g)
	}
	return c.consulSend(at, append(mustJSON(out), '\n'))
}

func consulSelf(c *call) error {
	node := c.s.cfg.Node
	self := consulAgent{Config: consulAgentConfig{Datacenter: consulDatacenter, NodeName: node, NodeID: nodeID(node), Version: c.s.cfg.Version}}
	self.Member.Name = node
	if n, ok := c.s.cfg.Cluster.State().Nodes.Get(node); ok {
		self.Member.Addr, _, _ = net.SplitHostPort(n.API)
	}
	return c.json(http.StatusOK, self)
}

// consulWait blocks as Consul does: not at all with index 0, and never longer
// than ten minutes, whatever is asked.
func (c *call) consulWait(service string, at func() uint64) error {
	index, _ := strconv.ParseUint(c.query.Get("index"), 10, 63)
	if index == 0 {
		return nil
	}
	wait := consulDefaultWait
	if v := c.query.Get("wait"); v != "" {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return invalidField("query", "", "wait", "must be a duration such as 30s")
		}
		wait = min(d, maxWait)
	}
	// The index is one that we gave. When it is behind us, but the service's is
	// lower, the service was removed or the state restored since.
	if max(at(), 1) < index && c.s.cfg.Cluster.State().Index() >= index {
		return nil
	}
	return c.awaitFeed(service, at, index, wait)
}

func (c *call) consulState() (*fsm.State, error) {
	if c.flag("consistent") {
		c.query.Set("consistency", string(client.Strong))
	}
	return c.consistent()
}

// consulSend answers with the headers that Consul's clients read.
func (c *call) consulSend(index uint64, body []byte) error {
	h := c.c.Writer.Header()
	h.Set("X-Consul-Index", strconv.FormatUint(index, 10))
	h.Set("X-Consul-KnownLeader", strconv.FormatBool(c.s.cfg.Status().Leader != ""))
	h.Set("X-Consul-LastContact", strconv.FormatInt(max(c.stale, 0).Milliseconds(), 10))
	c.send(http.StatusOK, typeJSON, body)
	return nil
}

// tagsOf makes a group's labels its tags.
func tagsOf(g *fsm.Group) []string {
	tags := make([]string, 0, len(g.Labels))
	for k, v := range g.Labels {
		if v != "" {
			k += "=" + v
		}
		tags = append(tags, k)
	}
	slices.Sort(tags)
	return tags
}

// consulEndpoints lists a group's endpoints if it has all the tags.
func consulEndpoints(s *fsm.State, g *fsm.Group, tags []string) []client.ServiceEndpoint {
	have := tagsOf(g)
	for _, tag := range tags {
		if _, ok := g.Labels[tag]; !ok && !slices.Contains(have, tag) {
			return nil
		}
	}
	return endpointsOf(s, g.Name)
}
