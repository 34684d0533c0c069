package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// Cluster is one node of a cluster.
type Cluster struct {
	cfg     Config
	log     *slog.Logger
	network Network
	storage Storage
	created time.Time
	met     *metrics

	// commands are the names of the commands that this version knows, and
	// dryRun tries some out and returns those that panic.
	commands map[string]bool
	dryRun   func(*fsm.State, []fsm.Envelope, time.Time) map[int]error

	apply    *applier
	prop     *proposer
	handlers *handlers
	lead     *leadership
	follow   *follower
	dir      *directory

	// strong and weak are this node's readers' rounds to the leader;
	// strongHere is the leader's, shared by all nodes.
	strong, weak, strongHere *rounds

	hub    *hub
	pool   *callPool
	gossip *gossip
	trans  *raftTransport
	raft   *raft.Raft
	stores Stores
	logs   *logStore

	moved signal // the leader may be another
	hint  atomic.Value
	boot  bootState
	heal  healState

	running atomic.Bool // raft is there
	// abstains says that this node takes no part in elections; see votes.
	abstains atomic.Bool
	idLock   chan struct{} // who holds its place changes the identity
	ctx      context.Context
	cancel   context.CancelFunc
	wg       tasks // ends with ctx
	raftWG   tasks // ends with Raft
	stopped  chan struct{}

	mu      sync.Mutex
	id      identity
	phase   phase
	problem string            // why the node can not serve, for the status
	alarm   string            // what the comparison of digests found
	append0 time.Duration     // the last append to the log
	failure error             // why the node stopped by itself
	leaving bool              // Leave was called
	removed map[string]uint64 // incarnations of nodes that were removed
}

// phase is where a Cluster is in its life: it is started once and stopped once.
type phase int

const (
	phaseNew phase = iota
	phaseRunning
	phaseStopped
)

