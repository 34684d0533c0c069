package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"

	"github.com/pacelinehq/paceline/fsm"
)

// Founding a cluster. Every node has the same configuration and none is
// special; the node with the lowest name asks.
//
//	waiting ──all expected names known──► asking (lowest name) ──all promise──► founded
//	   ▲  ▲                                  │                                     ▲
//	   │  └──────one refuses, or is silent───┘                                     │
//	   └─promised to the asker (others) ────the asker says so, or Raft arrives────┘
//
// A node promises itself to one set of founders only, and none once it has a
// log: two sets of founders can therefore not both get all their promises.
type bootState struct {
	mu       sync.Mutex
	promised []string // the set this node has promised itself to
	asker    string
	askerInc uint64
	why      string // why it waits, for the log and the status
}

// founders is the set that an asker proposes.
type founders struct {
	Expect  int        `json:"expect"`
	Asker   string     `json:"asker"`
	Inc     uint64     `json:"inc"`
	Members []peerInfo `json:"members"`
}

func (f founders) names() []string {
	list := make([]string, len(f.Members))
	for i, m := range f.Members {
		list[i] = m.Name
	}
	return list
}

// hasLog reports whether this node has a configuration: it was founded, or
// taken in.
func (c *Cluster) hasLog() bool {
	return len(c.raft.GetConfiguration().Configuration().Servers) > 0
}

// keepBootstrapping founds the cluster, if nobody else does.
func (c *Cluster) keepBootstrapping(ctx context.Context) {
	for !c.hasLog() {
		changed := c.dir.changed.wait()
		wait := c.cfg.Timing.Heartbeat
		if why := c.tryToFound(ctx); why != "" {
			c.waitFor(why)
		}
		t := time.NewTimer(wait/2 + rand.N(wait))
		select {
		case <-changed:
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil || !pause(ctx, retryWaitMin) {
			return
		}
	}
	c.boot.mu.Lock()
	c.boot.why = ""
	c.boot.mu.Unlock()
}

// waitFor says why the cluster is not founded yet, once for each reason.
func (c *Cluster) waitFor(why string) {
	c.boot.mu.Lock()
	fresh := c.boot.why != why
	c.boot.why = why
	c.boot.mu.Unlock()
	if fresh {
		c.log.Info("waiting for the cluster: " + why)
	}
}

// tryToFound does one attempt and returns why it came to nothing.
func (c *Cluster) tryToFound(ctx context.Context) string {
	if c.cfg.NonVoter {
		return "this node is a non-voter; a leader has to take it in"
	}
	var candidates []peerInfo
	for _, row := range c.dir.all() {
		if row.status(row.Name == c.cfg.Name, c.cfg.Timing.PeerTimeout) != StatusAlive || row.NonVoter {
			continue
		}
		if row.Cluster != "" && row.Name != c.cfg.Name {
			return "a cluster exists; its leader has to take this node in"
		}
		candidates = append(candidates, row.peerInfo)
	}
	if c.dir.me().Cluster != "" {
		return "this node's log is empty, but it belongs to a cluster; its leader has to take it in"
	}
	if n := c.cfg.BootstrapExpect; len(candidates) < n {
		return fmt.Sprintf("%d of %d expected nodes are known", len(candidates), n)
	}
	set := founders{Expect: c.cfg.BootstrapExpect, Asker: c.cfg.Name, Inc: c.cfg.Incarnation, Members: candidates[:c.cfg.BootstrapExpect]}
	if set.Members[0].Name != c.cfg.Name {
		return "node " + set.Members[0].Name + " has to found the cluster"
	}
	return c.found(ctx, set)
}

// found asks for every promise and then tells all to begin.
func (c *Cluster) found(ctx context.Context, set founders) string {
	body, err := json.Marshal(set)
	if err != nil {
		return err.Error()
	}
	if err := c.promise(ctx, set); err != nil {
		return err.Error()
	}
	if why := c.tellAll(ctx, set, methodPrepare, body); why != "" {
		return why
	}
	if err := c.foundHere(set); err != nil {
		return err.Error()
	}
	// The others would learn of it by Raft as well.
	c.tellAll(ctx, set, methodFound, body)
	// Nobody else can have been elected: do not wait for a timeout.
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timing.Heartbeat)
	defer cancel()
	if err := c.trans.runNow(ctx, c.cfg.Name); err != nil {
		c.log.Debug("the first election waits for a timeout", "error", err)
	}
	return ""
}

