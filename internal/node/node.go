package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/shirou/gopsutil/v4/mem"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/routing/proxy"
	"github.com/pacelinehq/paceline/routing/session"
	"github.com/pacelinehq/paceline/scaling"
	"github.com/pacelinehq/paceline/scaling/agent"
	"github.com/pacelinehq/paceline/scaling/driver"
	"github.com/pacelinehq/paceline/scaling/driver/process"
)

// maxSampleEvery is the longest time between two measurements of an instance;
// shorter evaluation intervals need shorter ones.
const maxSampleEvery = 2 * time.Second

// endTimeout is between TERM and KILL when a node ends its instances.
const endTimeout = 2 * time.Second

// Environment replaces what a node has from its machine. The simulation sets
// all of it; the zero value is the real machine.
type Environment struct {
	Network cluster.Network
	Storage cluster.Storage
	// Driver runs the instances instead of processes.
	Driver driver.Driver
	// Witness asks instances of other nodes before they are replaced, instead
	// of this node.
	Witness scaling.Witness
	// NoAPI leaves the HTTP API out.
	NoAPI bool
	// Timing changes the timers of the profile; nil leaves them.
	Timing func(*cluster.Timing)
	// Wrap changes what the loops and the agent see of the cluster; the
	// simulation plants its bugs there.
	Wrap func(Cluster) Cluster
}

// Cluster is what the loops and the agent need of the cluster.
type Cluster interface {
	scaling.Cluster
	scaling.Liveness
}

// Node is one running `paceline agent`.
type Node struct {
	cfg     Config
	env     Environment
	base    *slog.Logger // without the name, for those who add it themselves
	log     *slog.Logger
	row     fsm.Node // what the node registers
	reg     *prometheus.Registry
	cluster *cluster.Cluster
	driver  driver.Driver
	agent   *agent.Agent
	samples *scaling.Store
	// reconciler is asked which instances it spares.
	reconciler *scaling.Reconciler
	api        *httpapi.Server
	proxy      *proxy.Proxy     // nil when traffic is off
	sessions   *session.Manager // nil without the API
	dns        *dnsServer       // nil when it is off
	xds        *xdsServer       // nil when it is off, or not built in
	listen     net.Listener

	registered atomic.Bool
	stop       context.CancelFunc
	wg         sync.WaitGroup
	failed     chan error
}

// New makes a node. It opens its data directory and listens on its API
// address; Start does the rest. When it fails nothing is left open.
func New(cfg Config, env Environment) (n *Node, err error) {
	if err := cfg.normalise(); err != nil {
		return nil, err
	}
	n = &Node{cfg: cfg, env: env, log: cfg.Logger, reg: prometheus.NewRegistry(), failed: make(chan error, 1)}
	if n.log == nil {
		if n.log, err = newLogger(cfg.LogLevel, cfg.LogFormat, os.Stderr); err != nil {
			return nil, err
		}
	}
	n.base = n.log
	n.log = n.log.With("node", cfg.Name)
	made := n // a return of nil and an error sets n before this runs
	defer func() {
		if err != nil {
			made.close()
		}
	}()
	if !env.NoAPI {
		if n.listen, err = net.Listen("tcp", cfg.APIAddr); err != nil {
			return nil, fsm.Errorf(fsm.Unavailable, "API address", cfg.APIAddr, "can not be listened on: %v", err).
				WithHint("is another node running here? choose another --api-addr")
		}
		n.cfg.APIAddr = n.listen.Addr().String()
	}
	for _, build := range []func() error{n.newCluster, n.newDriver, n.newProxy, n.newDNS, n.newXDS, n.newLoops, n.newAPI} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	return n, nil
}

