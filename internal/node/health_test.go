package node_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

const patience = 30 * time.Second

// running waits until a group has n instances of a health, and returns them.
func running(t *testing.T, n *node.Node, group string, want int, health fsm.Health) []*fsm.Instance {
	t.Helper()
	var list []*fsm.Instance
	eventually(t, fmt.Sprintf("group %s has %d %s instances", group, want, health), func() bool {
		list = nil
		for _, i := range n.Cluster().State().InstancesOf(group) {
			if i.State == fsm.Running && i.Health == health {
				list = append(list, i)
			}
		}
		return len(list) >= want
	})
	return list
}

// clientOf speaks to one node.
func clientOf(t *testing.T, n *node.Node) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Endpoints: []string{"http://" + n.API()}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// propose has the first node apply commands.
func propose(t *testing.T, nodes []*node.Node, list ...fsm.Command) {
	t.Helper()
	for _, cmd := range list {
		if _, err := nodes[0].Cluster().Propose(t.Context(), cmd); err != nil {
			t.Fatalf("%s: %v", cmd.Name(), err)
		}
	}
}

func template(name string, check fsm.HealthCheck) fsm.PutTemplate {
	return fsm.PutTemplate{Template: fsm.Template{Name: name, Driver: "process", Command: fsm.SampleCommand, HealthCheck: &check}}
}

func group(name string, size int) fsm.PutGroup {
	return fsm.PutGroup{Group: fsm.Group{Name: name, Template: name, MinSize: size, Desired: size, MaxSize: size + 1}}
}

// TestHealthAcrossNodes: heartbeats reach the node of their instance from any
// node, and an instance that its own node calls unhealthy is asked by another
// one, which every node can tell.
func TestHealthAcrossNodes(t *testing.T) {
	nodes := startNodes(t, true)
	t.Run("heartbeats", func(t *testing.T) { heartbeats(t, nodes) })
	t.Run("heartbeats of what has ended", func(t *testing.T) { endedBeats(t, nodes) })
	t.Run("witness", func(t *testing.T) { witnesses(t, nodes) })
}

func heartbeats(t *testing.T, nodes []*node.Node) {
	propose(t, nodes, template("beat", fsm.HealthCheck{Type: fsm.CheckTTL, TTL: fsm.Duration(time.Hour)}), group("beat", 3))
	waiting := running(t, nodes[0], "beat", 3, fsm.Unknown)
	for k, i := range waiting {
		for _, n := range nodes {
			taken, err := clientOf(t, n).SendHeartbeat(t.Context(), i.ID, client.Heartbeat{Status: client.HeartbeatPass})
			if err != nil || taken.TTL.Std() != time.Hour {
				t.Errorf("instance %d of %s, by %s: %+v, %v", k, i.Node, n.API(), taken, err)
			}
		}
	}
	running(t, nodes[0], "beat", 3, fsm.Healthy)
	away := waiting[0]
	for _, n := range nodes {
		if n.Cluster().Status().Node == away.Node {
			continue
		}
		beat := client.Heartbeat{Status: client.HeartbeatFail, Output: "the queue is stuck"}
		if _, err := clientOf(t, n).SendHeartbeat(t.Context(), away.ID, beat); err != nil {
			t.Fatal(err)
		}
		break
	}
	if i := running(t, nodes[0], "beat", 1, fsm.Unhealthy)[0]; i.ID != away.ID || i.Reason != "its health check failed: the queue is stuck" {
		t.Errorf("got %s: %q", i.ID, i.Reason)
	}
	if _, err := clientOf(t, nodes[0]).SendHeartbeat(t.Context(), waiting[1].ID, client.Heartbeat{Status: client.HeartbeatFail}); err != nil {
		t.Fatal(err)
	}
	for _, i := range running(t, nodes[0], "beat", 2, fsm.Unhealthy) {
		if i.ID != away.ID && i.Reason != "its health check failed: the instance says so" {
			t.Errorf("got %s: %q", i.ID, i.Reason)
		}
	}
	propose(t, nodes, template("none", fsm.HealthCheck{Type: fsm.CheckNone}), group("none", 3))
	for _, i := range running(t, nodes[0], "none", 3, fsm.Healthy) {
		_, err := clientOf(t, nodes[0]).SendHeartbeat(t.Context(), i.ID, client.Heartbeat{Status: client.HeartbeatPass})
		if client.CodeOf(err) != fsm.Conflict || !strings.Contains(err.Error(), "takes no heartbeats") {
			t.Errorf("an instance of %s without a ttl check: %v", i.Node, err)
		}
	}
}

// endedBeats: that an instance has ended is told though its node is gone.
func endedBeats(t *testing.T, nodes []*node.Node) {
	term := nodes[0].Cluster().Status().Term
	propose(t, nodes, template("gone", fsm.HealthCheck{Type: fsm.CheckTTL}), group("gone", 0),
		fsm.RegisterNode{Node: fsm.Node{Name: "n9", Incarnation: 1, Drivers: []string{"process"}}},
		fsm.LaunchInstances{Group: "gone", Term: term, Launches: []fsm.Launch{{ID: "gone-1", Node: "n9"}}},
		fsm.RemoveNode{Node: "n9"})
	_, err := clientOf(t, nodes[0]).SendHeartbeat(t.Context(), "gone-1", client.Heartbeat{Status: client.HeartbeatPass})
	if client.CodeOf(err) != fsm.Conflict || !strings.Contains(err.Error(), "is lost and takes no heartbeats") {
		t.Errorf("an instance that is lost with its node: %v", err)
	}
}

