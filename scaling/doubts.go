package scaling

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Witness asks an instance itself, from a node other than the one it runs on.
type Witness interface {
	// Ask makes one health check and says which node made it: nobody, when by
	// is empty. err is what the check found wrong.
	Ask(ctx context.Context, i *fsm.Instance, c fsm.HealthCheck) (by string, err error)
}

// doubts are the instances that their own node calls unhealthy, and what
// another node says to that. They live as long as a term of the leader.
//
//	unhealthy ─► asked ─┬─ answers ──────────► spared; asked again each AskEvery,
//	                    │                      replaced after DoubtFor all the same
//	                    └─ fails, or nobody ─► replaced
//	                       could ask
type doubts struct {
	witness         Witness
	every, patience time.Duration
	met             *Metrics
	log             *slog.Logger
	// news is called when an answer has come in.
	news func()
	wg   sync.WaitGroup

	mu     sync.Mutex
	known  map[string]*doubt
	asking int
	spared map[string]string
}

// doubt is what is known of one instance.
type doubt struct {
	// revision is that of the row that was asked about: another one is another
	// story.
	revision uint64
	asking   bool
	asked    time.Time // when the newest question began
	judged   bool      // somebody has answered for this revision
	answers  bool
	by       string
	since    time.Time // of the first good answer in a row
}

func newDoubts(cfg ReconcilerConfig, news func()) *doubts {
	return &doubts{
		witness: cfg.Witness, every: cfg.AskEvery, patience: cfg.DoubtFor, met: cfg.Metrics, log: cfg.Log, news: news,
		known: map[string]*doubt{}, spared: map[string]string{},
	}
}

// look names the unhealthy instances that are not to be replaced, and who says
// so: nobody while the question is on its way. It asks about those that it does
// not know; the answers come in beside the reconciler.
func (d *doubts) look(ctx context.Context, s *fsm.State, now time.Time) map[string]string {
	if d.witness == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	spared, doubted := map[string]string{}, map[string]bool{}
	checks := map[templateKey]fsm.HealthCheck{}
	for id, i := range s.Instances.All() {
		if !sick(i) || i.HealthReason == fsm.HealthFlapping { // that it answers now is no news of one that flaps
			continue
		}
		if check := checkOf(s, checks, i); askable(check) {
			doubted[id] = true
			if by, yes := d.consider(ctx, i, check, now); yes {
				spared[id] = by
			}
		}
	}
	maps.DeleteFunc(d.known, func(id string, q *doubt) bool {
		return !doubted[id] && !q.asking && now.Sub(q.asked) >= d.every // kept so long, so that nobody is asked more often
	})
	d.spared = spared
	d.met.doubted.Set(float64(len(spared)))
	return spared
}

// askable reports whether a check can be made from outside: what runs beside
// the instance or waits for its heartbeats can not.
func askable(c fsm.HealthCheck) bool {
	return c.Type == fsm.CheckHTTP || c.Type == fsm.CheckTCP || c.Type == fsm.CheckGRPC
}

func checkOf(s *fsm.State, known map[templateKey]fsm.HealthCheck, i *fsm.Instance) fsm.HealthCheck {
	key := templateKey{i.Template, i.Version}
	c, seen := known[key]
	if !seen {
		if t, err := s.TemplateAt(i.Template, i.Version); err == nil {
			c = t.CheckOrDefault()
		}
		known[key] = c
	}
	return c
}

// consider says whether one unhealthy instance is spared, and by whom.
func (d *doubts) consider(ctx context.Context, i *fsm.Instance, c fsm.HealthCheck, now time.Time) (by string, spared bool) {
	q := d.known[i.ID]
	if q == nil {
		q = &doubt{}
		d.known[i.ID] = q
	}
	open := q.answers || q.revision != i.Revision
	if !q.asking && d.asking < parallelQuestions && (q.asked.IsZero() || (open && now.Sub(q.asked) >= d.every)) {
		d.ask(ctx, q, i, c, now)
	}
	switch {
	case !q.judged:
		return "", true
	case !q.answers:
		return "", false
	}
	return q.by, now.Sub(q.since) < d.patience
}

func (d *doubts) ask(ctx context.Context, q *doubt, i *fsm.Instance, c fsm.HealthCheck, now time.Time) {
	if q.revision != i.Revision {
		*q = doubt{revision: i.Revision}
	}
	q.asking, q.asked = true, now
	d.asking++
	d.wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, c.Timeout.Std()+questionMargin)
		defer cancel()
		by, err := d.witness.Ask(ctx, i, c)
		d.heard(q, i, by, err)
		d.news()
	})
}

// heard takes the outcome of a question.
func (d *doubts) heard(q *doubt, i *fsm.Instance, by string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asking--
	q.asking, q.judged, q.by = false, true, by
	q.answers = by != "" && err == nil
	switch {
	case !q.answers:
		q.since = time.Time{}
	case q.since.IsZero():
		q.since = q.asked
		d.log.Warn("an instance that its own node calls unhealthy answers another node; it is not replaced for now",
			"group", i.Group, "instance", i.ID, "node", i.Node, "asked_by", by, "reason", i.Reason)
	}
	d.met.asked(by, err)
}

// current is what the newest look has spared.
func (d *doubts) current() map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.spared)
}
