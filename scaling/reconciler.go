package scaling

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// ReconcilerConfig configures a [Reconciler]. Zero fields mean the defaults.
type ReconcilerConfig struct {
	Limits Limits
	// Every is the time between two passes when nothing happens.
	Every time.Duration
	// Debounce is how long a pass waits for further events after the first.
	Debounce time.Duration
	// Retry is the pause after a proposal that failed.
	Retry time.Duration
	// NewID makes instance ids (ULIDs). It is required.
	NewID func() string
	// InFlight is how many requests an instance has: of those that a scale-in
	// may choose, the one with the fewest goes. Nil when nothing is known.
	InFlight func(instance string) float64
	// Witness confirms that an unhealthy instance fails before it is replaced;
	// nil believes its node. AskEvery is the least time between two questions
	// about an instance, and DoubtFor how long one that answers is kept.
	Witness  Witness
	AskEvery time.Duration
	DoubtFor time.Duration
	Log      *slog.Logger
	Metrics  *Metrics
}

// Reconciler keeps what runs equal to what is wanted. It runs on the leader.
//
//	start ─► full pass ─► wait ─► pass ─► wait ─► …
//	                       ▲ an event, the plan's own wake-up time,
//	                         the periodic tick, or a retry
//
// A pass reads one state, plans, and proposes. Events only wake it; nothing is
// carried from one pass to the next but the index that the state must have
// reached for its own last proposals to be visible, and what other nodes say
// about unhealthy instances.
type Reconciler struct {
	cfg     ReconcilerConfig
	cluster Cluster
	nodes   Liveness
	doubts  atomic.Pointer[doubts] // of the term that runs
}

// NewReconciler returns a reconciler. nodes may be nil when nothing is known
// of the nodes beyond the state.
func NewReconciler(cfg ReconcilerConfig, cluster Cluster, nodes Liveness) *Reconciler {
	cfg.Every = orDefault(cfg.Every, 5*time.Second)
	cfg.Debounce = orDefault(cfg.Debounce, 10*time.Millisecond)
	cfg.Retry = orDefault(cfg.Retry, 500*time.Millisecond)
	cfg.AskEvery = orDefault(cfg.AskEvery, 30*time.Second)
	cfg.DoubtFor = orDefault(cfg.DoubtFor, 10*time.Minute)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = unregistered()
	}
	return &Reconciler{cfg: cfg, cluster: cluster, nodes: nodes}
}

// Run reconciles until ctx ends, which gives nil, or until the log has moved
// on to a later term, which gives an error.
func (r *Reconciler) Run(ctx context.Context, term uint64) error {
	ctx, cancel := context.WithCancel(fsm.WithActor(ctx, loopReconciler))
	events := make(chan struct{}, 1)
	var watcher sync.WaitGroup
	watcher.Go(func() { r.watch(ctx, events) })
	d := newDoubts(r.cfg, func() { notify(events) })
	r.doubts.Store(d)
	defer r.doubts.CompareAndSwap(d, nil)
	defer func() { cancel(); watcher.Wait(); d.wg.Wait() }()
	var seen uint64
	for {
		next, err := r.pass(ctx, term, d, &seen)
		if err != nil {
			return err
		}
		if !r.wait(ctx, events, next) {
			return nil
		}
	}
}

// wait returns true when it is time for a pass: after d, or after an event and
// the debounce. A fixed debounce bounds how long a stream of events can put a
// pass off.
func (r *Reconciler) wait(ctx context.Context, events <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	case <-events:
	}
	return pause(ctx, r.cfg.Debounce)
}

