package main

import (
	"context"
	"slices"
	"time"
)

// wire carries requests over numbered connections.
type wire interface {
	// send begins a request on a connection, opening it when need be.
	send(conn int) error
	// wait blocks until something was answered, or until a time, and appends
	// what was answered.
	wait(until time.Time, to []answer) ([]answer, error)
	// drop closes a connection with the request on it.
	drop(conn int)
}

// answer is the end of the request on a connection; no error is a success.
type answer struct {
	conn int
	err  error
}

// loop sends requests over a fixed number of connections.
//
// With a rate it is open: request n is meant to begin at n/rate, whatever the
// answers do, and its latency counts from then. A server that stalls is so
// charged with all the requests that it kept from being sent, which a loop
// that waits for answers would forget ("coordinated omission"). Without a
// rate it is closed: a connection sends as soon as it has its answer.
type loop struct {
	wire  wire
	conns int
	rate  int
	// window is how long requests begin; those begun are followed to their
	// end, at most for the deadline.
	window, deadline time.Duration
	now              func() time.Time

	begin    time.Time
	next     int // the number of the next request
	free     []int
	meant    []time.Time // by connection, when it was to begin
	sent     []time.Time // by connection, zero when it is free
	res      loadResult
	failures map[string]int
}

// lookEvery bounds each wait, so that deadlines are seen in time.
const lookEvery = 100 * time.Millisecond

// run sends until the window or ctx ends.
func (l *loop) run(ctx context.Context) (*loadResult, error) {
	l.begin, l.next, l.free = l.now(), 0, make([]int, 0, l.conns)
	l.meant, l.sent = make([]time.Time, l.conns), make([]time.Time, l.conns)
	l.res = loadResult{latency: make([]time.Duration, 0, maxLoopSamples)}
	l.failures = map[string]int{}
	for c := range l.conns {
		l.free = append(l.free, c)
	}
	answers := make([]answer, 0, l.conns)
	end := l.begin.Add(l.window)
	looked := l.begin
	for {
		now := l.now()
		if ctx.Err() != nil && now.Before(end) {
			end = now
		}
		if l.finished(now, end) || now.After(end.Add(l.deadline)) {
			break
		}
		l.sendDue(now, end)
		var err error
		if answers, err = l.wire.wait(l.nextLook(now, end), answers[:0]); err != nil {
			return nil, err
		}
		now = l.now()
		for _, a := range answers {
			l.answered(a.conn, a.err, now)
		}
		if now.Sub(looked) >= lookEvery {
			looked = now
			l.dropLate(now)
		}
	}
	l.giveUp(end)
	l.res.window = end.Sub(l.begin)
	slices.Sort(l.res.latency)
	return &l.res, nil
}

// due is when a request is meant to begin.
func (l *loop) due(n int) time.Time {
	return l.begin.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
}

// finished reports whether all that was meant to begin has been answered.
func (l *loop) finished(now, end time.Time) bool {
	if now.Before(end) || len(l.free) < l.conns {
		return false
	}
	return l.rate == 0 || !l.due(l.next).Before(end)
}

// sendDue begins the requests whose time has come, on the connections that
// have been free for longest.
func (l *loop) sendDue(now, end time.Time) {
	for range len(l.free) {
		meant := now
		if l.rate > 0 {
			meant = l.due(l.next)
		}
		if meant.After(now) || !meant.Before(end) {
			return
		}
		c := l.free[0]
		l.free = append(l.free[:0], l.free[1:]...)
		l.next++
		l.meant[c], l.sent[c] = meant, now
		if err := l.wire.send(c); err != nil {
			l.answered(c, err, now)
		}
	}
}

// nextLook is when there is something to do even without an answer.
func (l *loop) nextLook(now, end time.Time) time.Time {
	at := now.Add(lookEvery)
	if l.rate > 0 && len(l.free) > 0 {
		if d := l.due(l.next); d.Before(end) && d.Before(at) {
			at = d
		}
	}
	if now.Before(end) && end.Before(at) {
		at = end
	}
	return at
}

func (l *loop) answered(c int, err error, now time.Time) {
	if err != nil {
		l.fail(err.Error(), 1)
	} else {
		l.res.ops++
		if len(l.res.latency) < maxLoopSamples {
			l.res.latency = append(l.res.latency, now.Sub(l.meant[c]))
		}
	}
	l.sent[c] = time.Time{}
	l.free = append(l.free, c)
}

func (l *loop) fail(text string, n int) {
	l.res.errs += n
	if _, known := l.failures[text]; !known && len(l.failures) >= maxErrorTexts {
		text = "other"
	}
	l.failures[text] += n
}

// dropLate ends the requests that have waited for longer than the deadline.
func (l *loop) dropLate(now time.Time) {
	for c, sent := range l.sent {
		if !sent.IsZero() && now.Sub(sent) >= l.deadline {
			l.wire.drop(c)
			l.answered(c, errHung, now)
		}
	}
}

// giveUp counts what had no answer when the loop ended, and what it could not
// even send although its time had come.
func (l *loop) giveUp(end time.Time) {
	for c, sent := range l.sent {
		if !sent.IsZero() {
			l.wire.drop(c)
			l.fail(errHung.Error(), 1)
		}
	}
	if l.rate == 0 {
		return
	}
	unsent := 0
	for ; l.due(l.next).Before(end); l.next++ {
		unsent++
	}
	if unsent > 0 {
		l.fail("never sent, because every connection was waiting", unsent)
	}
}