func (n *Node) newCluster() (err error) {
	incarnation := uint64(time.Now().UnixNano())
	if !n.env.NoAPI {
		n.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	timing := cluster.LAN()
	if n.cfg.Profile == "wan" {
		timing = cluster.WAN()
	}
	if n.env.Timing != nil {
		n.env.Timing(&timing)
	}
	n.cluster, err = cluster.Open(cluster.Config{
		Name: n.cfg.Name, Zone: n.cfg.Zone, DataDir: raftDir(n.cfg.DataDir), Incarnation: incarnation,
		PeerAddr: n.cfg.PeerAddr, GossipAddr: n.cfg.GossipAddr,
		AdvertisePeer: n.cfg.Advertise, AdvertiseGossip: n.cfg.Advertise, APIAddr: n.publicAPI(),
		BootstrapExpect: n.cfg.BootstrapExpect, Join: n.cfg.Join,
		NonVoter: n.cfg.NonVoter, MaxVoters: n.cfg.MaxVoters, DeadVoterGrace: n.cfg.DeadNodeGrace,
		Timing: timing, LogStore: n.cfg.LogStore,
		Logger: n.base, Metrics: n.reg, Network: n.env.Network, Storage: n.env.Storage,
	})
	if err != nil {
		return err
	}
	n.row = fsm.Node{
		Name: n.cfg.Name, Incarnation: incarnation, Zone: n.cfg.Zone, Labels: n.cfg.Labels,
		Resources: n.offered(), API: n.publicAPI(), Version: n.cfg.Version,
	}
	return nil
}

// publicAPI is the address of the API as clients see it.
func (n *Node) publicAPI() string {
	if n.cfg.PublicAPI != "" {
		return n.cfg.PublicAPI
	}
	host, port, err := net.SplitHostPort(n.cfg.APIAddr)
	if err != nil {
		return n.cfg.APIAddr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if own := n.instanceHost(); own != "" {
			host = own
		}
	}
	return net.JoinHostPort(host, port)
}

// instanceAPI is where the instances of this node find its API; empty without
// one.
func (n *Node) instanceAPI() string {
	if n.env.NoAPI {
		return ""
	}
	return "http://" + n.publicAPI()
}

// instanceHost is the address that instances listen on: the node's own, as the
// other nodes reach it.
func (n *Node) instanceHost() string {
	if n.cfg.InstanceAddress != "" {
		return n.cfg.InstanceAddress
	}
	addr, err := cluster.AdvertisedHost(n.cfg.Advertise, n.cfg.PeerAddr, n.cfg.Join)
	if err != nil {
		return ""
	}
	return addr
}

// offered is what the node has for instances: as declared, or all there is.
func (n *Node) offered() fsm.Resources {
	r := fsm.Resources{CPU: n.cfg.CPU, MemoryMiB: n.cfg.MemoryMiB}
	if r.CPU == 0 {
		r.CPU = float64(runtime.NumCPU())
	}
	if r.MemoryMiB == 0 {
		if m, err := mem.VirtualMemory(); err == nil {
			r.MemoryMiB = int64(m.Total >> 20)
		}
	}
	return r
}

func (n *Node) newDriver() (err error) {
	n.driver = n.env.Driver
	if n.driver == nil {
		from, to, err := n.cfg.portRange()
		if err != nil {
			return err
		}
		d, err := process.New(process.Config{
			Dir: filepath.Join(n.cfg.DataDir, "instances"), Allow: n.cfg.Allow, Host: n.instanceHost(),
			PortMin: from, PortMax: to, SelfArgs: n.cfg.SampleArgs, Node: n.row.Resources, API: n.instanceAPI(), Logger: n.log,
		})
		if err != nil {
			return err
		}
		n.driver = d
	}
	n.row.Drivers = []string{n.driver.Name()}
	return nil
}

// view is what the loops and the agent see of the cluster.
func (n *Node) view() Cluster {
	if n.env.Wrap != nil {
		return n.env.Wrap(n.cluster)
	}
	return n.cluster
}

func (n *Node) newLoops() error {
	n.samples = scaling.NewStore(n.cfg.Name, scaling.StoreLimits{})
	metrics, err := scaling.NewMetrics(n.reg)
	if err != nil {
		return err
	}
	view := n.view()
	n.agent = agent.New(agent.Config{
		Node: n.cfg.Name, Incarnation: n.row.Incarnation, Cluster: view, Drivers: []driver.Driver{n.driver},
		Metrics: n.measured, Logger: n.log, Registerer: n.reg, SampleEvery: min(maxSampleEvery, n.cfg.EvaluationInterval/2),
	})
	newID := func() string { return ulid.Make().String() }
	watcher := scaling.NewNodeWatcher(scaling.NodeWatcherConfig{Log: n.log, Metrics: metrics}, view, view)
	autoscaler := scaling.NewAutoscaler(scaling.AutoscalerConfig{
		Interval: n.cfg.EvaluationInterval, Log: n.log, Metrics: metrics,
	}, view, n)
	n.reconciler = scaling.NewReconciler(scaling.ReconcilerConfig{
		NewID: newID, InFlight: autoscaler.InFlight, Witness: n.witness(), Log: n.log, Metrics: metrics,
	}, view, view)
	n.cluster.WhileLeader("reconciler", n.reconciler.Run)
	n.cluster.WhileLeader("node watcher", watcher.Run)
	n.cluster.WhileLeader("autoscaler", autoscaler.Run)
	n.cluster.WhileLeader("session keeper", session.NewKeeper(n.cluster, n.log).Run)
	n.handlePeers()
	return nil
}

// measured takes what the agent measures.
func (n *Node) measured(group, instance, metric string, value float64) {
	if err := n.samples.Push(group, metric, instance, value, time.Now()); err != nil {
		n.log.Debug("a sample was not taken", "group", group, "metric", metric, "err", err)
	}
}

func (n *Node) newAPI() (err error) {
	if n.env.NoAPI {
		return nil
	}
	n.api, err = httpapi.New(httpapi.Config{
		Node: n.cfg.Name, Version: n.cfg.Version, Cluster: n.cluster, Status: n.status, Explain: n.explain,
		Ready: n.ready, Metrics: n, Logs: n, Heartbeats: n, Sessions: n.sessions, Registerer: n.reg, Gatherer: n.reg,
		TokenFile: n.cfg.TokenFile, Logger: n.log,
	})
	return err
}

// Start joins the cluster and begins to work. It returns at once; what goes
// wrong later arrives at Failed.
func (n *Node) Start(ctx context.Context) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	n.stop = stop
	if err := n.cluster.Start(ctx); err != nil {
		stop()
		return err
	}
	n.startTraffic(run)
	n.startDNS()
	n.startXDS()
	if n.api != nil {
		n.wg.Go(func() {
			if err := n.api.Serve(n.listen); err != nil {
				n.fail(fmt.Errorf("the API has ended: %w", err))
			}
		})
	}
	if n.cfg.DebugAddr != "" {
		n.wg.Go(func() { n.serveProfiles(run) })
	}
	n.wg.Go(func() { n.watchCluster(run) })
	n.wg.Go(func() { n.keepRegistered(run) })
	n.wg.Go(func() {
		if err := n.agent.Run(run); err != nil && run.Err() == nil {
			n.fail(fmt.Errorf("the agent has ended: %w", err))
		}
	})
	return nil
}