// pass makes one plan and carries it out. It returns how long to wait for the
// next one. seen is the index of the loop's own newest proposal.
func (r *Reconciler) pass(ctx context.Context, term uint64, d *doubts, seen *uint64) (time.Duration, error) {
	s := r.cluster.State()
	if err := superseded(s, term); err != nil {
		return 0, err
	}
	if s.Index() < *seen {
		// Planning now would propose the same once more.
		return r.cfg.Debounce, nil
	}
	began := time.Now()
	planner := Planner{
		Limits: r.cfg.Limits, Term: term, NewID: r.cfg.NewID, InFlight: r.cfg.InFlight, Avoid: r.silent(s), Spared: d.look(ctx, s, began),
	}
	plan := planner.Plan(s, logTime(s))
	r.cfg.Metrics.planned(&plan, time.Since(began))
	index, err := r.carryOut(ctx, &plan)
	*seen = max(*seen, index)
	switch {
	case err != nil:
		// Events do not cut this pause short: a proposal whose outcome is not
		// known gets the time to show in the state.
		pause(ctx, r.cfg.Retry)
		return 0, nil
	case plan.More:
		return 0, nil
	case plan.Wake.IsZero():
		return r.cfg.Every, nil
	}
	return max(0, min(r.cfg.Every, plan.Wake.Sub(logTime(s)))), nil
}

// Doubted names the unhealthy instances that are not replaced, and the node
// that they answer, or "" while they are being asked. It is empty where the
// reconciler does not run.
func (r *Reconciler) Doubted() map[string]string {
	if d := r.doubts.Load(); d != nil {
		return d.current()
	}
	return nil
}

// silent names the ready nodes that do not answer: they get no new instances
// while it is being found out whether they are down.
func (r *Reconciler) silent(s *fsm.State) map[string]string {
	if r.nodes == nil {
		return nil
	}
	avoid := map[string]string{}
	for name := range s.Nodes.All() {
		if alive, known := r.nodes.Alive(name); known && !alive {
			avoid[name] = "does not answer"
		}
	}
	return avoid
}

// carryOut proposes the plan: the groups side by side, so that their proposals
// are committed together, the commands of a group in order. A group's first
// failure ends its part; the next pass plans it anew.
func (r *Reconciler) carryOut(ctx context.Context, plan *Plan) (uint64, error) {
	var busy []GroupPlan
	for _, g := range plan.Groups {
		if len(g.Commands) > 0 {
			busy = append(busy, g)
		}
	}
	indexes, errs := make([]uint64, len(busy)), make([]error, len(busy))
	inParallel(len(busy), func(k int) {
		for _, c := range busy[k].Commands {
			res, err := r.cluster.Propose(ctx, c)
			if err != nil {
				errs[k] = err
				r.failed(ctx, busy[k].Group, c, err)
				return
			}
			indexes[k] = res.Index
			r.cfg.Metrics.carriedOut(c)
		}
	})
	if len(busy) == 0 {
		return 0, nil
	}
	return slices.Max(indexes), errors.Join(errs...)
}

func (r *Reconciler) failed(ctx context.Context, group string, c fsm.Command, err error) {
	if ctx.Err() != nil {
		return
	}
	r.cfg.Metrics.failures.WithLabelValues(loopReconciler).Inc()
	r.cfg.Log.Warn("a proposal failed and will be planned again", "group", group, "command", c.Name(), "error", err)
}

// watch turns relevant change sets into events. When it lags it says so by an
// event, since a pass reads the whole state anyway, and watches again.
func (r *Reconciler) watch(ctx context.Context, events chan<- struct{}) {
	for ctx.Err() == nil {
		for set, err := range r.cluster.Watch(ctx, r.cluster.State().Index()) {
			if err != nil || relevant(set) {
				notify(events)
			}
			if err != nil {
				break
			}
		}
		if !pause(ctx, r.cfg.Debounce) {
			return
		}
	}
}

// relevant reports whether a change can call for a pass. Decisions, metric
// windows and activities are many and never do by themselves.
func relevant(set fsm.ChangeSet) bool {
	return set.Reset || slices.ContainsFunc(set.Changes, func(c fsm.Change) bool {
		return c.Table == "groups" || c.Table == "instances" || c.Table == "nodes"
	})
}

func notify(events chan<- struct{}) {
	select {
	case events <- struct{}{}:
	default: // one is waiting already
	}
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// inParallel calls work for 0 to n-1, a bounded number at a time, and returns
// when all are done.
func inParallel(n int, work func(k int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallelProposals)
	for k := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			work(k)
		})
	}
	wg.Wait()
}
