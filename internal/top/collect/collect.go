package collect

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/top"
)

// Config is how to read a cluster.
type Config struct {
	// Endpoints are where the user says that nodes answer, as base URLs.
	Endpoints []string
	// Connect makes the client of one endpoint.
	Connect func(endpoint string) (*client.Client, error)
	// Within bounds each half of a reading: the cluster's, then the nodes'.
	Within time.Duration
	// Now is the clock.
	Now func() time.Time
}

// Collector reads a cluster again and again. One goroutine uses it.
type Collector struct {
	cfg    Config
	scheme string
	// clients are by endpoint.
	clients map[string]*client.Client
	// order lists the endpoints to ask for the cluster's part, the one that
	// answered last first.
	order []string
	// at has the endpoint of the user for a node that answers there and not
	// at its own address.
	at map[string]string
	// lost says that a node did not answer last time, or that none was asked.
	lost bool
	// last is what the cluster told last, for while it tells nothing.
	last cluster
}

// cluster is what any node can tell.
type cluster struct {
	leader    string
	nodes     []fsm.Node
	groups    []fsm.Group
	instances []fsm.Instance
	cut       bool
}

// New makes a collector. It does not connect.
func New(cfg Config) *Collector {
	k := &Collector{cfg: cfg, scheme: "http", clients: map[string]*client.Client{}, at: map[string]string{}, lost: true}
	k.order = slices.Clone(cfg.Endpoints)
	if len(k.order) > 0 {
		k.scheme, _, _ = strings.Cut(k.order[0], "://")
	}
	return k
}

// Close drops the connections.
func (k *Collector) Close() {
	for _, c := range k.clients {
		c.Close()
	}
}

// Read takes a reading. It fails only when there is nothing to show: no node
// has answered yet.
func (k *Collector) Read(ctx context.Context) (*top.Reading, error) {
	problem := ""
	now, err := k.ask(ctx)
	switch {
	case err == nil:
		k.last = *now
	case len(k.last.nodes) == 0:
		return nil, err
	default:
		problem = "groups and instances are of an earlier time: " + err.Error()
	}
	if k.last.cut {
		problem = fmt.Sprintf("only the first %d groups and instances are shown", maxRows)
	}
	r := &top.Reading{Leader: k.last.leader, Groups: k.last.groups, Instances: k.last.instances, Problem: problem}
	r.Nodes = k.scrapeAll(ctx, k.last.nodes)
	r.At = k.cfg.Now()
	return r, nil
}

