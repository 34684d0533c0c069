//go:build linux

package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// refuses starts a node that has to end by itself, with a status that is not 0
// and a message that holds a text.
func (n *node) refuses(text string) {
	n.f.t.Helper()
	n.start()
	code := n.gone()
	said := n.tail(40)
	if code == 0 || !strings.Contains(said, text) {
		n.f.t.Errorf("%s ended with status %d; want another than 0 and %q in:\n%s", n.name, code, text, said)
	}
	if strings.Contains(said, "goroutine ") {
		n.f.t.Errorf("%s crashed:\n%s", n.name, said)
	}
	n.f.t.Logf("%s", n.tail(1))
}

// TestForeignData starts nodes with data that is not theirs.
func TestForeignData(t *testing.T) {
	quick(t)
	f := running(t, 3)
	other := running(t, 3)
	n := f.nodes[2]
	n.term()
	mine := filepath.Join(f.dir, "mine")
	must(t, os.Rename(n.dir, mine))

	t.Run("of another cluster", func(t *testing.T) {
		other.nodes[2].term()
		must(t, os.CopyFS(n.dir, os.DirFS(other.nodes[2].dir)))
		n.refuses("another cluster")
		must(t, os.RemoveAll(n.dir))
	})
	t.Run("of another node", func(t *testing.T) {
		other.nodes[1].term()
		must(t, os.CopyFS(n.dir, os.DirFS(other.nodes[1].dir)))
		n.refuses("belongs to node n2")
		must(t, os.RemoveAll(n.dir))
	})
	t.Run("of a newer version", func(t *testing.T) {
		must(t, os.CopyFS(n.dir, os.DirFS(mine)))
		alter(t, filepath.Join(n.dir, "raft", "cluster.json"), func(b []byte) []byte {
			var id map[string]any
			must(t, json.Unmarshal(b, &id))
			id["format"] = 99
			b, err := json.Marshal(id)
			must(t, err)
			return b
		})
		n.refuses("format 99")
		must(t, os.RemoveAll(n.dir))
	})
	t.Run("of a node that runs", func(t *testing.T) {
		ip, dir, name := n.ip, n.dir, n.name
		defer func() { n.ip, n.dir, n.name = ip, dir, name }()
		n.dir, n.name = f.nodes[0].dir, "n1"
		n.refuses("is used by another")
	})
	must(t, os.Rename(mine, n.dir))
	n.start()
	f.whole()
	f.equalStates()
}

// TestTwin starts a second node with the name of one that runs. The second
// gives way and the first does not notice.
func TestTwin(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	twin := &node{f: f, name: "n1", zone: "a", ip: freeIP(t), dir: filepath.Join(f.dir, "twin")}
	t.Cleanup(twin.end)
	twin.refuses("already running")
	l.goesOn(20)
	if !f.nodes[0].runs() {
		t.Error("the first n1 has ended")
	}
	f.whole()
	l.finish(true)
}

// TestBusyPorts starts nodes whose ports are taken.
func TestBusyPorts(t *testing.T) {
	quick(t)
	f := newFleet(t, 1)
	n := f.nodes[0]
	for _, addr := range []string{n.api(), n.peer(), n.gossip()} {
		l, err := net.Listen("tcp", addr)
		must(t, err)
		n.refuses(addr)
		must(t, l.Close())
	}
	n.start()
	f.whole()
}

// TestOpenBind refuses to serve other machines by accident.
func TestOpenBind(t *testing.T) {
	quick(t)
	out, code := paceline(t.Context(), "agent", "--name", "n1", "--data-dir", t.TempDir(), "--api-addr", "0.0.0.0:0", "--peer-addr", "127.0.0.1:0", "--gossip-addr", "127.0.0.1:0")
	if code == 0 || !strings.Contains(out, "--insecure") {
		t.Errorf("status %d: %s", code, out)
	}
}

// TestUnreachableJoin starts one node of three: it says whom it waits for,
// tries again and again, and is part of the cluster once the others are there.
func TestUnreachableJoin(t *testing.T) {
	quick(t)
	f := newFleet(t, 3)
	first := f.nodes[0]
	first.start()
	first.says("can not be reached; it will be tried again")
	eventually(t, settleDeadline, "the node saying what it waits for", func() error { return first.complains("1 of 3 expected nodes") })
	f.nodes[1].start()
	f.nodes[2].start()
	f.whole()
}

