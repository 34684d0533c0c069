package agent

import (
	"context"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// The limits of the agent, and how patient it is.
const (
	// defaultStarts is how many instances are launched at once.
	defaultStarts = 8
	// maxChecks is how many health checks run at once.
	maxChecks = 64
	// maxQuestions is how many instances are asked at once for the leader.
	maxQuestions = 64
	// maxBatch is how many reports one command carries.
	maxBatch = 256
	// maxReason is the most bytes of a reason that the state keeps.
	maxReason = 256
	// maxLogLine is how much of the last line of a log goes into a reason.
	maxLogLine = 160
	// proposeTimeout bounds one attempt to report.
	proposeTimeout = 10 * time.Second
	// retryFirst and retryLast bound the waits between attempts.
	retryFirst = 100 * time.Millisecond
	retryLast  = 2 * time.Second
	// passPause keeps full passes apart when the watch ends again and again.
	passPause = 20 * time.Millisecond
	// drainAtLeast is the least time between the end of new requests for an
	// instance of a service and its signal: the time in which the proxies of
	// all nodes hear of it, and requests under way end.
	drainAtLeast = time.Second
	// drainLook is how often a draining instance's sessions are looked at.
	drainLook = 250 * time.Millisecond
	// settleEvery is how often an end is reported again that the state does
	// not show.
	settleEvery = 5 * time.Second
	// readTimeout bounds the reading of a log line for a reason.
	readTimeout = 2 * time.Second
)

// Cluster is what the agent needs of the cluster.
type Cluster interface {
	// Propose applies a command and returns when the local state shows it.
	Propose(ctx context.Context, c fsm.Command) (fsm.Result, error)
	// State is the local state.
	State() *fsm.State
	// Watch yields the changes after an index, until ctx ends. An error, such
	// as having lagged behind, ends it; the reader then takes the whole state.
	Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error]
}

// Config is what an agent is told.
type Config struct {
	// Node and Incarnation are those of this process's RegisterNode. The agent
	// does nothing until the state shows that registration: an older state may
	// be a replay, or belong to a cluster that has not formed yet.
	Node        string
	Incarnation uint64
	Cluster     Cluster
	Drivers     []driver.Driver
	// Metrics takes what is measured of the running instances: "cpu" in
	// percent of the template's cores (of one core when it names none), and
	// "memory" in percent of its memory (of the node's when it names none).
	// It may be nil, and must not block.
	Metrics func(group, instance, metric string, value float64)
	Logger  *slog.Logger
	// Registerer takes the agent's own series; nil for none.
	Registerer prometheus.Registerer
	// MaxStarts is how many instances are launched at once; 8 by default.
	MaxStarts int
	// SampleEvery is how often instances are measured; 2 s by default.
	SampleEvery time.Duration
	// SweepEvery is how often everything is compared; 10 s by default.
	SweepEvery time.Duration
}

// Agent is the loop of one node. See [New].
type Agent struct {
	cfg     Config
	log     *slog.Logger
	drivers map[string]driver.Driver
	prober  *prober
	reports *reporter
	starts  chan struct{}
	met     *metrics

	// registered and cluster are of the newest state that shows this process's
	// registration. Only Run uses them.
	registered uint64
	cluster    string

	wg      sync.WaitGroup
	mu      sync.Mutex
	workers map[string]*worker
}

// New returns an agent that does nothing until it is Run.
func New(cfg Config) *Agent {
	if cfg.MaxStarts <= 0 {
		cfg.MaxStarts = defaultStarts
	}
	if cfg.SampleEvery <= 0 {
		cfg.SampleEvery = 2 * time.Second
	}
	if cfg.SweepEvery <= 0 {
		cfg.SweepEvery = 10 * time.Second
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = func(string, string, string, float64) {}
	}
	a := &Agent{
		cfg: cfg, log: cfg.Logger.With("part", "agent"), drivers: map[string]driver.Driver{},
		prober: newProber(), starts: make(chan struct{}, cfg.MaxStarts), met: newMetrics(cfg.Registerer), workers: map[string]*worker{},
	}
	for _, d := range cfg.Drivers {
		a.drivers[d.Name()] = d
	}
	a.reports = newReporter(cfg.Cluster, cfg.Node, cfg.Incarnation, a.log)
	return a
}

