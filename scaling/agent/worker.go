package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// firstLaunch is the incarnation of every instance here: a driver runs an
// instance once, and a new copy is a new instance.
const firstLaunch = 1

// view is an instance's row in a state of some term; row is nil when there is
// none.
type view struct {
	row  *fsm.Instance
	term uint64
}

// worker walks one instance through its life. It alone acts on the instance.
//
//	row        worker
//	planned    report starting, and wait until the state shows it: the claim
//	starting   Start; report running
//	running    check; report changes of health
//	draining   wait stop.grace; report stopping
//	stopping   Stop; report stopped
//	ended or gone, and it still runs: Stop, report nothing
//	it ends by itself: report failed
type worker struct {
	agent *Agent
	id    string
	view  atomic.Pointer[view]
	wake  chan struct{}
	// driver has the instance, once it is launched or found. serving publishes
	// it while the instance is supervised.
	driver  driver.Driver
	serving atomic.Pointer[driver.Driver]
	// checks is the instance's checker while there is one.
	checks atomic.Pointer[checker]
	// flaps is whether the agent counts the instance as flapping.
	flaps bool
}

// show gives the worker its row of the present state.
func (w *worker) show(v *view) {
	w.view.Store(v)
	notify(w.wake)
}

func (w *worker) row() *fsm.Instance { return w.view.Load().row }

// wanted reports whether the row still asks for a running instance.
func (w *worker) wanted() bool {
	row := w.row()
	return row != nil && (row.State == fsm.Starting || row.State == fsm.Running)
}

// over reports whether nothing about the instance remains to be said.
func (w *worker) over() bool {
	row := w.row()
	return row == nil || row.State.Terminal()
}

// run lives through the instance's life on this node.
func (w *worker) run(ctx context.Context) {
	st, ok := w.obtain(ctx)
	if !ok {
		return
	}
	w.keep(ctx, st)
}

// obtain returns the instance's process: one that is there, or a new one.
func (w *worker) obtain(ctx context.Context) (driver.Status, bool) {
	row := w.row()
	if d, st, found := w.agent.find(ctx, w.id); found && (row == nil || row.State != fsm.Planned) {
		w.driver = d
		return st, true
	}
	switch {
	case w.over() || ctx.Err() != nil:
		return driver.Status{}, false
	case row.State == fsm.Planned:
		return w.claimAndStart(ctx)
	}
	// An earlier process of this node has claimed it, and nothing runs.
	w.settle(ctx, w.endState(), "its process was gone when the node came back")
	return driver.Status{}, false
}

// errNotWanted says that a claimed instance was given up before its launch.
var errNotWanted = errors.New("it was not launched yet")

// claimAndStart launches a planned instance.
func (w *worker) claimAndStart(ctx context.Context) (driver.Status, bool) {
	if !w.claim(ctx) {
		return driver.Status{}, false
	}
	st, err := w.launch(ctx)
	switch {
	case err == nil:
		return st, true
	case ctx.Err() != nil: // the next process of this node finds out
	case errors.Is(err, errNotWanted):
		w.settle(ctx, fsm.Stopped, err.Error())
	default:
		w.settle(ctx, fsm.Failed, err.Error())
	}
	return driver.Status{}, false
}

