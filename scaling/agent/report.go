package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/pacelinehq/paceline/fsm"
)

// reporter brings reports into the state, in order and in batches: what is
// reported while one batch is on its way goes with the next one. A batch is
// sent again under the same request id until it is known to be applied, so
// that an old report can not be applied after a newer one.
type reporter struct {
	cluster     Cluster
	node        string
	incarnation uint64
	log         *slog.Logger

	mu      sync.Mutex
	order   []string
	pending map[string]fsm.InstanceReport
	wake    chan struct{}
}

func newReporter(c Cluster, node string, incarnation uint64, log *slog.Logger) *reporter {
	return &reporter{
		cluster: c, node: node, incarnation: incarnation, log: log,
		pending: map[string]fsm.InstanceReport{}, wake: make(chan struct{}, 1),
	}
}

// add queues a report. It takes the place of one of the same instance that was
// not sent yet, so that the queue is never longer than the instances are many.
func (r *reporter) add(n fsm.InstanceReport) {
	n.Reason = clip(n.Reason, maxReason)
	r.mu.Lock()
	old, waiting := r.pending[n.ID]
	if waiting {
		n = merge(old, n)
	} else {
		r.order = append(r.order, n.ID)
	}
	r.pending[n.ID] = n
	r.mu.Unlock()
	notify(r.wake)
}

// putBack queues reports again that were refused; newer ones win.
func (r *reporter) putBack(batch []fsm.InstanceReport) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, old := range batch {
		if n, newer := r.pending[old.ID]; newer {
			r.pending[old.ID] = merge(old, n)
			continue
		}
		r.order = append(r.order, old.ID)
		r.pending[old.ID] = old
	}
}

// merge is one report that says what an older and a newer one say together.
func merge(old, n fsm.InstanceReport) fsm.InstanceReport {
	if n.State == "" {
		n.State = old.State
	}
	if n.Health == "" && n.State == old.State {
		n.Health, n.HealthReason = old.Health, old.HealthReason
	}
	if n.Address == "" {
		n.Address = old.Address
	}
	if n.PID == 0 {
		n.PID = old.PID
	}
	if n.Incarnation == 0 {
		n.Incarnation = old.Incarnation
	}
	if n.Reason == "" && n.State == old.State {
		n.Reason = old.Reason
	}
	return n
}

// take removes the oldest reports from the queue.
func (r *reporter) take() []fsm.InstanceReport {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := min(len(r.order), maxBatch)
	batch := make([]fsm.InstanceReport, 0, n)
	for _, id := range r.order[:n] {
		batch = append(batch, r.pending[id])
		delete(r.pending, id)
	}
	r.order = append([]string(nil), r.order[n:]...)
	return batch
}

// run sends reports until ctx ends.
func (r *reporter) run(ctx context.Context) {
	for seq := uint64(1); ; {
		batch := r.take()
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-r.wake:
			}
			continue
		}
		if !r.send(ctx, batch, seq) {
			return
		}
		seq++
	}
}

// send proposes one batch until its fate is known, and reports whether ctx
// still lives. A batch that is refused as a whole is queued again: the node
// has to be registered first.
func (r *reporter) send(ctx context.Context, batch []fsm.InstanceReport, seq uint64) bool {
	cmd := fsm.ReportInstances{Node: r.node, NodeIncarnation: r.incarnation, Reports: batch}
	id := fmt.Sprintf("agent/%s/%d/%d", r.node, r.incarnation, seq)
	for wait := retryFirst; ctx.Err() == nil; wait = min(2*wait, retryLast) {
		err := r.propose(fsm.WithRequestID(fsm.WithActor(ctx, "agent"), id), cmd)
		switch {
		case err == nil:
			return true
		case refused(err):
			r.log.Warn("reports are refused; they are kept", "reports", len(batch), "error", err)
			r.putBack(batch)
			return pause(ctx, retryLast)
		}
		r.log.Debug("reports are sent again", "reports", len(batch), "error", err)
		pause(ctx, wait)
	}
	return false
}

func (r *reporter) propose(ctx context.Context, c fsm.Command) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	_, err := r.cluster.Propose(ctx, c)
	return err
}

// refused reports whether an error is the state's own answer: the command was
// looked at and changed nothing.
func refused(err error) bool {
	switch fsm.KindOf(err) {
	case fsm.Conflict, fsm.NotFound, fsm.Invalid, fsm.TooLarge, fsm.Forbidden:
		return true
	}
	return false
}

// clip cuts a text to a number of bytes, between two characters.
func clip(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	s = s[:limit-len("…")]
	for len(s) > 0 && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
		s = s[:len(s)-1]
	}
	return s + "…"
}

// notify wakes the reader of a channel of capacity 1.
func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// after is a channel that fires once, or never for a negative duration.
func after(d time.Duration) (<-chan time.Time, func()) {
	if d < 0 {
		return nil, func() {}
	}
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}
