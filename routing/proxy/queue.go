package proxy

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What finds no instance waits, in one of two ways:
//
//	none is there, or all are full ──► hold: until one is known or becomes free
//	those asked refuse connections ──► outlast: until one takes a connection, the
//	                                   plan changes, or a pause is over
//
// Those that were refused wait apart: their next attempt frees what it has taken
// when it is refused again, which must not be a reason for the next of them to try.

// patience is how long one request, or TCP connection, waits in all.
type patience struct {
	until time.Duration // zero before the first wait
	pause time.Duration // before the last attempt at instances that have refused
}

// left begins the wait at the first call, and returns what is left of it.
func (w *patience) left(t *target, now time.Duration) time.Duration {
	if w.until == 0 {
		w.until = now + t.spec.Timeouts.Queue.Std()
		t.events.queued.Add(1)
	}
	return w.until - now
}

// hold lets whoever has found no instance of a service wait, until again finds
// one or says otherwise that it need not wait any more. It is asked at the
// beginning, and when an instance may have become free or known: woken then.
// There may be no instance because the group is starting from nothing, or
// because all are full. A group at size 0 is woken meanwhile.
func (p *Proxy) hold(t *target, w *patience, again func(woken bool) bool) {
	if p.hopeless(t) {
		return
	}
	for {
		turn := t.queue.join(t.room(&t.queue))
		if turn == nil {
			t.events.queueFull.Add(1)
			return
		}
		// Between the pick that found nothing and joining, an instance may
		// have become free.
		if again(false) {
			t.queue.leave(turn)
			return
		}
		left := w.left(t, p.clock.now())
		p.rouse(t.service)
		switch {
		case !p.sleep(&t.queue, turn, left):
			t.events.queueTimeouts.Add(1)
			return
		case again(true):
			return
		}
	}
}

// outlast lets a request wait, or a TCP connection, of which nothing was sent because
// those instances that were asked refuse connections: a process that has just been
// launched does not listen yet, and one that has ended is about to be replaced. It
// reports whether to ask again.
func (p *Proxy) outlast(t *target, w *patience) bool {
	if p.hopeless(t) {
		return false
	}
	turn := t.refused.join(t.room(&t.refused))
	if turn == nil {
		t.events.queueFull.Add(1)
		return false
	}
	left := w.left(t, p.clock.now())
	if left <= 0 || p.life.Err() != nil {
		t.refused.leave(turn)
		t.events.queueTimeouts.Add(1)
		return false
	}
	w.pause = max(min(2*w.pause, lastPause), p.waits.refused)
	p.sleep(&t.refused, turn, min(w.pause, left))
	return true
}

// sleep waits for a turn, and reports whether it came in time.
func (p *Proxy) sleep(q *queue, turn chan struct{}, most time.Duration) bool {
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-turn:
		return true
	case <-timer.C:
	case <-p.life.Done():
	}
	q.leave(turn)
	return false
}

// room is how long a queue may be: the limit is for both together.
func (t *target) room(q *queue) int {
	other := &t.queue
	if q == other {
		other = &t.refused
	}
	return t.spec.Limits.MaxQueue - int(other.waiting.Load())
}

// waiting counts those that wait.
func (s *service) waiting() int64 { return s.queue.waiting.Load() + s.refused.waiting.Load() }

// wakeAll lets all that wait try again.
func (s *service) wakeAll() {
	s.queue.wake(math.MaxInt)
	s.refused.wake(math.MaxInt)
}

// queue holds requests that wait for an instance, in order.
type queue struct {
	waiting atomic.Int64
	mu      sync.Mutex
	list    []chan struct{}
}

// join adds a waiter; nil when there are too many.
func (q *queue) join(limit int) chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) >= limit {
		return nil
	}
	ch := make(chan struct{})
	q.list = append(q.list, ch)
	q.waiting.Store(int64(len(q.list)))
	return ch
}

// leave removes a waiter that gave up. One that was woken meanwhile passes its
// turn on, which would be lost else.
func (q *queue) leave(ch chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	k := slices.Index(q.list, ch)
	if k < 0 {
		q.wakeLocked(1)
		return
	}
	q.list = slices.Delete(q.list, k, k+1)
	q.waiting.Store(int64(len(q.list)))
}

// wake lets the first n waiters try again.
func (q *queue) wake(n int) {
	if q.waiting.Load() == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.wakeLocked(n)
}

func (q *queue) wakeLocked(n int) {
	n = min(n, len(q.list))
	for _, ch := range q.list[:n] {
		close(ch)
	}
	q.list = append(q.list[:0:0], q.list[n:]...)
	q.waiting.Store(int64(len(q.list)))
}