// ask asks one endpoint after the other for the cluster's part, each for its
// share of the time.
func (k *Collector) ask(ctx context.Context) (*cluster, error) {
	var first error
	tried := min(len(k.order), maxAsked)
	for range tried {
		endpoint := k.order[0]
		c, err := k.client(endpoint)
		var now *cluster
		if err == nil {
			now, err = askOne(ctx, c, k.cfg.Within/time.Duration(tried))
		}
		if err == nil {
			k.learn(now.nodes)
			return now, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if first == nil {
			first = err
		}
		k.order = append(k.order[1:], endpoint)
	}
	return nil, first
}

func askOne(ctx context.Context, c *client.Client, within time.Duration) (*cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	status, err := c.Cluster(ctx, client.Once())
	if err != nil {
		return nil, err
	}
	now := &cluster{leader: status.Leader}
	var cut [3]bool
	if now.nodes, cut[0], err = all(ctx, c.ListNodes, maxNodes); err != nil {
		return nil, err
	}
	if now.groups, cut[1], err = all(ctx, c.ListGroups, maxRows); err != nil {
		return nil, err
	}
	now.instances, cut[2], err = all(ctx, c.ListInstances, maxRows)
	now.cut = slices.Contains(cut[:], true)
	return now, err
}

// all reads a listing up to a number of rows, and says whether there are more.
func all[T any](ctx context.Context, list func(context.Context, ...client.Option) (*client.List[T], error), most int) (out []T, cut bool, err error) {
	for item, err := range client.Pages(ctx, list, client.WithLimit(maxPage), client.Once()) {
		if err != nil {
			return nil, false, err
		}
		if len(out) == most {
			return out, true, nil
		}
		out = append(out, item)
	}
	return out, false, nil
}

// learn adds the addresses of nodes to the endpoints, and forgets those of
// nodes that are gone.
func (k *Collector) learn(nodes []fsm.Node) {
	known := slices.Clone(k.cfg.Endpoints)
	for i := range nodes {
		known = append(known, k.scheme+"://"+nodes[i].API)
	}
	k.order = slices.DeleteFunc(k.order, func(e string) bool { return !slices.Contains(known, e) })
	for _, e := range known {
		if !slices.Contains(k.order, e) {
			k.order = append(k.order, e)
		}
	}
	for e, c := range k.clients {
		if !slices.Contains(known, e) {
			c.Close()
			delete(k.clients, e)
		}
	}
}

func (k *Collector) client(endpoint string) (*client.Client, error) {
	if c := k.clients[endpoint]; c != nil {
		return c, nil
	}
	c, err := k.cfg.Connect(endpoint)
	if err == nil {
		k.clients[endpoint] = c
	}
	return c, err
}

// answer is what came from one endpoint.
type answer struct {
	endpoint string
	servedBy string
	sample   *top.Sample
	err      error
}

// scrapeAll reads the metrics of all nodes, each at its own address. Where
// that does not answer, the endpoints of the user may: the addresses of nodes
// in containers often mean nothing outside.
func (k *Collector) scrapeAll(ctx context.Context, nodes []fsm.Node) []top.NodeReading {
	var ask []string
	if k.lost {
		ask = append(ask, k.cfg.Endpoints...)
	}
	for i := range nodes {
		ask = append(ask, k.addressOf(&nodes[i]))
	}
	slices.Sort(ask)
	answers := k.fetch(ctx, slices.Compact(ask))
	k.lost = false
	out := make([]top.NodeReading, 0, len(nodes))
	for i := range nodes {
		n := &nodes[i]
		row := top.NodeReading{Name: n.Name, State: string(n.State)}
		own := answers[k.addressOf(n)]
		if a := k.answerOf(n.Name, own, answers); a != nil {
			row.Sample = a.sample
		} else {
			row.Problem = problemOf(own)
			k.lost = true
			delete(k.at, n.Name)
		}
		out = append(out, row)
	}
	return out
}

// answerOf finds the answer of a node, and remembers where it was.
func (k *Collector) answerOf(node string, own *answer, all map[string]*answer) *answer {
	if own.of(node) {
		return own
	}
	for _, e := range k.cfg.Endpoints {
		if a := all[e]; a.of(node) {
			k.at[node] = e
			return a
		}
	}
	return nil
}

// of reports whether it is a good answer of a node.
func (a *answer) of(node string) bool { return a != nil && a.err == nil && a.servedBy == node }

func (k *Collector) addressOf(n *fsm.Node) string {
	if e, ok := k.at[n.Name]; ok {
		return e
	}
	return k.scheme + "://" + n.API
}

func problemOf(a *answer) string {
	if a.err != nil {
		return a.err.Error()
	}
	return fmt.Sprintf("%s is the address of node %q", a.endpoint, a.servedBy)
}

// fetch asks endpoints for their metrics, all at once.
func (k *Collector) fetch(ctx context.Context, endpoints []string) map[string]*answer {
	ctx, cancel := context.WithTimeout(ctx, k.cfg.Within)
	defer cancel()
	out := make(map[string]*answer, len(endpoints))
	slots := make(chan struct{}, maxScrapes)
	var wg sync.WaitGroup
	for _, e := range endpoints {
		a := &answer{endpoint: e}
		out[e] = a
		c, err := k.client(e)
		if err != nil {
			a.err = err
			continue
		}
		wg.Go(func() {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				a.scrape(ctx, c, k.cfg.Now)
			case <-ctx.Done():
				a.err = ctx.Err()
			}
		})
	}
	wg.Wait()
	return out
}

func (a *answer) scrape(ctx context.Context, c *client.Client, now func() time.Time) {
	got, err := c.Raw(ctx, http.MethodGet, "/metrics", nil, client.Once())
	if err != nil {
		a.err = err
		return
	}
	a.servedBy = got.ServedBy
	a.sample, a.err = top.Parse(bytes.NewReader(got.Body), now())
}
