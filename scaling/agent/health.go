package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// firstCheck is when a new instance is checked first; until it is healthy for
// the first time the waits double up to the template's interval, so that an
// instance that starts fast is known to be healthy soon.
const firstCheck = 50 * time.Millisecond

// tracker turns the answers of checks into a health.
//
//	        rise good answers                 fall bad answers
//	unknown ─────────────────► healthy ─────────────────────────► unhealthy
//	                              ▲           rise good answers        │
//	                              └────────────────────────────────────┘
//
// An instance that was never healthy stays unknown: it is starting, and how
// long it may do so is the grace's matter.
type tracker struct {
	health     fsm.Health
	rise, fall int
	good, bad  int
}

// observe takes one answer.
func (t *tracker) observe(ok bool) {
	if ok {
		t.good, t.bad = t.good+1, 0
	} else {
		t.good, t.bad = 0, t.bad+1
	}
	switch {
	case t.health != fsm.Healthy && t.good >= t.rise:
		t.health = fsm.Healthy
	case t.health == fsm.Healthy && t.bad >= t.fall:
		t.health = fsm.Unhealthy
	}
}

// edge is a change of health that others see, and the error that made it.
type edge struct {
	health fsm.Health
	err    error
	// held is how long a flapping instance has to be healthy; 0 for one that
	// does not flap.
	held time.Duration
}

// checker checks one instance.
type checker struct {
	spec  fsm.HealthCheck
	track tracker
	damp  damper
	// probe asks the instance once; nil for one that sends heartbeats.
	probe func(context.Context) error
	// beats takes heartbeats: nil for a good one. done ends with the checker.
	beats chan error
	done  chan struct{}
	edges chan edge
	// bad gets the error of a failed check, the newest only.
	bad chan error
}

// newChecker goes on from what the row says.
func newChecker(spec fsm.HealthCheck, row *fsm.Instance, probe func(context.Context) error) *checker {
	return &checker{
		spec: spec, probe: probe, edges: make(chan edge), bad: make(chan error, 1),
		beats: make(chan error), done: make(chan struct{}),
		track: tracker{health: row.Health, rise: spec.Rise, fall: spec.Fall},
		damp:  newDamper(row.Health, row.HealthReason == fsm.HealthFlapping, spec.Interval.Std()),
	}
}

// run checks until ctx ends.
func (c *checker) run(ctx context.Context) {
	defer close(c.done)
	if c.spec.Type == fsm.CheckTTL {
		c.listen(ctx)
		return
	}
	wait := min(firstCheck, c.spec.Interval.Std())
	for pause(ctx, jitter(wait)) {
		err := c.ask(ctx)
		if ctx.Err() != nil || !c.take(ctx, err) {
			return
		}
		wait = min(2*wait, c.spec.Interval.Std())
		if c.track.health != fsm.Unknown {
			wait = c.spec.Interval.Std()
		}
	}
}

// listen takes heartbeats, and each ttl without one as a failed check. The
// first ttl begins now: what was sent while the node was away is not missed.
func (c *checker) listen(ctx context.Context) {
	ttl := c.spec.TTL.Std()
	timer := time.NewTimer(ttl)
	defer timer.Stop()
	for {
		var err error
		select {
		case err = <-c.beats:
		case <-timer.C:
			err = fmt.Errorf("no heartbeat for %s", c.spec.TTL)
		case <-ctx.Done():
			return
		}
		timer.Reset(ttl)
		if !c.take(ctx, err) {
			return
		}
	}
}

// beat hands over a heartbeat, and reports whether it was taken.
func (c *checker) beat(ctx context.Context, err error) bool {
	select {
	case c.beats <- err:
		return true
	case <-c.done:
	case <-ctx.Done():
	}
	return false
}

// take draws the conclusions from one answer, and reports whether ctx still
// lives.
func (c *checker) take(ctx context.Context, err error) bool {
	if err != nil {
		c.remember(err)
	}
	c.track.observe(err == nil)
	if !c.damp.see(time.Now(), c.track.health) {
		return true
	}
	e := edge{health: c.damp.shown, err: err}
	if c.damp.held {
		e.held = c.damp.hold
	}
	select {
	case c.edges <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *checker) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.spec.Timeout.Std())
	defer cancel()
	return c.probe(ctx)
}

// remember keeps the newest error for whoever asks why there is no health.
func (c *checker) remember(err error) {
	select {
	case <-c.bad: //nolint:errcheck // the older error makes room for the newer
	default:
	}
	c.bad <- err
}

// lastError is the newest error, or nil.
func (c *checker) lastError() error {
	select {
	case err := <-c.bad:
		return err
	default:
		return nil
	}
}

// jitter spreads the checks of many instances that began together.
func jitter(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5+1)
}

// reportHealth carries the state running as well: a change of health that
// comes late must not touch an instance that drains already.
func (w *worker) reportHealth(c *checker, e edge) {
	r := fsm.InstanceReport{State: fsm.Running, Health: e.health, Reason: "its health check passes"}
	if e.err != nil {
		r.Reason = fmt.Sprintf("%d health checks in a row failed: %s", c.spec.Fall, e.err.Error())
	}
	if c.spec.Fall == 1 && e.err != nil {
		r.Reason = "its health check failed: " + e.err.Error()
	}
	if e.held > 0 {
		r.HealthReason = fsm.HealthFlapping
		r.Reason = fmt.Sprintf("flapping: it counts as healthy again after %s without a fall; %s", fsm.Duration(e.held), r.Reason)
	}
	w.flapping(e.held > 0)
	w.agent.met.edge(e)
	w.report(r)
}

// flapping keeps the agent's count of the instances that are held. Only the
// worker calls it.
func (w *worker) flapping(now bool) {
	switch {
	case now && !w.flaps:
		w.agent.met.flapping.Inc()
	case !now && w.flaps:
		w.agent.met.flapping.Dec()
	}
	w.flaps = now
}