// Open checks a configuration and the identity of the data directory, and
// returns a node that has not started.
func Open(cfg Config) (*Cluster, error) {
	cfg, err := cfg.normalised()
	if err != nil {
		return nil, err
	}
	c := &Cluster{
		cfg: cfg, log: cfg.Logger.With("node", cfg.Name), network: cfg.Network, storage: cfg.Storage,
		created: time.Now(), stopped: make(chan struct{}), removed: map[string]uint64{}, idLock: make(chan struct{}, 1),
	}
	if c.network == nil {
		c.network = tcpNetwork{log: c.log}
	}
	if c.storage == nil {
		c.storage = NewDirStorage(cfg.DataDir, cfg.LogStore, c.log)
	}
	if c.id, err = loadIdentity(c.storage, cfg.Name); err != nil {
		return nil, err
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.apply = &applier{log: c.log, machine: fsm.NewMachine(), halted: c.onHalt}
	if c.met, err = newMetrics(c, cfg.Metrics); err != nil {
		return nil, err
	}
	c.commands, c.dryRun = map[string]bool{}, (*fsm.State).DryRun
	for _, name := range fsm.CommandNames() {
		c.commands[name] = true
	}
	c.dir = newDirectory(cfg.self())
	c.dir.setSelf(func(i *peerInfo) { i.Cluster = c.id.Cluster })
	c.handlers = &handlers{table: map[string]Handler{}, log: c.log}
	c.lead = &leadership{c: c, notify: make(chan bool, 64)}
	c.follow = newFollower(c)
	c.prop = newProposer(cfg.Name, cfg.Incarnation, c.met)
	c.prop.route, c.prop.send, c.prop.follow = c.route, c.sendBatch, c.followReply
	c.apply.settle = c.prop.settle
	c.lead.jobs = []leaderJob{{"name the cluster", c.nameCluster}, {"tend the members", c.tendMembers}, {"announce commits", c.announceCommits}}
	c.strongHere = &rounds{ask: c.readIndex, ctx: c.ctx, wg: &c.wg}
	c.strong = &rounds{ctx: c.ctx, wg: &c.wg, ask: func(ctx context.Context) (notice, error) {
		return c.askLeader(ctx, methodReadIndex, c.strongHere.join)
	}}
	c.weak = &rounds{ctx: c.ctx, wg: &c.wg, ask: func(ctx context.Context) (notice, error) {
		return c.askLeader(ctx, methodApplied, c.appliedHere)
	}}
	return c, nil
}

// Start runs the node: it listens, joins its peers, and takes part in Raft.
// The cluster may have no leader yet when it returns. The context bounds the
// start only.
func (c *Cluster) Start(ctx context.Context) error {
	c.mu.Lock()
	if c.phase != phaseNew {
		c.mu.Unlock()
		return fsm.Errorf(fsm.Conflict, "node", c.cfg.Name, "was started before")
	}
	c.phase = phaseRunning
	c.mu.Unlock()
	err := c.start(ctx)
	if err != nil {
		c.Kill()
	}
	return err
}

func (c *Cluster) start(ctx context.Context) (err error) {
	if c.stores, err = c.storage.Open(); err != nil {
		return err
	}
	if err := c.listen(); err != nil {
		return err
	}
	c.serve()
	if err := c.meet(ctx); err != nil {
		return err
	}
	if err := c.startRaft(); err != nil {
		return err
	}
	// The peer port answers only now: what arrives finds Raft running.
	c.hub.run()
	for _, loop := range []func(context.Context){
		c.lead.run, c.follow.run, c.keepBootstrapping, c.keepAbstaining, c.watchLeader, c.watchDisk, c.watchDigests,
		c.watchIdentity, c.watchTwin, func(ctx context.Context) { c.gossip.keepJoining(ctx, c.hasLeader) },
	} {
		c.wg.Go(func() { loop(c.ctx) })
	}
	c.wg.Go(c.prop.run)
	return nil
}

func (c *Cluster) hasLeader() bool {
	name, _ := c.route()
	return name != ""
}

// listen opens the ports and settles the addresses that others are told.
func (c *Cluster) listen() error {
	c.hub = newHub(c.log, c.network, c.hello, c.dir.seen)
	c.pool = newCallPool(c.hub, c.dir.addr, c.cfg.Timing.PeerTimeout)
	if err := c.hub.listen(c.cfg.PeerAddr); err != nil {
		return err
	}
	transport, err := c.network.Gossip(c.cfg.GossipAddr)
	if err != nil {
		return err
	}
	c.gossip = &gossip{log: c.log, dir: c.dir, timing: c.cfg.Timing, announcing: make(chan struct{}, 1)}
	peer, err := advertised(c.cfg.AdvertisePeer, c.hub.listener.Addr(), c.cfg.Join)
	if err == nil {
		var gossip string
		gossip, err = advertised(c.cfg.AdvertiseGossip, boundGossip(c.cfg.GossipAddr, transport), c.cfg.Join)
		c.dir.setSelf(func(i *peerInfo) { i.Peer, i.Gossip = peer, gossip })
	}
	if err == nil {
		err = c.gossip.start(c.cfg, transport, c.dir.me().Gossip)
	}
	if err != nil && c.gossip.list == nil {
		return errors.Join(err, transport.Shutdown())
	}
	return err
}

// Addrs returns the addresses at which other nodes reach this one's peer port
// and gossip.
func (c *Cluster) Addrs() (peer, gossip string) {
	me := c.dir.me()
	return me.Peer, me.Gossip
}

// meet contacts the join peers once and refuses to go on where another
// process already uses this node's name, or the peers are of another cluster.
func (c *Cluster) meet(ctx context.Context) error {
	me := c.dir.me()
	for _, addr := range c.cfg.Join {
		if addr != me.Gossip && addr != c.cfg.GossipAddr {
			c.gossip.join = append(c.gossip.join, addr)
		}
	}
	if len(c.gossip.join) == 0 {
		c.claimName()
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startJoinWait)
	defer cancel()
	if err := c.gossip.joinOnce(ctx, c.gossip.join); err != nil {
		return err
	}
	if err := c.checkTwin(c.ctx); err != nil || c.dir.alone() {
		return err
	}
	c.claimName()
	// Those who took it for a stranger with somebody else's name until now
	// hear at once that it is not.
	return c.gossip.joinOnce(ctx, c.gossip.join)
}

func (c *Cluster) startRaft() error {
	if err := c.rememberWhetherToVote(); err != nil {
		return err
	}
	t := c.cfg.Timing
	c.trans = newRaftTransport(newRaftStream(c.hub, c.dir, c.configuredAddr), &raftLogger{log: c.log}, t.PeerTimeout)
	c.trans.votes = c.votes
	c.trans.leads = func() bool { return !c.running.Load() || c.raft.State() == raft.Leader }
	c.logs = newLogStore(c.stores.Log, snapshotStore{c.stores.Snapshots}, c.observeAppend, c.lostPlace)
	r, err := raft.NewRaft(c.raftConfig(), raftFSM{c.apply}, c.logs, c.stores.Stable, snapshotStore{c.stores.Snapshots}, c.trans)
	if err != nil {
		return errors.Join(fsm.Errorf(fsm.Unavailable, "data directory", c.cfg.DataDir, "holds a log that can not be used: %v", err).
			WithHint("restore it from a backup, or empty the directory and let the node join again"), c.trans.Close())
	}
	c.raft = r
	c.running.Store(true)
	ch := make(chan raft.Observation, 64)
	o := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		_, is := o.Data.(raft.LeaderObservation)
		return is
	})
	r.RegisterObserver(o)
	c.wg.Go(func() {
		defer r.DeregisterObserver(o)
		for {
			select {
			case <-ch:
				c.moved.fire()
				name, _ := c.route()
				c.log.Info("the leader is "+orDefault(name, "not known"), "term", c.term())
			case <-c.ctx.Done():
				return
			}
		}
	})
	return nil
}

