//go:build linux

package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// stickyGroup declares group web of three instances whose sessions are sticky,
// and waits until every node routes to all of them.
func stickyGroup(t testing.TB, f *fleet) {
	t.Helper()
	tmpl := sample()
	tmpl.Name = "web"
	_, err := f.any().PutTemplate(t.Context(), tmpl)
	must(t, err)
	_, err = f.any().PutGroup(t.Context(), fsm.Group{
		Name: "web", Template: "web", MinSize: 3, MaxSize: 6, Desired: 3,
		Service: &fsm.Service{Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable}},
	})
	must(t, err)
	f.converged("web")
	for _, n := range f.nodes {
		n.routes()
	}
}

// routes waits until a node's proxy gives sessions to instances.
func (n *node) routes() {
	n.f.t.Helper()
	eventually(n.f.t, settleDeadline, "sticky routing by "+n.name, func() error {
		b := &browser{}
		if _, err := b.ask(n); err != nil {
			return err
		}
		if b.cookie == "" {
			return errors.New("no cookie was set")
		}
		return nil
	})
}

// browser is a client with one cookie, as a node's proxy sets it.
type browser struct {
	cookie string
	at     string // the instance that answered last
}

// ask sends a request through a node's proxy and returns the instance that
// answered.
func (b *browser) ask(n *node) (string, error) {
	ctx, cancel := n.ctx(settleDeadline)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.traffic()+"/whoami", nil)
	if err != nil {
		return "", err
	}
	if b.cookie != "" {
		req.Header.Set("Cookie", "paceline="+b.cookie)
	}
	resp, err := n.http.Do(req)
	if err != nil {
		return "", err
	}
	body, err := readAll(resp.Body, nil)
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answered %s: %s", n.name, resp.Status, body)
	}
	for _, c := range resp.Cookies() {
		if c.Name == "paceline" {
			b.cookie = c.Value
		}
	}
	var who struct {
		Instance string `json:"instance"`
	}
	if err := json.Unmarshal(body, &who); err != nil || who.Instance == "" {
		return "", fmt.Errorf("no instance is named in %q", body)
	}
	b.at = who.Instance
	return b.at, nil
}

// spread counts browsers by their instance.
func spread(list []*browser) map[string]int {
	count := map[string]int{}
	for _, b := range list {
		count[b.at]++
	}
	return count
}

// open makes browsers, each with its first request at another node in turn.
func open(t testing.TB, nodes []*node, count int) []*browser {
	t.Helper()
	list := make([]*browser, count)
	for k := range list {
		list[k] = &browser{}
		_, err := list[k].ask(nodes[k%len(nodes)])
		must(t, err)
		if list[k].cookie == "" {
			t.Fatalf("browser %d got no cookie", k)
		}
	}
	return list
}

// stay asks every node for every browser: none may change its instance.
func stay(t testing.TB, nodes []*node, list []*browser) {
	t.Helper()
	for k, b := range list {
		was := b.at
		for _, n := range nodes {
			is, err := b.ask(n)
			must(t, err)
			if is != was {
				t.Fatalf("browser %d went from %s to %s at %s", k, was, is, n.name)
			}
		}
	}
}

// even fails when instances have numbers of sessions that differ by more than
// some.
func even(t testing.TB, count map[string]int, instances, apart int) {
	t.Helper()
	least, most := 1<<30, 0
	for _, n := range count {
		least, most = min(least, n), max(most, n)
	}
	if len(count) != instances || most-least > apart {
		t.Errorf("sessions are not spread evenly over %d instances: %v", instances, count)
	}
}

// TestStickySessions has 200 clients of three proxies: each stays with its
// instance whichever node it asks, when instances, the leader and all nodes
// are killed.
func TestStickySessions(t *testing.T) {
	quick(t)
	f := running(t, 3)
	stickyGroup(t, f)
	list := open(t, f.nodes, 200)
	even(t, spread(list), 3, 3) // and those that waited for the routing
	stay(t, f.nodes, list)

	// One instance's process is killed: its sessions move, and no others.
	victim := list[0].at
	before := make([]string, len(list))
	for k, b := range list {
		before[k] = b.at
	}
	must(t, syscall.Kill(f.pids("web")[victim], syscall.SIGKILL))
	f.lost("web", victim)
	moved := map[string]int{}
	for k, b := range list {
		is, err := b.ask(f.nodes[k%3])
		must(t, err)
		switch {
		case is == victim:
			t.Fatalf("browser %d is at an instance that was killed", k)
		case before[k] == victim:
			moved[is]++
		case is != before[k]:
			t.Errorf("browser %d went from %s to %s, and %s was killed", k, before[k], is, victim)
		}
	}
	t.Logf("%d sessions of the killed instance went to %v", spread2(before, victim), moved)
	even(t, moved, len(moved), len(list)/20) // with the replacement, or before it
	if len(moved) < 2 {
		t.Errorf("the sessions went to %v", moved)
	}
	stay(t, f.nodes, list)
	f.converged("web")

	killLeaderUnder(t, f, list)
	for _, n := range f.nodes {
		n.kill()
	}
	f.startAll()
	f.whole()
	f.converged("web")
	for _, n := range f.nodes {
		n.routes()
	}
	stay(t, f.nodes, list)
	stats, err := f.any().SessionStats(t.Context(), "web", client.WithConsistency(client.Strong))
	must(t, err)
	if stats.Sessions < len(list) || stats.Homeless != 0 {
		t.Errorf("after all nodes were killed: %+v", stats)
	}
}

