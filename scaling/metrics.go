package scaling

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
)

// Metrics counts what the loops do. One value serves all loops of a node.
type Metrics struct {
	evaluations  prometheus.Counter
	decisions    *prometheus.CounterVec
	proposals    *prometheus.CounterVec
	late         prometheus.Counter
	launches     prometheus.Counter
	replacements prometheus.Counter
	drains       prometheus.Counter
	nodesDown    prometheus.Counter
	failures     *prometheus.CounterVec
	questions    *prometheus.CounterVec
	doubted      prometheus.Gauge
	passes       prometheus.Histogram
	backoffs     prometheus.Gauge
}

// outcomes of a decision, as label values.
const (
	outcomeOut  = "scale_out"
	outcomeIn   = "scale_in"
	outcomeNone = "none"
)

// Answers to a question, as label values.
const (
	answerGood = "good"
	answerBad  = "bad"
	answerNone = "nobody_asked"
)

// Loops, as label values.
const (
	loopReconciler  = "reconciler"
	loopAutoscaler  = "autoscaler"
	loopNodeWatcher = "node_watcher"
)

// NewMetrics registers the package's series, all of them at zero.
func NewMetrics(reg prometheus.Registerer) (*Metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "paceline_scaling_" + name, Help: help})
	}
	vec := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "paceline_scaling_" + name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		return v
	}
	m := &Metrics{
		evaluations: counter("evaluations_total", "Groups evaluated by the autoscaler."),
		decisions:   vec("decisions_total", "Decisions recorded, by outcome.", "outcome", outcomeOut, outcomeIn, outcomeNone),
		proposals: vec("proposals_total", "Proposals of policies in recorded decisions, by verdict.", "verdict",
			string(fsm.VerdictNoData), string(fsm.VerdictNotBreached), string(fsm.VerdictPending), string(fsm.VerdictCooldown),
			string(fsm.VerdictDisabled), string(fsm.VerdictProposed), string(fsm.VerdictWon)),
		late:         counter("late_collections_total", "Evaluations that went on without waiting for the metrics any longer."),
		launches:     counter("launches_total", "Instances placed."),
		replacements: counter("replacements_total", "Instances placed to make up for failed, lost, unhealthy or moved ones."),
		drains:       counter("drains_total", "Instances told to drain."),
		nodesDown:    counter("nodes_down_total", "Nodes declared down."),
		failures:     vec("loop_failures_total", "Proposals of the leader's loops that failed, by loop.", "loop", loopReconciler, loopAutoscaler, loopNodeWatcher),
		questions: vec("confirmations_total", "Unhealthy instances that another node has asked before their replacement, by what they said.",
			"answer", answerGood, answerBad, answerNone),
		doubted: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "paceline_scaling_doubted_instances",
			Help: "Unhealthy instances that are not replaced because they answer another node, or are being asked.",
		}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "paceline_scaling_reconcile_seconds", Help: "Time to plan a reconcile pass.",
			Buckets: prometheus.ExponentialBuckets(0.00025, 4, 8),
		}),
		backoffs: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "paceline_scaling_backoff_groups", Help: "Groups whose launches a crash-loop back-off holds at present.",
		}),
	}
	for _, c := range []prometheus.Collector{
		m.evaluations, m.decisions, m.proposals, m.late, m.launches, m.replacements,
		m.drains, m.nodesDown, m.failures, m.questions, m.doubted, m.passes, m.backoffs,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// unregistered metrics serve a loop that was given none.
func unregistered() *Metrics {
	m, err := NewMetrics(prometheus.NewRegistry())
	if err != nil { // a fresh registry refuses nothing
		panic(err)
	}
	return m
}

func (m *Metrics) planned(p *Plan, took time.Duration) {
	m.passes.Observe(took.Seconds())
	held := 0
	for _, g := range p.Groups {
		if g.Backoff.Held > 0 {
			held++
		}
	}
	m.backoffs.Set(float64(held))
}

func (m *Metrics) asked(by string, err error) {
	answer := answerGood
	switch {
	case by == "":
		answer = answerNone
	case err != nil:
		answer = answerBad
	}
	m.questions.WithLabelValues(answer).Inc()
}

func (m *Metrics) carriedOut(c fsm.Command) {
	switch c := c.(type) {
	case fsm.LaunchInstances:
		m.launches.Add(float64(len(c.Launches)))
		if c.Replaces {
			m.replacements.Add(float64(len(c.Launches)))
		}
	case fsm.StopInstances:
		m.drains.Add(float64(len(c.Instances)))
	}
}

func (m *Metrics) decided(d *fsm.Decision) {
	outcome := outcomeNone
	switch {
	case d.To > d.From:
		outcome = outcomeOut
	case d.To < d.From:
		outcome = outcomeIn
	}
	m.decisions.WithLabelValues(outcome).Inc()
	for _, q := range d.Proposals {
		m.proposals.WithLabelValues(string(q.Verdict)).Inc()
	}
}
