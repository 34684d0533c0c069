package agent

import (
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// How flapping is damped. With a window of ten minutes, an instance that does
// its worst makes 14 changes of health in any ten minutes, and 2 in 16 minutes
// when it goes on.
const (
	// flapFalls is how often an instance may become unhealthy within a window
	// before it is held.
	flapFalls = 3
	// flapWindow is the time that is looked at, and flapIntervals its least
	// length in times between checks, so that rare checks can flap as well.
	flapWindow    = 10 * time.Minute
	flapIntervals = 20
	// flapShare: the first hold is this part of the window. It doubles with
	// each return, flapDoublings times at most.
	flapShare     = 10
	flapDoublings = 4
)

// damper keeps a health that changes too often from being seen by everybody:
//
//	          flapFalls falls within the window, or
//	          one within the window after a hold
//	passing ────────────────────────────────────────► held: unhealthy
//	   ▲                                                   │
//	   └───────────────────────────────────────────────────┘
//	     healthy for as long as the hold, which doubles each
//	     time that it does not help
//
// It is a pure machine: time comes with what it sees.
type damper struct {
	window time.Duration
	// shown is the health that others see, raw the one that the checks say.
	shown, raw fsm.Health
	falls      []time.Time // since the last hold, within the window
	held       bool
	hold       time.Duration // of the present or last hold; 0 when it is long past
	freed      time.Time     // when the last hold ended
	good       time.Time     // since when it is healthy while it is held
}

// newDamper goes on where an earlier process of the node has stopped, as far
// as the state tells.
func newDamper(before fsm.Health, held bool, interval time.Duration) damper {
	d := damper{window: max(flapWindow, flapIntervals*interval), shown: before, raw: before, held: held}
	if held {
		d.hold = d.window / flapShare
	}
	return d
}

// see takes what the checks say at a time, and reports whether others see a
// change.
func (d *damper) see(now time.Time, raw fsm.Health) (changed bool) {
	fell := raw == fsm.Unhealthy && d.raw != fsm.Unhealthy
	d.raw = raw
	shown := raw
	switch {
	case d.held && !d.served(now, raw):
		shown = fsm.Unhealthy
	case fell && d.tooMany(now):
		d.held, d.good = true, time.Time{}
	}
	changed = shown != d.shown
	d.shown = shown
	return changed
}

// served reports whether a hold is over.
func (d *damper) served(now time.Time, raw fsm.Health) bool {
	switch {
	case raw != fsm.Healthy:
		d.good = time.Time{}
		return false
	case d.good.IsZero():
		d.good = now
	}
	if now.Sub(d.good) < d.hold {
		return false
	}
	d.held, d.freed = false, now
	return true
}

// tooMany counts a fall, and reports whether it begins a hold.
func (d *damper) tooMany(now time.Time) bool {
	if d.hold > 0 && now.Sub(d.freed) > d.window {
		d.hold = 0 // the last hold has helped
	}
	recent := d.falls[:0]
	for _, at := range d.falls {
		if now.Sub(at) <= d.window {
			recent = append(recent, at)
		}
	}
	d.falls = append(recent, now)
	if d.hold == 0 && len(d.falls) < flapFalls {
		return false
	}
	first := d.window / flapShare
	d.hold = min(max(first, 2*d.hold), first<<flapDoublings)
	d.falls = d.falls[:0]
	return true
}
