//go:build linux

package e2e_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// How clients ask while a node vanishes.
const (
	visitRate   = 200 // a second at each proxy, both services together
	visitors    = 40  // sticky clients of each proxy
	visitsAhead = 400 // before the fault, of all proxies
	slowVisit   = 250 * time.Millisecond
	visitLimit  = 45 * time.Second // longer than a proxy waits for an answer
)

// services declares a stateless and a sticky service, each with two instances
// on every node of three, and waits until every proxy routes to both.
func services(t testing.TB, f *fleet) {
	t.Helper()
	for name, strategy := range map[string]string{"web": fsm.StickyStateless, "shop": fsm.StickyTable} {
		tmpl := sample()
		tmpl.Name = name
		_, err := f.any().PutTemplate(t.Context(), tmpl)
		must(t, err)
		_, err = f.any().PutGroup(t.Context(), fsm.Group{
			Name: name, Template: name, MinSize: 6, MaxSize: 9, Desired: 6,
			Service: &fsm.Service{Hosts: []string{name + ".test"}, Stickiness: fsm.Stickiness{Strategy: strategy}},
		})
		must(t, err)
	}
	for _, name := range []string{"web", "shop"} {
		f.converged(name)
		for _, n := range f.nodes {
			eventually(t, settleDeadline, n.name+" routes "+name, func() error { return visit(n, name, new(string)).err })
		}
	}
}

// visited is one request to a service, with its answer.
type visited struct {
	proxy    *node
	begun    time.Time
	took     time.Duration
	instance string
	err      error
}

// visit asks a service at a node's proxy; cookie is that of the client.
func visit(n *node, group string, cookie *string) (v visited) {
	v.proxy, v.begun = n, time.Now()
	defer func() { v.took = time.Since(v.begun) }()
	ctx, cancel := context.WithTimeout(context.Background(), visitLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.traffic()+"/whoami", nil)
	if err != nil {
		v.err = err
		return v
	}
	req.Host = group + ".test"
	if *cookie != "" {
		req.Header.Set("Cookie", "paceline="+*cookie)
	}
	resp, err := n.http.Do(req)
	if err != nil {
		v.err = err
		return v
	}
	body, err := readAll(resp.Body, nil)
	var who struct {
		Instance string `json:"instance"`
	}
	switch {
	case err != nil:
		v.err = err
	case resp.StatusCode != http.StatusOK:
		v.err = fmt.Errorf("%s answered %s: %s", n.name, resp.Status, body)
	case json.Unmarshal(body, &who) != nil || who.Instance == "":
		v.err = fmt.Errorf("no instance is named in %q", body)
	}
	for _, c := range resp.Cookies() {
		*cookie = c.Value
	}
	v.instance = who.Instance
	return v
}

// crowd is clients that ask proxies at a fixed rate, however long the answers
// take.
type crowd struct {
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	all  []visited
}

// throng starts clients of both services at some proxies.
func throng(nodes []*node) *crowd {
	ctx, stop := context.WithCancel(context.Background())
	c := &crowd{stop: stop}
	for _, n := range nodes {
		idle := make(chan *string, visitors)
		for range visitors {
			idle <- new(string)
		}
		c.wg.Go(func() {
			tick := time.NewTicker(time.Second / visitRate)
			defer tick.Stop()
			for k := 0; ; k++ {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				if k%2 == 0 {
					c.wg.Go(func() { c.note(visit(n, "web", new(string))) })
					continue
				}
				select {
				case cookie := <-idle: // one request at a time, as a browser's
					c.wg.Go(func() { c.note(visit(n, "shop", cookie)); idle <- cookie })
				default:
				}
			}
		})
	}
	return c
}

func (c *crowd) note(v visited) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, v)
}

func (c *crowd) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.all)
}

// more waits until some more requests are answered.
func (c *crowd) more(t testing.TB, n int) {
	t.Helper()
	from := c.count()
	eventually(t, settleDeadline, fmt.Sprintf("%d more answers", n), func() error {
		if got := c.count() - from; got < n {
			return fmt.Errorf("%d so far", got)
		}
		return nil
	})
}