// Run works until ctx ends. The instances run on: stopping a node is not
// leaving the cluster, and the next Run adopts them.
func (a *Agent) Run(ctx context.Context) error {
	defer a.prober.close()
	defer a.wg.Wait()
	a.wg.Go(func() { a.reports.run(ctx) })
	a.wg.Go(func() { a.measure(ctx) })
	for ctx.Err() == nil {
		s := a.cfg.Cluster.State()
		a.pass(ctx, s)
		a.follow(ctx, s.Index())
		pause(ctx, passPause)
	}
	return ctx.Err()
}

// trusted reports whether a state may be acted on: it shows that this very
// process has registered, so it is newer than all that earlier processes of
// this node have done. Once that was seen, a later state of the same cluster
// in which the node is missing is trusted too: the node was removed, and what
// it runs is replaced elsewhere.
func (a *Agent) trusted(s *fsm.State) bool {
	n, ok := s.Nodes.Get(a.cfg.Node)
	if ok {
		if n.Incarnation != a.cfg.Incarnation {
			return false
		}
		a.registered, a.cluster = s.Index(), s.ClusterID()
		return true
	}
	return a.registered > 0 && s.Index() > a.registered && s.ClusterID() == a.cluster
}

// pass compares everything: what the state places here, and what runs here.
func (a *Agent) pass(ctx context.Context, s *fsm.State) {
	if !a.trusted(s) {
		return
	}
	for id, row := range s.Instances.All() {
		if row.Node == a.cfg.Node && !row.State.Terminal() {
			a.tell(ctx, s, id, row)
		}
	}
	for _, id := range a.known() {
		a.tell(ctx, s, id, a.rowOf(s, id))
	}
	for _, d := range a.drivers {
		list, err := d.List(ctx)
		if err != nil {
			a.log.Warn("a driver can not list its instances", "driver", d.Name(), "error", err)
			continue
		}
		for _, st := range list {
			a.compare(ctx, s, d, st)
		}
	}
}

// compare looks at what a driver has: orphans are ended, and what has ended
// and been forgotten is removed.
func (a *Agent) compare(ctx context.Context, s *fsm.State, d driver.Driver, st driver.Status) {
	row := a.rowOf(s, st.ID)
	switch {
	case st.Phase == driver.Running:
		a.tell(ctx, s, st.ID, row)
	case row == nil && a.worker(st.ID) == nil:
		if err := d.Remove(ctx, st.ID); err != nil {
			a.log.Warn("an ended instance can not be removed", "instance", st.ID, "error", err)
		}
	}
}

// rowOf is the row of an instance if it is one of this node, or nil.
func (a *Agent) rowOf(s *fsm.State, id string) *fsm.Instance {
	row, ok := s.Instances.Get(id)
	if !ok || row.Node != a.cfg.Node {
		return nil
	}
	return row
}

// follow acts on changes after an index, until it is time for a full pass.
func (a *Agent) follow(run context.Context, from uint64) {
	ctx, cancel := context.WithTimeout(run, a.cfg.SweepEvery)
	defer cancel()
	for changes, err := range a.cfg.Cluster.Watch(ctx, from) {
		if err != nil || changes.Reset || a.apply(run, changes) {
			return
		}
	}
}

// apply acts on one set of changes, and reports whether a full pass is needed.
func (a *Agent) apply(ctx context.Context, changes fsm.ChangeSet) (again bool) {
	s := a.cfg.Cluster.State()
	if s.Index() < changes.Index {
		return true
	}
	for _, c := range changes.Changes {
		switch {
		case c.Table == s.Nodes.Name() && c.Key == a.cfg.Node:
			again = true
		case c.Table == s.Instances.Name() && a.concerns(c) && a.trusted(s):
			a.tell(ctx, s, c.Key, a.rowOf(s, c.Key))
		}
	}
	return again
}

