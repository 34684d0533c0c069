package agent

import (
	"context"
	"time"
)

// measure hands what running instances use to the sink, until ctx ends.
func (a *Agent) measure(ctx context.Context) {
	tick := time.NewTicker(a.cfg.SampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			for _, id := range a.known() {
				a.measureOne(ctx, id)
			}
		}
	}
}

func (a *Agent) measureOne(ctx context.Context, id string) {
	w := a.worker(id)
	if w == nil {
		return
	}
	row, d := w.row(), w.serving.Load()
	if row == nil || d == nil {
		return
	}
	u, err := (*d).Stats(ctx, id)
	if err != nil {
		return // it has just ended
	}
	if u.HasCPU {
		a.cfg.Metrics(row.Group, id, "cpu", u.CPUPercent)
	}
	a.cfg.Metrics(row.Group, id, "memory", u.MemoryPercent)
}