// end waits for the requests under way and returns all.
func (c *crowd) end() []visited {
	c.stop()
	c.wg.Wait()
	return c.all
}

// series reads one of the proxy's series at a node, by instance.
func (n *node) series(name string) (map[string]float64, error) {
	ctx, cancel := n.ctx(2 * time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.api()+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close() //nolint:errcheck // read to its end
	out := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), "paceline_proxy_"+name+"{")
		if _, rest, _ = strings.Cut(rest, `instance="`); !ok {
			continue
		}
		id, _, _ := strings.Cut(rest, `"`)
		value, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return nil, err
		}
		out[id] += value
	}
	return out, lines.Err()
}

// total adds up a series of some instances at some nodes.
func total(nodes []*node, name string, ids map[string]bool) (sum float64, err error) {
	for _, n := range nodes {
		values, err := n.series(name)
		if err != nil {
			return 0, err
		}
		for id := range ids {
			sum += values[id]
		}
	}
	return sum, nil
}

// on are the instances of both services on a node.
func (f *fleet) on(n *node) map[string]bool {
	out := map[string]bool{}
	for _, group := range []string{"web", "shop"} {
		for _, i := range f.active(group) {
			if i.Node == n.name {
				out[i.ID] = true
			}
		}
	}
	return out
}

// allOut says which of some instances a node's proxy still uses.
func (n *node) allOut(ids map[string]bool) error {
	out, err := n.series("instance_ejected")
	if err != nil {
		return err
	}
	for id := range ids {
		if out[id] == 0 {
			return fmt.Errorf("%s still uses %s", n.name, id)
		}
	}
	return nil
}

// freeze stops a node and its instances, thaw lets them go on.
func (n *node) freeze() { n.signalAll(syscall.SIGSTOP) }
func (n *node) thaw()   { n.signalAll(syscall.SIGCONT) }

func (n *node) signalAll(sig syscall.Signal) {
	n.f.t.Helper()
	n.signal(sig)
	for _, r := range n.records() {
		if r.PID > 0 && isInstance(r.PID, r.ID) {
			must(n.f.t, syscall.Kill(r.PID, sig))
		}
	}
}

// vanishing is what a node's end looked like to the others.
type vanishing struct {
	out                  []time.Duration // until a proxy had all instances out
	late                 []time.Duration // when the last request began that was held up, by proxy
	worst, noise         time.Duration   // the slowest answer since then, and before
	suspect, dead, state time.Duration   // what gossip and the state said
	answers, slow        int
	failed               []error
}

// vanish strikes one node under load, and watches until its row says so.
func vanish(t *testing.T, f *fleet, strike, heal func(*node)) (r vanishing) {
	t.Helper()
	leader := f.leader()
	victim := f.others(leader)[0]
	others := f.others(victim)
	ids := f.on(victim)
	c := throng(others)
	c.more(t, visitsAhead)
	strike(victim)
	at := time.Now()
	var wg sync.WaitGroup
	r.out = make([]time.Duration, len(others))
	for k, n := range others {
		wg.Go(func() {
			for n.allOut(ids) != nil && f.rowOf(leader, victim) != fsm.NodeStateDown {
				<-time.After(pollPause)
			}
			r.out[k] = time.Since(at)
		})
	}
	for r.state == 0 {
		st, err := leader.status()
		for _, m := range st.Members {
			if err == nil && m.Name == victim.name {
				if m.Status != "alive" && r.suspect == 0 {
					r.suspect = time.Since(at)
				}
				if m.Status == "dead" && r.dead == 0 {
					r.dead = time.Since(at)
				}
			}
		}
		if f.rowOf(leader, victim) == fsm.NodeStateDown {
			r.state = time.Since(at)
		}
		<-time.After(pollPause)
	}
	wg.Wait()
	c.more(t, visitsAhead)
	r.late = make([]time.Duration, len(others))
	for _, v := range c.end() {
		r.answers++
		if v.err != nil {
			r.failed = append(r.failed, v.err)
		}
		if v.begun.Add(v.took).Before(at) {
			r.noise = max(r.noise, v.took)
			continue
		}
		r.worst = max(r.worst, v.took)
		if v.took > slowVisit {
			r.slow++
			k := slices.Index(others, v.proxy)
			r.late[k] = max(r.late[k], v.begun.Sub(at))
		}
	}
	heal(victim)
	f.whole()
	for _, group := range []string{"web", "shop"} {
		f.converged(group)
	}
	return r
}