// concerns reports whether a changed row is of an instance of this node.
func (a *Agent) concerns(c fsm.Change) bool {
	for _, v := range []any{c.New(), c.Old()} {
		if row, ok := v.(*fsm.Instance); ok && row != nil && row.Node == a.cfg.Node {
			return true
		}
	}
	return false
}

// tell gives an instance's worker the row of a state, and makes the worker
// when there is something to do. ctx is that of Run: the worker lives in it.
func (a *Agent) tell(ctx context.Context, s *fsm.State, id string, row *fsm.Instance) {
	v := &view{row: row, term: s.Term()}
	w := a.worker(id)
	if w != nil {
		w.show(v)
		return
	}
	if (row == nil || row.State.Terminal()) && !a.runsHere(ctx, id) {
		return
	}
	a.spawn(ctx, id, v)
}

func (a *Agent) spawn(ctx context.Context, id string, v *view) {
	w := &worker{agent: a, id: id, wake: make(chan struct{}, 1)}
	w.view.Store(v)
	a.mu.Lock()
	a.workers[id] = w
	a.mu.Unlock()
	a.wg.Go(func() {
		defer a.drop(w)
		w.run(ctx)
	})
}

func (a *Agent) drop(w *worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.workers[w.id] == w {
		delete(a.workers, w.id)
	}
}

func (a *Agent) worker(id string) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[id]
}

// known lists the instances that have a worker.
func (a *Agent) known() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	ids := make([]string, 0, len(a.workers))
	for id := range a.workers {
		ids = append(ids, id)
	}
	return ids
}

// find returns the driver that has an instance, and its status there.
func (a *Agent) find(ctx context.Context, id string) (driver.Driver, driver.Status, bool) {
	for _, d := range a.drivers {
		if st, ok, err := driver.Find(ctx, d, id); err == nil && ok {
			return d, st, true
		}
	}
	return nil, driver.Status{}, false
}

func (a *Agent) runsHere(ctx context.Context, id string) bool {
	_, st, ok := a.find(ctx, id)
	return ok && st.Phase == driver.Running
}

// Logs reads the log of an instance of this node.
func (a *Agent) Logs(ctx context.Context, id string, q driver.LogQuery) (driver.LogChunk, error) {
	d, _, ok := a.find(ctx, id)
	if !ok {
		return driver.LogChunk{}, driver.Unknown(id).
			WithHint("it has not been started yet, or its log was removed with it")
	}
	return d.Logs(ctx, id, q)
}

// Heartbeat takes what an instance of this node says about itself: nil that it
// can serve, or an error that says why not. It returns how long that counts.
func (a *Agent) Heartbeat(ctx context.Context, id string, failure error) (time.Duration, error) {
	row, err := a.cfg.Cluster.State().Instances.Lookup(id)
	if err != nil {
		return 0, err
	}
	if row.State.Terminal() {
		return 0, fsm.Errorf(fsm.Conflict, "instance", id, "is %s and takes no heartbeats", row.State)
	}
	t, err := a.cfg.Cluster.State().TemplateAt(row.Template, row.Version)
	if err != nil {
		return 0, err
	}
	if check := t.CheckOrDefault(); check.Type != fsm.CheckTTL {
		return 0, fsm.Errorf(fsm.Conflict, "instance", id, "has a health check of type %q, which takes no heartbeats", check.Type).
			WithHint("give template %s the healthCheck {\"type\": \"ttl\"} to have its instances send them", t.Name)
	}
	if w := a.worker(id); w != nil {
		if c := w.checks.Load(); c != nil && c.beat(ctx, failure) {
			a.met.heartbeats.Inc()
			return c.spec.TTL.Std(), nil
		}
	}
	return 0, fsm.Errorf(fsm.Unavailable, "instance", id, "is %s and not checked at present", row.State).
		WithHint("send the next heartbeat when it is due")
}

// Ask makes one http, tcp or grpc check from this node, of an instance of any
// node at its address, and says what is wrong with it.
func (a *Agent) Ask(ctx context.Context, address string, c fsm.HealthCheck) error {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout.Std())
	defer cancel()
	return inTurn(ctx, a.prober.questions, func(ctx context.Context) error { return a.prober.ask(ctx, address, c) })
}

// pause waits, and reports whether ctx still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