// claim reports the instance as starting and waits until the state shows it,
// so that one whose claim never came through, because it was replaced or the
// node was declared dead, is not launched at all.
func (w *worker) claim(ctx context.Context) bool {
	w.report(fsm.InstanceReport{State: fsm.Starting})
	for w.row() != nil && w.row().State == fsm.Planned {
		select {
		case <-w.wake:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// launch asks the driver to run the instance, when it is this one's turn.
func (w *worker) launch(ctx context.Context) (driver.Status, error) {
	select {
	case w.agent.starts <- struct{}{}:
		defer func() { <-w.agent.starts }()
	case <-ctx.Done():
		return driver.Status{}, ctx.Err()
	}
	row := w.row()
	if row == nil || row.State != fsm.Starting {
		return driver.Status{}, errNotWanted
	}
	t, err := w.agent.cfg.Cluster.State().TemplateAt(row.Template, row.Version)
	if err != nil {
		return driver.Status{}, err
	}
	d, ok := w.agent.drivers[t.Driver]
	if !ok {
		return driver.Status{}, fsm.Errorf(fsm.Unavailable, "driver", t.Driver, "is not on node %s", w.agent.cfg.Node)
	}
	w.driver = d
	return d.Start(ctx, driver.SpecOf(row, t))
}

// ending is why the supervision of an instance is over.
type ending int

const (
	// cutShort: the agent stops, the instance runs on.
	cutShort ending = iota
	// exited: the instance ended by itself.
	exited
	// released: the row does not ask for it any more.
	released
	// sick: it never became healthy.
	sick
)

// keep holds the instance until its end, and brings that into the state.
func (w *worker) keep(ctx context.Context, st driver.Status) {
	ctx, cancel := context.WithCancel(ctx)
	exit, done := w.watchExit(ctx)
	defer func() { cancel(); <-done }()
	why, reason := w.supervise(ctx, st, exit)
	switch why {
	case exited:
		w.settle(ctx, w.endState(), reason)
	case sick:
		w.report(fsm.InstanceReport{State: fsm.Running, Health: fsm.Unhealthy, Reason: reason})
		if _, ok := w.stop(ctx); ok {
			w.settle(ctx, fsm.Failed, reason)
		}
	case released:
		w.release(ctx, exit)
	}
}

// watchExit tells once that the instance has ended.
func (w *worker) watchExit(ctx context.Context) (<-chan driver.Status, <-chan struct{}) {
	exit, done := make(chan driver.Status, 1), make(chan struct{})
	go func() {
		defer close(done)
		for {
			st, err := w.driver.Wait(ctx, w.id)
			if err == nil || fsm.KindOf(err) == fsm.NotFound {
				exit <- st
				return
			}
			if !pause(ctx, retryLast) {
				return
			}
		}
	}()
	return exit, done
}

// supervise reports that the instance runs, and its health, while the row
// wants it to run.
func (w *worker) supervise(ctx context.Context, st driver.Status, exit <-chan driver.Status) (ending, string) {
	if !w.wanted() {
		return released, ""
	}
	if st.Phase == driver.Ended {
		return exited, w.reasonOf(st)
	}
	check := w.template().CheckOrDefault()
	w.reportRunning(st, check)
	w.serving.Store(&w.driver)
	defer w.serving.Store(nil)
	if check.Type == fsm.CheckNone {
		return w.watchOver(ctx, nil, exit, nil)
	}
	checks, stop := context.WithCancel(ctx)
	row := w.rowOrEmpty()
	c := newChecker(check, row, w.agent.prober.probe(w.driver, st, check))
	w.checks.Store(c)
	w.flapping(c.damp.held)
	go c.run(checks)
	defer func() { w.checks.Store(nil); stop(); <-c.done; w.flapping(false) }()
	grace := check.Grace.Std()
	if row.Health != fsm.Unknown {
		grace = -1 // an earlier process of this node saw it healthy
	}
	timer, cancel := after(grace)
	defer cancel()
	return w.watchOver(ctx, c, exit, timer)
}

// watchOver is the loop of a running instance. c is nil when nothing is
// checked.
func (w *worker) watchOver(ctx context.Context, c *checker, exit <-chan driver.Status, grace <-chan time.Time) (ending, string) {
	var edges <-chan edge
	if c != nil {
		edges = c.edges
	}
	for {
		select {
		case <-ctx.Done():
			return cutShort, ""
		case st := <-exit:
			return exited, w.reasonOf(st)
		case <-w.wake:
			if !w.wanted() {
				return released, ""
			}
		case e := <-edges:
			grace = nil
			w.reportHealth(c, e)
		case <-grace:
			return sick, neverHealthy(c)
		}
	}
}

func neverHealthy(c *checker) string {
	text := fmt.Sprintf("was not healthy within %s of its start", c.spec.Grace)
	if err := c.lastError(); err != nil {
		text += ": " + err.Error()
	}
	return text
}

// release ends an instance that is not wanted: with notice when it drains, at
// once when its row has ended without it.
func (w *worker) release(ctx context.Context, exit <-chan driver.Status) {
	row := w.row()
	if row != nil && row.State == fsm.Draining {
		if st, ended := w.drain(ctx, exit); ended {
			w.settle(ctx, fsm.Stopped, "ended while it drained: "+w.reasonOf(st))
			return
		}
		if ctx.Err() != nil {
			return
		}
		w.report(fsm.InstanceReport{State: fsm.Stopping})
	}
	orphan := w.over()
	st, ok := w.stop(ctx)
	switch {
	case !ok:
	case orphan:
		w.agent.log.Info("ended an instance that is not wanted here any more", "instance", w.id, "end", st.Reason())
	default:
		w.settle(ctx, fsm.Stopped, w.reasonOf(st))
	}
}

// drain waits for the template's grace, in which clients go elsewhere. A group
// with a service has at least the time in which all proxies hear of it. One with
// sticky sessions ends early when the instance has none: whoever it serves then
// has one, also for the time of a WebSocket.
func (w *worker) drain(ctx context.Context, exit <-chan driver.Status) (driver.Status, bool) {
	grace, early := w.template().StopOrDefault().Grace.Std(), time.Duration(-1)
	if s := w.service(); s != nil {
		grace = max(grace, drainAtLeast)
		if s.Stickiness.Strategy == fsm.StickyTable {
			early = drainAtLeast
		}
	}
	timer, cancel := after(grace)
	defer cancel()
	look, stopLooking := after(early)
	defer func() { stopLooking() }()
	for {
		select {
		case <-look:
			if w.sessions() == 0 {
				return driver.Status{}, false
			}
			look, stopLooking = after(drainLook)
		case <-ctx.Done():
			return driver.Status{}, false
		case st := <-exit:
			return st, true
		case <-timer:
			return driver.Status{}, false
		case <-w.wake:
			if row := w.row(); row == nil || row.State != fsm.Draining {
				return driver.Status{}, false
			}
		}
	}
}

// service is that of the instance's group; nil for none.
func (w *worker) service() *fsm.Service {
	row := w.row()
	if row == nil {
		return nil
	}
	g, ok := w.agent.cfg.Cluster.State().Groups.Get(row.Group)
	if !ok {
		return nil
	}
	return g.Service
}

// sessions is how many sessions live on the instance.
func (w *worker) sessions() (n int) {
	row := w.row()
	if row == nil {
		return 0
	}
	for _, slot := range w.agent.cfg.Cluster.State().SessionStats(row.Group).Slots {
		if slot.Instance == w.id {
			n += slot.Sessions
		}
	}
	return n
}

// stop ends the instance, however long it takes; it returns false when ctx
// ends first.
func (w *worker) stop(ctx context.Context) (driver.Status, bool) {
	rule := w.template().StopOrDefault()
	for wait := retryFirst; ; wait = min(2*wait, retryLast) {
		v := w.view.Load()
		term := v.term
		if v.row != nil {
			term = max(term, v.row.Term)
		}
		st, err := w.driver.Stop(ctx, w.id, driver.StopSpec{Term: term, Signal: rule.Signal, Timeout: rule.Timeout.Std()})
		if err == nil || fsm.KindOf(err) == fsm.NotFound {
			return st, true
		}
		if ctx.Err() != nil {
			return st, false
		}
		w.agent.log.Warn("an instance does not end", "instance", w.id, "error", err)
		if !pause(ctx, wait) {
			return st, false
		}
	}
}

// settle reports how the instance ended, until the state shows it.
func (w *worker) settle(ctx context.Context, state fsm.InstanceState, reason string) {
	for !w.over() {
		w.report(fsm.InstanceReport{State: state, Reason: reason})
		if !w.sleepUpTo(ctx, settleEvery, w.over) {
			return
		}
	}
}

// endState is how an instance that is over goes into the state: one that was
// told to end has stopped, whatever its exit status.
func (w *worker) endState() fsm.InstanceState {
	if row := w.row(); row != nil && (row.State == fsm.Draining || row.State == fsm.Stopping) {
		return fsm.Stopped
	}
	return fsm.Failed
}

func (w *worker) report(r fsm.InstanceReport) {
	r.ID = w.id
	w.agent.reports.add(r)
}

// reportRunning says where the instance runs, unless the state knows.
func (w *worker) reportRunning(st driver.Status, check fsm.HealthCheck) {
	row := w.rowOrEmpty()
	r := fsm.InstanceReport{State: fsm.Running, Address: st.Address, PID: st.PID, Incarnation: firstLaunch}
	if check.Type == fsm.CheckNone {
		r.Health = fsm.Healthy
	}
	same := row.State == fsm.Running && row.Address == st.Address && row.PID == st.PID
	if !same || (r.Health != "" && row.Health != r.Health) {
		w.report(r)
	}
}

// template is that of the row, or an empty one whose defaults serve an orphan.
func (w *worker) template() *fsm.Template {
	if row := w.row(); row != nil {
		if t, err := w.agent.cfg.Cluster.State().TemplateAt(row.Template, row.Version); err == nil {
			return t
		}
	}
	return &fsm.Template{}
}

// rowOrEmpty is the row, or an empty one when it is gone.
func (w *worker) rowOrEmpty() *fsm.Instance {
	if row := w.row(); row != nil {
		return row
	}
	return &fsm.Instance{Health: fsm.Unknown}
}

// reasonOf says how an instance ended, and the last line that it wrote.
func (w *worker) reasonOf(st driver.Status) string {
	reason := st.Reason()
	if reason == "" {
		reason = "its process is gone"
	}
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	c, err := w.driver.Logs(ctx, w.id, driver.LogQuery{Offset: -1, TailLines: 1, Limit: 4 << 10})
	line := strings.TrimSpace(strings.ToValidUTF8(string(c.Data), "?"))
	if err != nil || line == "" {
		return reason
	}
	return reason + ": " + clip(line, maxLogLine)
}

// sleepUpTo waits until a condition on the row holds or the time is over, and
// reports whether ctx still lives.
func (w *worker) sleepUpTo(ctx context.Context, limit time.Duration, holds func() bool) bool {
	timer, cancel := after(limit)
	defer cancel()
	for !holds() {
		select {
		case <-w.wake:
		case <-timer:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}