func (f *fleet) rowOf(by, n *node) fsm.NodeState {
	ctx, cancel := by.ctx(2 * time.Second)
	defer cancel()
	row, err := by.cli().GetNode(ctx, n.name, client.Once())
	if err != nil {
		return ""
	}
	return row.State
}

// ends are the ways in which a node stops answering without a word.
var ends = []struct {
	name         string
	strike, heal func(f *fleet, w *network, n *node)
}{
	{"vanished", func(f *fleet, w *network, n *node) {
		for _, o := range f.others(n) {
			w.cut(n, o)
		}
	}, func(f *fleet, w *network, _ *node) { w.join(f.nodes...) }},
	{"frozen", func(_ *fleet, _ *network, n *node) { n.freeze() }, func(_ *fleet, _ *network, n *node) { n.thaw() }},
}

// TestVanishedNode takes a node from the network, or stops all its processes,
// under load: the proxies of the others take its instances out by themselves,
// before the cluster says that it is down; no request fails, and none goes to
// these instances any more.
func TestVanishedNode(t *testing.T) {
	quick(t)
	for _, k := range ends {
		t.Run(k.name, func(t *testing.T) {
			f, w := cutFleet(t, 3)
			services(t, f)
			leader := f.leader()
			victim := f.others(leader)[0]
			others, ids := f.others(victim), f.on(victim)
			if len(ids) == 0 {
				t.Fatalf("%s has no instances", victim.name)
			}
			c := throng(others)
			c.more(t, visitsAhead)
			k.strike(f, w, victim)
			eventually(t, settleDeadline, "the end of the requests to "+victim.name, func() error {
				for _, n := range others {
					if err := n.allOut(ids); err != nil {
						return err
					}
				}
				under, err := total(others, "instance_requests_in_flight", ids)
				if err == nil && under > 0 {
					err = fmt.Errorf("%v wait for an answer", under)
				}
				return err
			})
			if f.rowOf(leader, victim) == fsm.NodeStateDown {
				t.Error("the cluster was as quick as the proxies: nothing is shown of these")
			}
			failures, err := total(others, "instance_failures_total", ids)
			must(t, err)
			c.more(t, visitsAhead)
			after, err := total(others, "instance_failures_total", ids)
			must(t, err)
			if after > failures {
				t.Errorf("%v attempts at instances of %s failed after they were out", after-failures, victim.name)
			}
			for _, v := range c.end() {
				if v.err != nil {
					t.Error("a request failed:", v.err)
				}
			}
			k.heal(f, w, victim)
		})
	}
}

// TestMeasureVanish prints how long a node that vanished, or froze, holds up
// clients of the other nodes. It asserts that no request failed, and no times.
func TestMeasureVanish(t *testing.T) {
	full(t)
	for _, k := range ends {
		t.Run(k.name, func(t *testing.T) {
			for range trials(3) {
				f, w := cutFleet(t, 3) // after a death all instances are elsewhere
				services(t, f)
				r := vanish(t, f, func(n *node) { k.strike(f, w, n) }, func(n *node) { k.heal(f, w, n) })
				f.close()
				t.Logf("%s: instances out at %v; last request held up begun at %v; %d of %d took over %v, the worst %v (before: %v); gossip suspects at %v, dead at %v, down in the state at %v; failed %d",
					k.name, r.out, r.late, r.slow, r.answers, slowVisit, r.worst, r.noise, r.suspect, r.dead, r.state, len(r.failed))
				if len(r.failed) > 0 {
					t.Errorf("%d requests failed, such as: %v", len(r.failed), errors.Join(r.failed[:min(3, len(r.failed))]...))
				}
			}
		})
	}
}
