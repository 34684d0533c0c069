package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"log"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/pacelinehq/paceline/fsm"
)

func stdLogger(l *slog.Logger) *log.Logger { return log.New(&prefixWriter{log: l}, "", 0) }

// gossip finds the nodes. It spreads the address book and hints at deaths; it
// never decides who is a member, which is Raft's to do.
type gossip struct {
	log    *slog.Logger
	dir    *directory
	timing Timing
	join   []string
	list   *memberlist.Memberlist
	wg     tasks

	// announcing keeps two announcements from overtaking each other. It is a
	// channel because the holder waits for time to pass, which under virtual
	// time must not be waited for in a mutex.
	announcing chan struct{}
	lastErr    sync.Map // join address -> text of the last failure
}

// GossipConfig is memberlist's configuration as a node uses it, without what
// is the node's own. The simulation measures what it is good for.
func GossipConfig(t Timing) *memberlist.Config {
	m := memberlist.DefaultLANConfig()
	m.TCPTimeout = t.PeerTimeout
	m.ProbeInterval, m.ProbeTimeout = t.Probe, t.ProbeTimeout
	m.GossipInterval, m.PushPullInterval = t.Gossip, t.PushPull
	m.SuspicionMult, m.SuspicionMaxTimeoutMult = t.SuspicionMult, 3
	m.AwarenessMaxMultiplier = 4
	// A living node's objection to a suspicion is news like any other: it is
	// sent so many times and no more, and an answer to a probe does not replace
	// it. In a small cluster the usual 4 are two to each of the others, and one
	// in sixteen objections is lost where a quarter of the packets is.
	m.RetransmitMult = retransmits
	// A node that comes back under another address is taken as soon as the
	// old one is dead: names are ours to keep apart, by their incarnations.
	m.DeadNodeReclaimTime = time.Nanosecond
	return m
}

func (g *gossip) start(cfg Config, transport memberlist.NodeAwareTransport, advertise string) error {
	host, port, err := splitAddr(advertise)
	if err != nil {
		return err
	}
	m := GossipConfig(g.timing)
	m.Name, m.Transport = cfg.Name, transport
	m.AdvertiseAddr, m.AdvertisePort = host, port
	m.BindAddr, m.BindPort = host, port
	m.Logger = stdLogger(g.log)
	m.Delegate, m.Events, m.Alive, m.Merge, m.Conflict = g, g, g, g, g
	g.list, err = memberlist.Create(m)
	if err != nil {
		return inUse("gossip address", advertise, err)
	}
	return nil
}

// splitAddr resolves host:port, because memberlist advertises an IP address.
func splitAddr(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(p)
	if err != nil {
		return "", 0, err
	}
	if net.ParseIP(host) == nil {
		ips, err := net.LookupIP(host)
		if err != nil || len(ips) == 0 {
			return "", 0, fsm.Errorf(fsm.Invalid, "advertised address", addr, "does not resolve: %v", err).
				WithHint("set it to this machine's IP address, or to \"auto\"")
		}
		host = ips[0].String()
	}
	return host, port, nil
}

// joinOnce contacts each address once, side by side, and returns the error of
// the one that belongs to another cluster, if there is one. Others are logged
// when they change.
func (g *gossip) joinOnce(ctx context.Context, addrs []string) error {
	results := make(chan error, len(addrs))
	for _, addr := range addrs {
		if !g.wg.Go(func() {
			_, err := g.list.Join([]string{addr})
			g.report(addr, err)
			results <- err
		}) {
			return nil
		}
	}
	var refused error
	for range addrs {
		select {
		case err := <-results:
			if text, is := foreignIn(err); is {
				refused = fsm.Errorf(fsm.Conflict, "cluster", "", "%s", text).
					WithHint("this data directory belongs to another cluster than the join peers: correct --join, or use an empty --data-dir")
			}
		case <-ctx.Done():
			return refused
		}
	}
	return refused
}

func (g *gossip) report(addr string, err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	before, known := g.lastErr.Swap(addr, text)
	switch {
	case known && before == text:
	case err != nil:
		g.log.Warn("a join peer can not be reached; it will be tried again", "peer", addr, "error", lastLine(err))
	case known:
		g.log.Info("a join peer answers", "peer", addr)
	}
}

// lastLine drops memberlist's listing of nested errors.
func lastLine(err error) string {
	for u := errors.Unwrap(err); u != nil; u = errors.Unwrap(err) {
		err = u
	}
	return err.Error()
}

// keepJoining contacts the join peers that are not members, for ever: nodes
// that start together, partitions that heal, and nodes that moved find each
// other by this.
func (g *gossip) keepJoining(ctx context.Context, met func() bool) {
	wait := g.timing.Rejoin / 32
	for pause(ctx, wait/2+rand.N(wait)) {
		if missing := g.missing(); len(missing) > 0 {
			if err := g.joinOnce(ctx, missing); err != nil {
				g.log.Error("a join peer belongs to another cluster", "error", err)
			}
		}
		// Be quick while the cluster is being founded, slow afterwards.
		wait = min(wait*2, g.timing.Rejoin)
		if !met() {
			wait = min(wait, g.timing.Rejoin/8)
		}
	}
}