// TestNoQuorum takes two nodes of three away. The last one says so at once
// when it is written to, and answers stale reads.
func TestNoQuorum(t *testing.T) {
	quick(t)
	f := running(t, 3)
	_, err := put(t.Context(), f.any(), "known", "1")
	must(t, err)
	last := f.others(f.leader())[0]
	_, err = put(t.Context(), last.cli(), "known", "2") // it knows what it has acknowledged
	must(t, err)
	for _, n := range f.others(last) {
		n.kill()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*attemptDeadline)
	defer cancel()
	begun := time.Now()
	_, err = put(ctx, last.cli(), "unknown", "1", client.Once())
	t.Logf("a write was refused after %s: %v", time.Since(begun).Round(time.Millisecond), err)
	if p := problem(t, err); p.Status != 503 || p.Hint == "" {
		t.Errorf("a write gives %d %q, hint %q; want 503 with a hint", p.Status, p.Detail, p.Hint)
	}
	begun = time.Now()
	_, err = last.cli().GetTemplate(ctx, "known", client.Once(), client.WithConsistency(client.Strong))
	t.Logf("a strong read was refused after %s: %v", time.Since(begun).Round(time.Millisecond), err)
	if p := problem(t, err); p.Status != 503 || p.Hint == "" {
		t.Errorf("a strong read gives %d %q, hint %q; want 503 with a hint", p.Status, p.Detail, p.Hint)
	}
	var meta client.Meta
	_, err = last.cli().GetTemplate(ctx, "known", client.Once(), client.Capture(&meta))
	if err != nil || meta.Stale == 0 {
		t.Errorf("a stale read gives %v, age %s", err, meta.Stale)
	}
	_, err = last.cli().GetTemplate(ctx, "known", client.Once(), client.WithMaxStale(time.Millisecond))
	if p := problem(t, err); p.Status != 503 {
		t.Errorf("a read that must not be old gives %d", p.Status)
	}
	if last.ready() == nil {
		t.Error("the node says that it is ready")
	}
	for _, n := range f.others(last) {
		n.start()
	}
	f.whole()
	_, err = f.any().GetTemplate(t.Context(), "unknown", client.WithConsistency(client.Strong))
	t.Logf("the refused write was, after all: %v", err)
}

// TestBadRequests sends what no node may accept.
func TestBadRequests(t *testing.T) {
	quick(t)
	f := running(t, 1)
	c := f.nodes[0].cli()
	declare(t, f, "web", 1, 3, sample())
	f.converged("web")
	group := func(fields string) string { return `{"name":"web","template":"web",` + fields + `}` }
	cases := []struct {
		name, method, path, body string
		status                   int
		opts                     []client.Option
	}{
		{"unknown field", "PUT", "/v1/groups/web", group(`"minSize":1,"maxSize":2,"desired":1,"size":3`), 422, nil},
		{"wrong type", "PUT", "/v1/groups/web", group(`"minSize":"one","maxSize":2`), 422, nil},
		{"not JSON", "PUT", "/v1/groups/web", `{"name":`, 422, nil},
		{"two documents", "PUT", "/v1/groups/web", group(`"minSize":1,"maxSize":2,"desired":1`) + `{}`, 422, nil},
		{"min above max", "PUT", "/v1/groups/web", group(`"minSize":3,"maxSize":2,"desired":3`), 422, nil},
		{"desired above max", "POST", "/v1/groups/web/scale", `{"desired":4}`, 422, nil},
		{"desired below min", "POST", "/v1/groups/web/scale", `{"desired":0}`, 422, nil},
		{"a bad name", "PUT", "/v1/groups/Web_1", `{"name":"Web_1","template":"web","minSize":0,"maxSize":1,"desired":0}`, 422, nil},
		{"an unknown template", "PUT", "/v1/groups/other", `{"name":"other","template":"nothing","minSize":0,"maxSize":1,"desired":0}`, 404, nil},
		{"a template in use", "DELETE", "/v1/templates/web", ``, 409, nil},
		{"a negative cooldown", "PUT", "/v1/groups/web/policies/p", `{"group":"web","name":"p","metric":"cpu","operator":"greater","threshold":1,"direction":"up","adjustment":1,"cooldown":"-5s"}`, 422, nil},
		{"a metric that is no number", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":NaN}]}`, 422, nil},
		{"an infinite metric", "POST", "/v1/groups/web/metrics", `{"samples":[{"metric":"cpu","value":1e999}]}`, 422, nil},
		{"a body over 1 MiB", "PUT", "/v1/templates/big", `{"name":"big","userData":"` + strings.Repeat("x", 1<<20) + `"}`, 413, nil},
		{"an old revision", "PUT", "/v1/groups/web", group(`"minSize":1,"maxSize":2,"desired":1`), 412, []client.Option{client.IfRevision(1)}},
		{"an unknown path", "GET", "/v1/nothing", ``, 404, nil},
		{"an unknown method", "DELETE", "/v1/cluster", ``, 405, nil},
		{"an unknown group", "GET", "/v1/groups/nothing", ``, 404, nil},
		{"an unknown consistency", "GET", "/v1/groups/web?consistency=perfect", ``, 422, nil},
	}
	before := described(t, c)
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			_, err := c.Raw(t.Context(), k.method, k.path, []byte(k.body), append(k.opts, client.Once())...)
			p := problem(t, err)
			if p.Status != k.status || p.Title == "" || p.Code == "" || p.RequestID == "" || (p.Detail == "" && len(p.Errors) == 0) {
				t.Errorf("got %d %q %q (%s), want %d", p.Status, p.Code, p.Detail, p.RequestID, k.status)
			}
			t.Logf("%d %s: %s — %s", p.Status, p.Title, p.Error(), p.Hint)
		})
	}
	if after := described(t, c); after != before {
		t.Errorf("a refused request has changed something:\n%s\nbefore:\n%s", after, before)
	}
}