// tellAll sends a message to the other founders and returns the first refusal.
func (c *Cluster) tellAll(ctx context.Context, set founders, method string, body []byte) string {
	answers := make(chan string, len(set.Members))
	n := 0
	for _, m := range set.Members {
		if m.Name == c.cfg.Name {
			continue
		}
		n++
		c.wg.Go(func() {
			_, err := c.pool.callFor(ctx, c.cfg.Timing.PeerTimeout, m.Name, method, body)
			if err != nil {
				answers <- fmt.Sprintf("node %s: %v", m.Name, err)
				return
			}
			answers <- ""
		})
	}
	why := ""
	for range n {
		select {
		case a := <-answers:
			if a != "" {
				why = a
			}
		case <-ctx.Done():
			return ctx.Err().Error()
		}
	}
	return why
}

func (c *Cluster) serveBootstrap() {
	c.Handle(methodPrepare, func(ctx context.Context, req []byte) ([]byte, error) {
		var set founders
		if err := json.Unmarshal(req, &set); err != nil {
			return nil, err
		}
		return nil, c.promise(ctx, set)
	})
	c.Handle(methodFound, func(_ context.Context, req []byte) ([]byte, error) {
		var set founders
		if err := json.Unmarshal(req, &set); err != nil {
			return nil, err
		}
		return nil, c.foundHere(set)
	})
}