// spread2 counts the browsers that were at an instance.
func spread2(at []string, instance string) (n int) {
	for _, is := range at {
		if is == instance {
			n++
		}
	}
	return n
}

// lost waits until the state has an instance as ended, and has moved its
// sessions.
func (f *fleet) lost(group, id string) {
	f.t.Helper()
	eventually(f.t, settleDeadline, "the end of instance "+id, func() error {
		for _, n := range f.nodes {
			s, err := n.cli().SessionStats(f.t.Context(), group)
			if err != nil {
				return err
			}
			for _, slot := range s.Slots {
				if slot.Instance == id && slot.Sessions > 0 {
					return fmt.Errorf("%s: it has %d sessions", n.name, slot.Sessions)
				}
			}
		}
		return nil
	})
}

// killLeaderUnder kills the leader while the clients of the other nodes go on:
// not one of their requests may fail or reach another instance.
func killLeaderUnder(t *testing.T, f *fleet, list []*browser) {
	t.Helper()
	leader := f.leader()
	others := f.others(leader)
	var asked atomic.Int64
	ctx, end := context.WithCancel(t.Context())
	defer end()
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for k := w; ctx.Err() == nil; k = (k + 4) % len(list) {
				b := list[k]
				was := b.at
				is, err := b.ask(others[k%2])
				if err != nil || is != was {
					t.Errorf("browser %d was at %s: %s, %v", k, was, is, err)
					return
				}
				asked.Add(1)
			}
		})
	}
	more := func(n int64) {
		t.Helper()
		from := asked.Load()
		eventually(t, settleDeadline, "requests that go on", func() error {
			if asked.Load() < from+n {
				return fmt.Errorf("%d requests", asked.Load()-from)
			}
			return nil
		})
	}
	more(200)
	leader.kill()
	more(200)
	f.leaderAmong(others...)
	more(400)
	end()
	wg.Wait()
	t.Logf("%d requests around the death of the leader", asked.Load())
	leader.start()
	f.whole()
	f.converged("web")
	leader.routes()
}

// TestRacingSessions lets two nodes place the same new session at the same
// moment, by the API: they never say two things.
func TestRacingSessions(t *testing.T) {
	quick(t)
	f := running(t, 3)
	stickyGroup(t, f)
	const races = 300
	var wg sync.WaitGroup
	turns := make(chan int)
	for range 8 {
		wg.Go(func() {
			for race := range turns {
				f.race(t, fmt.Sprintf("race-%d", race), race)
			}
		})
	}
	for race := range races {
		turns <- race
	}
	close(turns)
	wg.Wait()
	stats, err := f.any().SessionStats(t.Context(), "web", client.WithConsistency(client.Strong))
	must(t, err)
	count := map[string]int{}
	for _, slot := range stats.Slots {
		count[slot.Instance] = slot.Sessions
	}
	even(t, count, 3, 1)
	if int(stats.Assigned) != stats.Sessions || stats.Sessions < races {
		t.Errorf("%+v", stats)
	}
}

// race routes one new session at two nodes at once.
func (f *fleet) race(t testing.TB, id string, n int) {
	var got [2]*client.SessionRoute
	var errs [2]error
	var pair sync.WaitGroup
	begin := make(chan struct{})
	for k := range got {
		pair.Go(func() {
			<-begin
			got[k], errs[k] = f.nodes[(n+k)%3].cli().RouteSession(t.Context(), "web", id)
		})
	}
	close(begin)
	pair.Wait()
	switch {
	case errs[0] != nil || errs[1] != nil:
		t.Errorf("%s: %v, %v", id, errs[0], errs[1])
	case got[0].Instance != got[1].Instance || got[0].Address != got[1].Address || got[0].Created == got[1].Created:
		t.Errorf("%s: %+v and %+v", id, *got[0], *got[1])
	}
}