func witnesses(t *testing.T, nodes []*node.Node) {
	var asked, broken atomic.Int64
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: patience, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		if broken.Load() > 0 {
			w.WriteHeader(http.StatusTeapot)
		}
	})}
	go func() { _ = s.Serve(l) }()
	defer s.Close() //nolint:errcheck // a test
	// After the first good answer nobody looks by itself: all further questions
	// are those of witnesses.
	check := fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/", Port: l.Addr().(*net.TCPAddr).Port, Interval: fsm.Duration(time.Hour)}
	propose(t, nodes, template("seen", check), group("seen", 3))
	healthy := running(t, nodes[0], "seen", 3, fsm.Healthy)
	full := (&fsm.Template{HealthCheck: &check}).CheckOrDefault()
	for _, i := range healthy {
		for _, n := range nodes {
			name := n.Cluster().Status().Node
			before := asked.Load()
			by, err := n.Ask(t.Context(), i, full)
			if err != nil || by == "" || by == i.Node || (name != i.Node && by != name) || asked.Load() != before+1 {
				t.Errorf("instance of %s, by %s: asked by %q, %v", i.Node, name, by, err)
			}
		}
	}
	askedPastDeadNodes(t, nodes, healthy, full)
	for _, i := range healthy { // as a node would that can not reach its instances
		row, _ := nodes[0].Cluster().State().Nodes.Get(i.Node)
		propose(t, nodes, fsm.ReportInstances{Node: i.Node, NodeIncarnation: row.Incarnation, Reports: []fsm.InstanceReport{
			{ID: i.ID, State: fsm.Running, Health: fsm.Unhealthy, Reason: "no answer in time"},
		}})
	}
	for _, n := range nodes {
		eventually(t, "every node tells of the doubt", func() bool {
			st, err := clientOf(t, n).GroupStatus(t.Context(), "seen")
			return err == nil && strings.Contains(st.Explanation, "3 unhealthy; 3 of them not replaced, because another node gets good answers")
		})
	}
	for i := range nodes[0].Cluster().State().InstancesOf("seen") {
		if !slices.ContainsFunc(healthy, func(h *fsm.Instance) bool { return h.ID == i }) {
			t.Errorf("%s was launched, although all answer", i)
		}
	}
	broken.Store(1)
	for _, n := range nodes {
		if by, err := n.Ask(t.Context(), healthy[0], full); by == "" || fmt.Sprint(err) != "answered 418 I'm a teapot" {
			t.Errorf("asked by %q: %v", by, err)
		}
	}
}

// askedPastDeadNodes: nodes that are not there are not tried in vain.
func askedPastDeadNodes(t *testing.T, nodes []*node.Node, list []*fsm.Instance, c fsm.HealthCheck) {
	dead := []string{"a1", "a2", "a3", "a4"}
	for _, name := range dead {
		propose(t, nodes, fsm.RegisterNode{Node: fsm.Node{Name: name, Incarnation: 1, Drivers: []string{"other"}}})
	}
	for _, i := range list {
		for _, n := range nodes {
			if n.Cluster().Status().Node != i.Node {
				continue
			}
			if by, err := n.Ask(t.Context(), i, c); by == "" || err != nil {
				t.Errorf("instance of %s: asked by %q, %v", i.Node, by, err)
			}
		}
	}
	for _, name := range dead {
		propose(t, nodes, fsm.RemoveNode{Node: name})
	}
}

// TestALoopbackAddressIsAskedWhereItIsMeant: a node whose instances listen
// elsewhere would ask somebody else there.
func TestALoopbackAddressIsAskedWhereItIsMeant(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for address, by := range map[string]string{"127.0.0.1": "n1", "192.0.2.1": ""} {
		n := startOne(t, address)
		check := (&fsm.Template{HealthCheck: &fsm.HealthCheck{Type: fsm.CheckTCP}}).CheckOrDefault()
		for to, want := range map[string]string{l.Addr().String(): by, "": ""} {
			if got, err := n.Ask(t.Context(), &fsm.Instance{ID: "i1", Node: "n2", Address: to}, check); got != want || err != nil {
				t.Errorf("a node at %s asks %q: asked by %q, %v, want %q", address, to, got, err, want)
			}
		}
	}
}

// startOne starts a cluster of one node, whose instances listen at an address.
func startOne(t *testing.T, instances string) *node.Node {
	t.Helper()
	gossip := freeAddr(t)
	cfg := node.Config{
		Name: "n1", DataDir: t.TempDir(), PeerAddr: freeAddr(t), GossipAddr: gossip, BootstrapExpect: 1, Join: []string{gossip},
		Logger: slog.New(slog.DiscardHandler), LogStore: "wal", InstanceAddress: instances,
	}
	n, err := node.New(cfg.WithDefaults(), node.Environment{NoAPI: true, Driver: fake.New("process", fake.Hooks{})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop(context.Background()) })
	if err := n.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	end := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never: %s", what)
		}
	}
}
