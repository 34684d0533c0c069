package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/cluster"
)

// Limits of one run.
const (
	maxLogLines   = 20_000           // kept of what the nodes log and the faults do
	maxViolations = 20               // further ones are counted only
	maxMachines   = 9                // that one run may have
	setupTime     = 20 * time.Second // for a first leader and the first rows
	opTimeout     = 4 * time.Second  // a client gives up one attempt
	auditEvery    = 50 * time.Millisecond
)

// Options says what one run consists of. The zero value of a field means its
// default.
type Options struct {
	// Seed is what faults, load and network are drawn from.
	Seed uint64
	// Nodes found the cluster; NonVoters join it. By default the seed chooses
	// 3 or 5 nodes, and now and then a non-voter.
	Nodes, NonVoters int
	// Load is how long clients and faults go on; 60 s by default.
	Load time.Duration
	// Calm is how long the cluster may take to converge after that; 60 s by
	// default.
	Calm time.Duration
	// Clients is how many clients work side by side; 6 by default.
	Clients int
	// Faults are the kinds to draw from; all by default. An empty list that is
	// not nil means none.
	Faults []Kind
	// Bug is planted into the product's surroundings, to prove the checks.
	Bug Bug
	// Verbose is called with each line of the run's log; nil for nobody.
	Verbose func(line string)
}

func (o Options) withDefaults() Options {
	rng := rand.New(rand.NewPCG(o.Seed, 0x6f7074))
	nodes, extra := 3+2*rng.IntN(2), 0
	if rng.IntN(4) == 0 {
		extra = 1
	}
	if o.Nodes == 0 {
		o.Nodes, o.NonVoters = nodes, extra
	}
	if o.Load == 0 {
		o.Load = 60 * time.Second
	}
	if o.Calm == 0 {
		o.Calm = 60 * time.Second
	}
	if o.Clients == 0 {
		o.Clients = 6
	}
	if o.Faults == nil {
		o.Faults = Kinds()
	}
	return o
}

// World is one simulated cluster with all that surrounds it.
type World struct {
	opt       Options
	net       *Network
	chance    *chance
	machines  []*machine
	log       *runLog
	audit     *auditor
	ledger    *ledger
	history   *history
	weather   *weather
	stats     Stats
	registers registers
	began     time.Time
	// supervisors are the goroutines that watch over the processes.
	supervisors sync.WaitGroup

	mu         sync.Mutex
	violations []string
	suppressed int
}

// Run simulates one cluster. It must be called inside a testing/synctest
// bubble, and ends with every goroutine of the nodes gone.
func Run(o Options) *Report {
	o = o.withDefaults()
	w := &World{opt: o, net: NewNetwork(o.Seed), chance: newChance(o.Seed), began: time.Now()}
	w.log = &runLog{began: w.began, verbose: o.Verbose}
	w.ledger = newLedger(w)
	w.history = &history{began: w.began}
	w.audit = newAuditor(w)
	w.weather = newWeather(w)
	schedule := w.draw()
	for k := range o.Nodes + o.NonVoters {
		w.addMachine(k >= o.Nodes)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.audit.run(ctx) })
	if w.raise(ctx) {
		w.underLoad(ctx, schedule)
		w.calmDown(ctx)
	}
	cancel()
	wg.Wait()
	w.shutDown()
	w.supervisors.Wait()
	w.audit.finish()
	w.checkLeaks()
	return w.report(schedule)
}

// raise starts the founders and writes the first rows.
func (w *World) raise(ctx context.Context) bool {
	var wg sync.WaitGroup
	for _, m := range w.machines {
		wg.Go(func() { m.up(ctx) })
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, setupTime)
	defer cancel()
	if err := w.plantRows(ctx); err != nil {
		w.violate("liveness", "the cluster could not be set up: %v", err)
		return false
	}
	w.weather.refresh()
	return true
}

// underLoad runs clients and faults side by side.
func (w *World) underLoad(ctx context.Context, schedule []Fault) {
	load, cancel := context.WithTimeout(ctx, w.opt.Load)
	defer cancel()
	var wg sync.WaitGroup
	for k := range w.opt.Clients {
		wg.Go(func() { w.newCaller(k).run(load) })
	}
	wg.Go(func() { w.pushMetrics(load) })
	wg.Go(func() { w.unleash(load, schedule) })
	wg.Wait()
}

// shutDown ends all nodes: some in order, some not, as it comes.
func (w *World) shutDown() {
	var wg sync.WaitGroup
	for k, m := range w.machines {
		wg.Go(func() {
			if k%2 == 0 {
				m.stop()
			} else {
				m.crash(false)
			}
		})
	}
	wg.Wait()
}

// violate records that something was seen which must not be.
func (w *World) violate(check, format string, args ...any) {
	text := fmt.Sprintf("%s: %s", check, fmt.Sprintf(format, args...))
	w.log.add("check", "VIOLATION "+text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) >= maxViolations {
		w.suppressed++
		return
	}
	w.violations = append(w.violations, fmt.Sprintf("[%s] %s", time.Since(w.began), text))
}

// abort ends the run where it is, with a dump: the bubble of a run that hangs
// can not be left in another way.
func (w *World) abort() {
	r := w.report(w.draw())
	stacks := make([]byte, maxStacks)
	r.stacks = string(stacks[:runtime.Stack(stacks, true)])
	name, err := r.Dump(os.Getenv("PACELINE_SIM_DIR"))
	if err != nil {
		name = err.Error()
	}
	panic(fmt.Sprintf("simulation of seed %d hangs: %v\nsee %s", w.opt.Seed, w.violations, name))
}

// live lists the machines whose node process runs.
func (w *World) live() []*machine {
	var list []*machine
	for _, m := range w.everyone() {
		if c, _ := m.process(); c != nil {
			list = append(list, m)
		}
	}
	return list
}

// everyone lists all machines that there have been so far.
func (w *World) everyone() []*machine {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.machines)
}

// leader is the machine that most others take for the leader, or nil.
func (w *World) leader() *machine {
	votes := map[string]int{}
	best := ""
	for _, m := range w.live() {
		c, _ := m.process()
		if name, _, ok := c.Leader(); ok {
			if votes[name]++; votes[name] > votes[best] {
				best = name
			}
		}
	}
	for _, m := range w.live() {
		if m.name == best {
			return m
		}
	}
	return nil
}

// timing makes what happens in minutes happen within a run.
func timing(t *cluster.Timing) {
	t.SnapshotInterval, t.SnapshotThreshold, t.TrailingLogs = 4*time.Second, 400, 150
	t.Digest = time.Second
}

// chance is a source of numbers for the goroutines of a run. Each asks for a
// source of its own, so that the order in which they run does not matter.
type chance struct{ seed uint64 }

func newChance(seed uint64) *chance { return &chance{seed} }

func (c *chance) of(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(c.seed, purpose)) }