// described is all that users have declared, as text.
func described(t testing.TB, c *client.Client) string {
	t.Helper()
	text := ""
	for _, path := range []string{"/v1/templates", "/v1/groups", "/v1/groups/web/policies"} {
		a, err := c.Raw(t.Context(), "GET", path, nil)
		must(t, err)
		text += string(a.Body)
	}
	return text
}

// TestOnce sends writes again under the same Idempotency-Key, to every node
// and after a change of leader: the answer is that of the first one.
func TestOnce(t *testing.T) {
	quick(t)
	f := running(t, 3)
	_, err := put(t.Context(), f.any(), "idle", "")
	must(t, err)
	_, err = f.any().PutGroup(t.Context(), fsm.Group{Name: "size", Template: "idle", MaxSize: 100, Zones: []string{"nowhere"}})
	must(t, err)
	zero := 0
	again := func(n *node) error {
		if _, err := put(t.Context(), n.cli(), "made", "1", client.IfAbsent(), client.WithIdempotencyKey("create"), client.Once()); err != nil {
			return fmt.Errorf("create at %s: %w", n.name, err)
		}
		if _, err := n.cli().ScaleGroup(t.Context(), "size", client.ScaleRequest{Desired: 7, From: &zero}, client.WithIdempotencyKey("scale"), client.Once()); err != nil {
			return fmt.Errorf("scale at %s: %w", n.name, err)
		}
		return nil
	}
	for range 2 {
		for _, n := range f.nodes {
			if err := again(n); err != nil {
				t.Error(err)
			}
		}
	}
	leader := f.leader()
	leader.kill()
	for _, n := range f.others(leader) {
		if err := again(n); err != nil {
			t.Error(err)
		}
	}
	leader.start()
	f.whole()
	for _, n := range f.nodes {
		if err := again(n); err != nil {
			t.Error(err)
		}
	}
	g, err := f.any().GetGroup(t.Context(), "size", client.WithConsistency(client.Strong))
	must(t, err)
	made, err := f.any().GetTemplate(t.Context(), "made", client.WithConsistency(client.Strong))
	must(t, err)
	if g.Desired != 7 || made.Version != 1 {
		t.Errorf("the size is %d and the template has version %d; want 7 and 1", g.Desired, made.Version)
	}
}

// TestHangingClients opens connections that send nothing: others are served,
// and a node that is told to stop does not wait for them.
func TestHangingClients(t *testing.T) {
	quick(t)
	f := running(t, 3)
	n := f.leader()
	for range 200 {
		conn, err := net.Dial("tcp", n.api())
		must(t, err)
		defer conn.Close() //nolint:errcheck // it was idle
		_, err = conn.Write([]byte("PUT /v1/templates/x HTTP/1.1\r\nHost: x\r\n"))
		must(t, err)
	}
	_, err := put(t.Context(), n.cli(), "served", "1", client.Once())
	must(t, err)
	n.signal(syscall.SIGTERM)
	if code := n.gone(); code != 0 {
		t.Errorf("it ended with status %d", code)
	}
	_, err = put(t.Context(), f.client(f.others(n)...), "served", "2")
	must(t, err)
}