// configuredAddr is a node's address in Raft's configuration, for one that is
// not in the address book: "" while Raft is starting, and for a node that is
// known to have lost its address.
func (c *Cluster) configuredAddr(name string) string {
	if !c.running.Load() {
		return ""
	}
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		if addr := string(s.Address); string(s.ID) == name && !strings.HasPrefix(addr, addressMark) {
			return addr
		}
	}
	return ""
}

// lostPlace ends the node, because its Raft and its log store disagree about
// what the log holds. Raft reads the log again when it starts.
func (c *Cluster) lostPlace(err error) {
	c.fail(fsm.Errorf(fsm.Unavailable, "Raft log", "", "could not be written when entries had to be replaced: %v", err).
		WithHint("start the node again; it goes on where its log ends"))
}

func (c *Cluster) observeAppend(d time.Duration) {
	c.met.logStore.Observe(d.Seconds())
	c.mu.Lock()
	c.append0 = d
	c.mu.Unlock()
}

func (c *Cluster) raftConfig() *raft.Config {
	t := c.cfg.Timing
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(c.cfg.Name)
	conf.HeartbeatTimeout, conf.ElectionTimeout = t.Heartbeat, t.Election
	conf.LeaderLeaseTimeout, conf.CommitTimeout = t.Lease, t.Commit
	conf.MaxAppendEntries = maxAppendEntries
	// Entries are batches already; an unbuffered channel means that an entry
	// is either refused or answered, also when Raft stops.
	conf.BatchApplyCh = false
	conf.ShutdownOnRemove = false
	conf.SnapshotInterval, conf.SnapshotThreshold, conf.TrailingLogs = t.SnapshotInterval, t.SnapshotThreshold, t.TrailingLogs
	conf.NotifyCh = c.lead.notify
	conf.Logger = &raftLogger{log: c.log}
	conf.NoLegacyTelemetry = true
	return conf
}

// hello is what this node says in handshakes.
func (c *Cluster) hello(to string) hello {
	me := c.dir.me()
	return hello{Cluster: me.Cluster, From: me.Name, To: to, Inc: me.Inc}
}

// serve registers the methods of the peer port.
func (c *Cluster) serve() {
	c.hub.serve[kindCall] = func(conn net.Conn, _ hello) { c.handlers.serveCalls(c.hub.ctx, conn) }
	c.hub.serve[kindWatch] = c.serveWatch
	c.hub.serve[kindState] = c.serveState
	c.hub.serve[kindUpload] = c.serveUpload
	c.Handle(methodPropose, c.handlePropose)
	c.Handle(methodCommitted, c.handleCommitted)
	c.serveReads()
	c.serveBootstrap()
	c.serveMembers()
	c.serveDigests()
	c.Handle(methodTransfer, func(ctx context.Context, req []byte) ([]byte, error) {
		return nil, c.transferHere(ctx, string(req))
	})
	c.Handle(methodBye, func(_ context.Context, req []byte) ([]byte, error) {
		var i peerInfo
		if err := json.Unmarshal(req, &i); err != nil {
			return nil, err
		}
		c.dir.mark(i.Name, i.Inc, StatusLeft)
		return nil, nil
	})
}

// Handle answers a method of the peer port, for the packages above.
func (c *Cluster) Handle(method string, h func(ctx context.Context, req []byte) ([]byte, error)) {
	c.handlers.set(method, h)
}

// Call sends a request to a node, itself included, and returns its reply.
func (c *Cluster) Call(ctx context.Context, node, method string, req []byte) ([]byte, error) {
	if node == c.cfg.Name {
		return c.handlers.run(ctx, method, req)
	}
	if c.pool == nil {
		return nil, errStopped()
	}
	if _, has := ctx.Deadline(); !has {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.cfg.Timing.PeerTimeout)
		defer cancel()
	}
	resp, err := c.pool.call(ctx, node, laneBulk, method, req)
	var e *fsm.Error
	switch {
	case err == nil || errors.As(err, &e):
		return resp, err
	case errors.Is(err, errNotLeader):
		return nil, errLeaderless()
	}
	return nil, fsm.Errorf(fsm.Unavailable, "node", node, "did not answer %s: %v", method, err).
		WithHint("see `paceline cluster status`")
}

// Propose has a command applied, on whichever node this is, and returns once
// this node's state has it. Actor and request id come from ctx. Without a
// deadline in ctx it waits 5 seconds.
func (c *Cluster) Propose(ctx context.Context, cmd fsm.Command) (fsm.Result, error) {
	return c.prop.propose(ctx, cmd)
}

// followReply waits until this node has applied a batch that the leader has
// committed. While the own disk is stuck it does not wait: the leader's word
// has to do.
func (c *Cluster) followReply(ctx context.Context, leader string, r batchReply) error {
	if c.trans.mute.Load() {
		return errMuted
	}
	return c.follow.to(ctx, notice{leader: leader, term: r.Term, index: r.Index})
}

func (c *Cluster) term() uint64 {
	if !c.running.Load() {
		return 0
	}
	return c.raft.CurrentTerm()
}
