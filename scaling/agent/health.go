package agent

import (
	"context"
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

// observe takes one answer and reports whether the health has changed.
func (t *tracker) observe(ok bool) (changed bool) {
	if ok {
		t.good, t.bad = t.good+1, 0
	} else {
		t.good, t.bad = 0, t.bad+1
	}
	switch {
	case t.health != fsm.Healthy && t.good >= t.rise:
		t.health = fsm.Healthy
		return true
	case t.health == fsm.Healthy && t.bad >= t.fall:
		t.health = fsm.Unhealthy
		return true
	}
	return false
}

// edge is a change of health, and the error that made it.
type edge struct {
	health fsm.Health
	err    error
}

// checker checks one instance.
type checker struct {
	spec  fsm.HealthCheck
	track tracker
	// probe asks the instance once.
	probe func(context.Context) error
	edges chan edge
	// bad gets the error of a failed check, the newest only.
	bad chan error
}

func newChecker(spec fsm.HealthCheck, before fsm.Health, probe func(context.Context) error) *checker {
	return &checker{
		spec: spec, probe: probe, edges: make(chan edge), bad: make(chan error, 1),
		track: tracker{health: before, rise: spec.Rise, fall: spec.Fall},
	}
}

// run checks until ctx ends.
func (c *checker) run(ctx context.Context) {
	wait := min(firstCheck, c.spec.Interval.Std())
	for pause(ctx, jitter(wait)) {
		err := c.ask(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.remember(err)
		}
		if c.track.observe(err == nil) {
			select {
			case c.edges <- edge{c.track.health, err}:
			case <-ctx.Done():
				return
			}
		}
		wait = min(2*wait, c.spec.Interval.Std())
		if c.track.health != fsm.Unknown {
			wait = c.spec.Interval.Std()
		}
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