// watchCluster ends the node when its part in the cluster has ended: a node
// without it would go on answering from what it last knew.
func (n *Node) watchCluster(ctx context.Context) {
	select {
	case <-n.cluster.Done():
	case <-ctx.Done():
		return
	}
	err := n.cluster.Err()
	if err == nil {
		n.log.Info("this node has left the cluster; its instances end")
		n.cfg.EndInstances = true // nobody else knows them any more
	}
	n.fail(err)
}

// Failed yields the error that the node can not go on after, or nil when it
// has left the cluster and there is nothing to go on with.
func (n *Node) Failed() <-chan error { return n.failed }

func (n *Node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// Stop ends the node as SIGTERM does: it hands leadership over, finishes the
// requests that it has, and leaves its instances running and its membership
// as it is.
func (n *Node) Stop(ctx context.Context) error {
	var problems []error
	if n.api != nil {
		n.api.NotReady("the node is stopping")
	}
	if leader, _, ok := n.cluster.Leader(); ok && leader == n.cfg.Name {
		if err := n.cluster.TransferLeadership(ctx, ""); err != nil {
			n.log.Warn("leadership could not be handed over", "err", err)
		}
	}
	if n.proxy != nil {
		problems = append(problems, n.proxy.Shutdown(ctx))
	}
	problems = append(problems, n.stopDNS(ctx))
	n.stopXDS(ctx)
	if n.api != nil {
		problems = append(problems, n.api.Shutdown(ctx))
	}
	if n.stop != nil {
		n.stop()
	}
	n.wg.Wait()
	if n.cfg.EndInstances {
		problems = append(problems, n.endInstances(ctx))
	}
	problems = append(problems, n.cluster.Stop(ctx), n.driver.Close())
	return errors.Join(problems...)
}

// endInstances ends whatever runs on this node.
func (n *Node) endInstances(ctx context.Context) error {
	list, err := n.driver.List(ctx)
	var wg sync.WaitGroup
	for _, st := range list {
		if st.Phase == driver.Running {
			wg.Go(func() {
				_, _ = n.driver.Stop(ctx, st.ID, driver.StopSpec{Term: st.Term, Signal: "TERM", Timeout: endTimeout})
			})
		}
	}
	wg.Wait()
	return err
}

// Kill ends the node as a crash does; for tests.
func (n *Node) Kill() {
	n.cluster.Kill()
	if n.stop != nil {
		n.stop()
	}
	n.endTraffic()
	n.wg.Wait()
	_ = n.driver.Close()
}

// close lets go of what New had opened.
func (n *Node) close() {
	n.endTraffic()
	if n.listen != nil {
		_ = n.listen.Close()
	}
	if n.driver != nil {
		_ = n.driver.Close()
	}
	if n.cluster != nil {
		_ = n.cluster.Stop(context.Background())
	}
}

// Reload reads the token file again.
func (n *Node) Reload() error {
	if n.api == nil {
		return nil
	}
	return n.api.Reload()
}

// Cluster is the node's view of the cluster, for tests and the simulation.
func (n *Node) Cluster() *cluster.Cluster { return n.cluster }

// API is the address that the API listens on.
func (n *Node) API() string { return n.cfg.APIAddr }
