package balance

import (
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// cacheLine is the unit in which processors share memory.
const cacheLine = 64

// Load counts an endpoint's requests in flight and follows its latency. The
// zero value is ready. All sets that hold the endpoint share its Load, so that
// a change of the set forgets nothing.
//
// The latency is a peak EWMA, as in Twitter's Finagle (PeakEwma in
// com.twitter.finagle.loadbalancer): a higher sample counts at once, a lower one
// by the time that has passed, so that it is quick to see trouble and slow to
// forget it. Between samples it decays, so that an endpoint which nobody picks
// any more is tried again.
type Load struct {
	// flight is twice the number of requests in flight, plus one while the
	// family counts them too. Being in one word makes joining and leaving exact:
	// each request is either seen by them or sees them.
	flight atomic.Int64
	// peak is the latency in nanoseconds as a float32, and below it the tick
	// of its last sample: one word, so that they always belong together.
	peak   atomic.Uint64
	family atomic.Pointer[family] // set once
	_      [cacheLine - 24]byte
}

// Begin counts a request that is sent.
func (l *Load) Begin() {
	if v := l.flight.Add(2); v&1 != 0 {
		l.family.Load().total.Add(1)
	}
}

// End counts a request that has ended, at a time of the caller's monotonic
// clock, and learns from its latency. A negative latency says nothing about the
// endpoint, as when the client went away, and is not learned from.
func (l *Load) End(now, latency time.Duration) {
	if latency >= 0 {
		l.observe(now, latency)
	}
	if v := l.flight.Add(-2); v&1 != 0 {
		l.family.Load().total.Add(-1)
	}
}

// InFlight is the number of requests that began and did not end.
func (l *Load) InFlight() int64 { return l.flight.Load() >> 1 }

// tickShift makes ticks of 2^20 ns, about a millisecond. They wrap after 52 days.
const tickShift = 20

// decayPerTick is the part of a decay that one tick is.
const decayPerTick = (1 << tickShift) / float64(decay)

func tick(now time.Duration) uint32 { return uint32(now >> tickShift) }

// age is the time between two ticks in decays. Samples of other processors may
// be a little ahead; what is far ahead is from before the ticks wrapped.
func age(now, then uint32) float64 {
	d := int32(now - then)
	if d < 0 && d > -1<<20 {
		return 0
	}
	return float64(uint32(d)) * decayPerTick
}

// fade is about e to the power of -x, by the first terms of its series: what
// is left of a latency after x decays. It is exact where it matters, at small x.
func fade(x float64) float64 {
	return 1 / (1 + x*(1+x*(1.0/2+x*(1.0/6))))
}

func pack(latency float64, at uint32) uint64 {
	return uint64(math.Float32bits(float32(latency)))<<32 | uint64(at)
}

func unpack(v uint64) (latency float64, at uint32) {
	return float64(math.Float32frombits(uint32(v >> 32))), uint32(v)
}

func (l *Load) observe(now, latency time.Duration) {
	// At least one, because zero means unknown.
	sample, at := float64(max(latency, 1)), tick(now)
	for {
		old := l.peak.Load()
		peak, then := unpack(old)
		next := sample
		if old != 0 && sample < peak {
			w := age(at, then)
			if w == 0 {
				return
			}
			k := fade(w)
			next = peak*k + sample*(1-k)
		}
		if old != 0 && int32(at-then) < 0 && age(at, then) == 0 {
			at = then
		}
		// Who loses the race was overtaken by another sample.
		if l.peak.CompareAndSwap(old, pack(max(next, 1), at)) {
			return
		}
	}
}

// latency is the peak EWMA at a time, in nanoseconds; 0 when unknown.
func (l *Load) latency(now time.Duration) float64 {
	v := l.peak.Load()
	if v == 0 {
		return 0
	}
	peak, then := unpack(v)
	return peak * fade(age(tick(now), then))
}

// family is the sum of the requests in flight of all endpoints in the newest
// set that bounds their load.
type family struct {
	total atomic.Int64
	_     [cacheLine - 8]byte

	mu      sync.Mutex
	members []*Load
}

// gather makes loads count in a family, that of the first which has one, and
// whatever else is in it no longer. It returns all families that the loads count
// in: a Load never changes its family, so they are several when the endpoints of
// several sets come together.
func gather(loads []*Load) []*family {
	first := &family{}
	for _, l := range loads {
		if f := l.family.Load(); f != nil {
			first = f
			break
		}
	}
	var families []*family
	stays := make(map[*Load]bool, len(loads))
	for _, l := range loads {
		l.family.CompareAndSwap(nil, first)
		f := l.family.Load()
		f.join(l)
		stays[l] = true
		if !slices.Contains(families, f) {
			families = append(families, f)
		}
	}
	for _, f := range families {
		f.keep(stays)
	}
	return families
}

func (f *family) join(l *Load) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if v := l.flight.Or(1); v&1 == 0 {
		f.total.Add(v >> 1)
		f.members = append(f.members, l)
	}
}

// keep makes all others leave.
func (f *family) keep(stays map[*Load]bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.members = slices.DeleteFunc(f.members, func(l *Load) bool {
		if !stays[l] {
			f.total.Add(-(l.flight.And(^1) >> 1))
		}
		return !stays[l]
	})
}
