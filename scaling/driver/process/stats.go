//go:build linux

package process

import (
	"context"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// procTable is a walk over /proc that serves every instance for a moment, so
// that measuring n instances does not walk n times.
type procTable struct {
	mu       sync.Mutex
	at       time.Time
	sessions map[int]sessionUse
}

// sessionUse is what the processes of one session use together.
type sessionUse struct {
	cpu       time.Duration
	rss       int64
	processes int
}

// use returns the use of a session and when it was looked at.
func (t *procTable) use(session int) (sessionUse, time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sessions == nil || time.Since(t.at) >= statsFresh {
		t.at, t.sessions = time.Now(), map[int]sessionUse{}
		for _, p := range processes() {
			u := t.sessions[p.session]
			u.cpu += p.cpu
			u.rss += p.rss
			u.processes++
			t.sessions[p.session] = u
		}
	}
	return t.sessions[session], t.at
}

// usageSample is an earlier look at an instance, which a rate needs.
type usageSample struct {
	at     time.Time
	cpu    time.Duration
	rate   float64
	hasCPU bool
}

// Stats implements [driver.Driver].
func (d *Driver) Stats(_ context.Context, id string) (driver.Usage, error) {
	i, err := d.get(id)
	if err != nil {
		return driver.Usage{}, err
	}
	if i.over() {
		return driver.Usage{}, fsm.Errorf(fsm.Conflict, "instance", id, "has ended")
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	use, at := d.table.use(i.rec.PID)
	i.usage.observe(use.cpu, at)
	u := driver.Usage{HasCPU: i.usage.hasCPU, RSSBytes: use.rss, Processes: use.processes}
	cores := i.rec.Resources.CPU
	if cores == 0 {
		cores = 1
	}
	u.CPUPercent = i.usage.rate / cores * 100
	limit := i.rec.Resources.MemoryMiB << 20
	if limit == 0 {
		limit = d.memory
	}
	if limit > 0 {
		u.MemoryPercent = float64(use.rss) / float64(limit) * 100
	}
	return u, nil
}

// observe turns CPU time into cores used since the last look. Time that goes
// back belongs to a child that nobody waited for; it counts as none.
func (s *usageSample) observe(cpu time.Duration, at time.Time) {
	if at.Equal(s.at) {
		return
	}
	if !s.at.IsZero() {
		s.rate = max(0, float64(cpu-s.cpu)) / float64(at.Sub(s.at))
		s.hasCPU = true
	}
	s.at, s.cpu = at, cpu
}
