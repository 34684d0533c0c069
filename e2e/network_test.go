//go:build linux

package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// network is a switch in a network namespace with one namespace for each node.
// Docker's rules and those of the machine do not reach into it.
//
//	test ──veth── [switch: bridge] ──veth── [n1]
//	                     │    └──────veth── [n2]
//	                     └───────────veth── [n3]
type network struct {
	t      testing.TB
	prefix string // of the names of all namespaces
	subnet string // its first three bytes
}

// cutFleet is a fleet of which every node has its own network namespace.
func cutFleet(t testing.TB, n int) (*fleet, *network) {
	t.Helper()
	needs(t, "ip", "iptables")
	w := &network{t: t, prefix: fmt.Sprintf("pl%d", os.Getpid()), subnet: fmt.Sprintf("10.%d.%d", 200+rand.N(50), rand.N(256))}
	t.Cleanup(w.remove)
	w.remove() // of an earlier test in this process
	w.do("ip", "netns", "add", w.ns("sw"))
	w.do("ip", "-n", w.ns("sw"), "link", "add", "br0", "type", "bridge")
	w.do("ip", "-n", w.ns("sw"), "link", "set", "br0", "up")
	w.plug(w.host(), "p0")
	w.do("ip", "link", "set", w.host(), "up")
	w.do("ip", "addr", "add", w.subnet+".254/24", "dev", w.host())

	f := newFleet(t, n, "--insecure")
	for i, node := range f.nodes {
		node.ns, node.ip = w.ns(node.name), fmt.Sprintf("%s.%d", w.subnet, i+1)
		end := fmt.Sprintf("v%d", i)
		w.do("ip", "netns", "add", node.ns)
		w.plug(end, fmt.Sprintf("p%d", i+1))
		w.do("ip", "link", "set", end, "netns", node.ns)
		w.do("ip", "-n", node.ns, "link", "set", "lo", "up")
		w.do("ip", "-n", node.ns, "link", "set", end, "up")
		w.do("ip", "-n", node.ns, "addr", "add", node.ip+"/24", "dev", end)
	}
	f.startAll()
	f.whole()
	return f, w
}

func (w *network) ns(name string) string { return w.prefix + "-" + name }
func (w *network) host() string          { return w.prefix + "h" }

// plug makes a cable from the test's namespace into a port of the switch.
func (w *network) plug(end, port string) {
	w.t.Helper()
	w.do("ip", "link", "add", end, "type", "veth", "peer", "name", port, "netns", w.ns("sw"))
	w.do("ip", "-n", w.ns("sw"), "link", "set", port, "master", "br0")
	w.do("ip", "-n", w.ns("sw"), "link", "set", port, "up")
}

func (w *network) do(argv ...string) {
	w.t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		w.t.Fatalf("%s: %v: %s", strings.Join(argv, " "), err, out)
	}
}

// remove deletes every namespace of this process, and the cables with them.
func (w *network) remove() {
	_ = exec.Command("ip", "link", "del", w.host()).Run()
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return
	}
	for line := range strings.Lines(string(out)) {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(name, w.prefix+"-") {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	}
}

// drop loses all packets from one node to another; match narrows that.
func (w *network) drop(from, to *node, match ...string) {
	w.t.Helper()
	argv := append([]string{"ip", "netns", "exec", to.ns, "iptables", "-w", "-A", "INPUT", "-s", from.ip}, match...)
	w.do(append(argv, "-j", "DROP")...)
}

// cut loses all packets between two nodes.
func (w *network) cut(a, b *node) {
	w.t.Helper()
	w.drop(a, b)
	w.drop(b, a)
}

// join lets all packets pass again.
func (w *network) join(nodes ...*node) {
	w.t.Helper()
	for _, n := range nodes {
		w.do("ip", "netns", "exec", n.ns, "iptables", "-w", "-F", "INPUT")
	}
}