// promise binds this node to a set of founders.
func (c *Cluster) promise(ctx context.Context, set founders) error {
	names := set.names()
	refuse := func(format string, args ...any) error {
		return fsm.Errorf(fsm.Conflict, "node", c.cfg.Name, format, args...)
	}
	switch {
	case set.Expect != c.cfg.BootstrapExpect:
		return refuse("expects %d nodes, not %d; bootstrap-expect must be the same on all nodes", c.cfg.BootstrapExpect, set.Expect)
	case c.hasLog() || c.dir.me().Cluster != "":
		return refuse("belongs to a cluster already")
	case !slices.Contains(names, c.cfg.Name):
		return refuse("is not one of %s", strings.Join(names, ", "))
	}
	b := &c.boot
	b.mu.Lock()
	bound, asker, inc := b.promised, b.asker, b.askerInc
	b.mu.Unlock()
	if bound != nil && !slices.Equal(bound, names) && asker != set.Asker && c.lives(ctx, asker, inc) {
		return refuse("has promised itself to %s", strings.Join(bound, ", "))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.promised != nil && b.askerInc != inc {
		return refuse("has just promised itself to %s", strings.Join(b.promised, ", "))
	}
	b.promised, b.asker, b.askerInc = names, set.Asker, set.Inc
	return nil
}

// lives asks whether the process with an incarnation still answers.
func (c *Cluster) lives(ctx context.Context, name string, inc uint64) bool {
	if name == c.cfg.Name {
		return inc == c.cfg.Incarnation
	}
	addr, ok := c.dir.addr(name)
	if !ok {
		return false
	}
	conn, peer, err := c.hub.dial(ctx, addr, kindWatch, name)
	if err != nil {
		return false
	}
	closeQuietly(conn)
	return peer.Inc == inc
}

// foundHere begins the log with the founders' configuration. It is the same
// on all of them, byte for byte, so that it does not matter how many do it.
func (c *Cluster) foundHere(set founders) error {
	c.boot.mu.Lock()
	bound := slices.Equal(c.boot.promised, set.names())
	c.boot.mu.Unlock()
	if !bound {
		return fsm.Errorf(fsm.Conflict, "node", c.cfg.Name, "has not promised itself to these founders")
	}
	var conf raft.Configuration
	for _, m := range set.Members {
		conf.Servers = append(conf.Servers, raft.Server{
			Suffrage: raft.Voter, ID: raft.ServerID(m.Name), Address: raft.ServerAddress(m.Peer),
		})
	}
	// First of all: a founder that dies in between starts anew without a log.
	if err := c.vote(); err != nil {
		return err
	}
	err := c.raft.BootstrapCluster(conf).Error()
	if err == nil {
		c.log.Info("the cluster is founded", "voters", strings.Join(set.names(), ","))
	}
	if err == raft.ErrCantBootstrap {
		return nil // Raft has arrived first
	}
	return err
}

// nameCluster gives a new cluster its identity; each leader makes sure of it.
func (c *Cluster) nameCluster(ctx context.Context, _ uint64) error {
	if c.State().ClusterID() != "" {
		return nil
	}
	_, err := c.Propose(fsm.WithActor(ctx, "cluster"), fsm.InitCluster{ID: ulid.Make().String()})
	return err
}

// watchIdentity writes the cluster's identity into the data directory, and
// says it in gossip, as soon as the state has it.
func (c *Cluster) watchIdentity(ctx context.Context) {
	for {
		moved := c.apply.moved.wait()
		id := c.State().ClusterID()
		c.mu.Lock()
		have := c.id
		c.mu.Unlock()
		if id != "" && id != have.Cluster {
			if have.Cluster != "" {
				c.fail(fsm.Errorf(fsm.Conflict, "data directory", c.cfg.DataDir, "belongs to cluster %s, but the log is that of %s", have.Cluster, id))
				return
			}
			if err := c.changeIdentity(func(i *identity) { i.Cluster = id }); err != nil {
				c.log.Error("the identity file can not be written", "error", err)
				if !pause(ctx, c.cfg.Timing.Reconcile) {
					return
				}
				continue
			}
			c.dir.setSelf(func(i *peerInfo) { i.Cluster = id })
			c.gossip.announce()
		}
		if id != "" {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

// checkTwin refuses to run beside another living process with this node's
// name. Of two, the one that started later gives way.
func (c *Cluster) checkTwin(ctx context.Context) error {
	c.dir.mu.RLock()
	twin := c.dir.twin
	c.dir.mu.RUnlock()
	if twin.Inc == 0 || twin.Inc > c.cfg.Incarnation || twin.Peer == c.dir.me().Peer {
		return nil
	}
	conn, peer, err := c.hub.dial(ctx, twin.Peer, kindWatch, c.cfg.Name)
	if err != nil {
		return nil // it is gone; what was heard of it is old
	}
	closeQuietly(conn)
	if peer.From != c.cfg.Name || peer.Inc == c.cfg.Incarnation {
		return nil
	}
	return fsm.Errorf(fsm.Conflict, "node", c.cfg.Name, "is already running, at %s", twin.Peer).
		WithHint("two nodes must not share a name; give one of them another --name and an empty --data-dir")
}

// claimName ends the time in which this process takes nobody's place.
func (c *Cluster) claimName() {
	c.dir.setSelf(func(i *peerInfo) { i.Tentative = false })
	c.gossip.announce()
}

// watchTwin repeats checkTwin when the address book changes, and claims the
// name when the first other node is met after the start.
func (c *Cluster) watchTwin(ctx context.Context) {
	var checked peerInfo
	for {
		changed := c.dir.changed.wait()
		c.dir.mu.RLock()
		twin := c.dir.twin
		c.dir.mu.RUnlock()
		claim := c.dir.me().Tentative && !c.dir.alone()
		if twin != checked || claim {
			if err := c.checkTwin(ctx); err != nil {
				c.fail(err)
				return
			}
			checked = twin
		}
		if claim {
			c.claimName()
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
