package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// ejection is what a node concludes of the answers that it got from an
// instance itself.
//
//	in ── a refused connection, silence, or too many failures in a row ──► out
//	▲                                                                       │ its time is over
//	└──────────── a connection to it succeeds ◄── probing ◄─────────────────┤
//	                                                 └─ it fails ──┘ twice as long
type ejection struct {
	failures atomic.Int32 // in a row
	out      atomic.Bool
	silent   atomic.Bool // it is out, or would be but for the cap, because nobody answered
	gone     atomic.Bool // nor did its node

	mu      sync.Mutex
	until   time.Duration
	span    time.Duration // of the present or last time out
	back    time.Duration // when it came back last
	probing bool
}

// succeeded notes an answer that is no failure.
func (e *ejection) succeeded() {
	if e.failures.Load() != 0 {
		e.failures.Store(0)
	}
}

// eject takes the instance out for a while, longer each time that it comes
// back only to fail again, and reports whether it was in.
func (e *ejection) eject(now, first time.Duration) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.out.Load() {
		return false
	}
	if e.span == 0 || now-e.back > steadyAfter {
		e.span = first
	} else {
		e.span = min(2*e.span, maxEjection)
	}
	e.until = now + e.span
	e.out.Store(true)
	return true
}

// due reports whether it is time to look at the instance again, and keeps
// others from looking as well.
func (e *ejection) due(now time.Duration) bool {
	if !e.out.Load() {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.probing || now < e.until {
		return false
	}
	e.probing = true
	return true
}

// probed takes the outcome of a look, and reports whether the instance is in
// again.
func (e *ejection) probed(now time.Duration, ok bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.probing = false
	if !ok {
		e.span = min(2*e.span, maxEjection)
		e.until = now + e.span
		return false
	}
	e.back = now
	e.failures.Store(0)
	e.silent.Store(false)
	e.gone.Store(false)
	e.out.Store(false)
	return true
}

// postpone lets another pass look at the instance.
func (e *ejection) postpone() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.probing = false
}
