package sim

import (
	"slices"
	"sync"
	"time"
)

// weather is the state of all paths between the machines: what each of the
// faults under way does to them, put together.
type weather struct {
	w       *World
	mu      sync.Mutex
	effects []*effect
}

// effect is what one fault does to the path from one machine to another.
type effect struct {
	path func(from, to *machine) Path
}

// fair is every path when there is no fault: a network of one rack.
var fair = Path{Delay: 150 * time.Microsecond, Jitter: 250 * time.Microsecond}

func newWeather(w *World) *weather { return &weather{w: w} }

// add begins an effect; the returned function ends it.
func (f *weather) add(path func(from, to *machine) Path) (end func()) {
	e := &effect{path}
	f.mu.Lock()
	f.effects = append(f.effects, e)
	f.mu.Unlock()
	f.refresh()
	return func() {
		f.mu.Lock()
		f.effects = slices.DeleteFunc(f.effects, func(x *effect) bool { return x == e })
		f.mu.Unlock()
		f.refresh()
	}
}

// clear ends every effect.
func (f *weather) clear() {
	f.mu.Lock()
	f.effects = nil
	f.mu.Unlock()
	f.refresh()
}

// refresh applies what is in force, also to machines that are new or have
// another address.
func (f *weather) refresh() {
	f.mu.Lock()
	effects := slices.Clone(f.effects)
	f.mu.Unlock()
	all := f.w.everyone()
	for _, from := range all {
		for _, to := range all {
			if from == to {
				continue
			}
			p := fair
			for _, e := range effects {
				p = p.worse(e.path(from, to))
			}
			f.w.net.SetPath(from.addr(), to.addr(), p)
		}
	}
}

// worse is a path that suffers from both.
func (p Path) worse(q Path) Path {
	return Path{
		CutStreams: p.CutStreams || q.CutStreams,
		CutPackets: p.CutPackets || q.CutPackets,
		Loss:       1 - (1-p.Loss)*(1-q.Loss),
		StreamLoss: 1 - (1-p.StreamLoss)*(1-q.StreamLoss),
		Delay:      p.Delay + q.Delay,
		Jitter:     p.Jitter + q.Jitter,
	}
}