// missing lists the join peers that no living member answers at.
func (g *gossip) missing() []string {
	alive := map[string]bool{}
	for _, row := range g.dir.all() {
		if row.gossip == StatusAlive {
			alive[row.Gossip] = true
		}
	}
	var list []string
	for _, addr := range g.join {
		if !alive[addr] {
			list = append(list, addr)
		}
	}
	return list
}

// announce spreads the node's own line after it changed.
func (g *gossip) announce() {
	g.wg.Go(func() {
		g.announcing <- struct{}{}
		defer func() { <-g.announcing }()
		// The wait is for the first packets only; the rest goes on without it.
		if err := g.list.UpdateNode(g.timing.Gossip); err != nil {
			g.log.Debug("announcing the node takes longer", "error", err)
		}
	})
}

// stop ends gossip; leave says first that the node stops.
func (g *gossip) stop(leave bool) {
	if g.list == nil {
		return
	}
	if leave {
		if err := g.list.Leave(byeTimeout); err != nil {
			g.log.Debug("saying goodbye failed", "error", err)
		}
	}
	if err := g.list.Shutdown(); err != nil {
		g.log.Warn("stopping gossip failed", "error", err)
	}
	g.wg.wait()
}

// NodeMeta implements [memberlist.Delegate].
func (g *gossip) NodeMeta(limit int) []byte {
	meta := encodeMeta(g.dir.me())
	if len(meta) > limit {
		return nil // Open has checked the length
	}
	return meta
}

// NotifyMsg implements [memberlist.Delegate].
func (g *gossip) NotifyMsg([]byte) {}

// GetBroadcasts implements [memberlist.Delegate].
func (g *gossip) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements [memberlist.Delegate]: the address book.
func (g *gossip) LocalState(bool) []byte {
	b, err := json.Marshal(g.dir.book())
	if err != nil || len(b) > maxGossipState {
		return nil
	}
	return b
}

// MergeRemoteState implements [memberlist.Delegate].
func (g *gossip) MergeRemoteState(buf []byte, _ bool) {
	var book []peerInfo
	if len(buf) > maxGossipState || json.Unmarshal(buf, &book) != nil {
		return
	}
	for _, i := range book {
		g.dir.learn(i)
	}
}

// NotifyAlive implements [memberlist.AliveDelegate]: a node of another cluster
// never becomes a member.
func (g *gossip) NotifyAlive(n *memberlist.Node) error {
	i, err := decodeMeta(n.Name, n.Meta)
	if err != nil {
		return err
	}
	return g.checkCluster(i)
}

// NotifyMerge implements [memberlist.MergeDelegate].
func (g *gossip) NotifyMerge(nodes []*memberlist.Node) error {
	for _, n := range nodes {
		if i, err := decodeMeta(n.Name, n.Meta); err == nil && n.State == memberlist.StateAlive {
			if err := g.checkCluster(i); err != nil {
				return err
			}
		}
	}
	return nil
}

// foreignError is a node of another cluster.
type foreignError struct{ text string }

// Error names the node and the clusters.
func (e *foreignError) Error() string { return e.text }

func (g *gossip) checkCluster(i peerInfo) error {
	me := g.dir.me()
	if foreign(me.Cluster, i.Cluster) {
		return &foreignError{foreignText(i.Name, i.Cluster, me.Cluster)}
	}
	return nil
}

// foreignIn finds a foreignError in what memberlist returned, which keeps only
// its text.
func foreignIn(err error) (string, bool) {
	if err == nil {
		return "", false
	}
	text := err.Error()
	at := strings.Index(text, foreignMark)
	if at < 0 {
		return "", false
	}
	text, _, _ = strings.Cut(text[max(strings.LastIndex(text[:at], "node "), 0):], "\n")
	return text, true
}

// NotifyConflict implements [memberlist.ConflictDelegate]. The address book
// has the newer process already; what gossip refuses resolves itself.
func (g *gossip) NotifyConflict(_, other *memberlist.Node) {
	if i, err := decodeMeta(other.Name, other.Meta); err == nil {
		g.dir.learn(i)
	}
}

// NotifyJoin implements [memberlist.EventDelegate].
func (g *gossip) NotifyJoin(n *memberlist.Node) { g.NotifyUpdate(n) }

// NotifyUpdate implements [memberlist.EventDelegate].
func (g *gossip) NotifyUpdate(n *memberlist.Node) {
	i, err := decodeMeta(n.Name, n.Meta)
	if err != nil {
		return
	}
	g.dir.learn(i)
	g.dir.mark(n.Name, i.Inc, StatusAlive)
}

// NotifyLeave implements [memberlist.EventDelegate].
func (g *gossip) NotifyLeave(n *memberlist.Node) {
	if i, err := decodeMeta(n.Name, n.Meta); err == nil {
		if row, ok := g.dir.get(n.Name); ok && row.gossip != StatusLeft {
			g.dir.mark(n.Name, i.Inc, StatusDead)
		}
	}
}
