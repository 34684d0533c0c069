package cluster

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
)

// metrics are the node's series. All are present from the start.
type metrics struct {
	proposals  *prometheus.CounterVec
	latency    prometheus.Histogram
	commit     prometheus.Histogram
	batchSize  prometheus.Histogram
	logStore   prometheus.Histogram
	queueDepth prometheus.Gauge
	retries    prometheus.Counter
	changes    prometheus.Counter
	readRounds prometheus.Counter
	readers    prometheus.Counter
	mismatches prometheus.Counter
	heals      prometheus.Counter
	handovers  prometheus.Counter
	elections  prometheus.Counter
}

var latencyBuckets = prometheus.ExponentialBuckets(0.0002, 2, 16)

func newMetrics(c *Cluster, r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "paceline", Subsystem: "cluster", Name: name, Help: help})
	}
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "paceline", Subsystem: "cluster", Name: name, Help: help, Buckets: buckets})
	}
	gauge := func(name, help string, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "paceline", Subsystem: "cluster", Name: name, Help: help}, f)
	}
	m := &metrics{
		proposals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "paceline", Subsystem: "cluster", Name: "proposals_total", Help: "Writes accepted by this node, by what became of them.",
		}, []string{"outcome"}),
		latency:   histogram("proposal_seconds", "Time from accepting a write to its answer.", latencyBuckets),
		commit:    histogram("commit_seconds", "Time from appending an entry to its commit, on the leader.", latencyBuckets),
		batchSize: histogram("batch_commands", "Commands in a batch of this node.", prometheus.ExponentialBuckets(1, 2, 11)),
		logStore:  histogram("log_store_seconds", "Time of an append to the log store.", latencyBuckets),
		queueDepth: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: "paceline", Subsystem: "cluster", Name: "queue_commands", Help: "Writes that wait to be sent.",
		}),
		retries:    counter("forward_retries_total", "Further attempts to have a batch committed."),
		changes:    counter("leader_gains_total", "Times that this node became the leader."),
		readRounds: counter("read_rounds_total", "Quorum rounds for strong reads, on the leader."),
		readers:    counter("readers_total", "Strong and leader reads answered by this node."),
		mismatches: counter("digest_mismatches_total", "Comparisons in which a node's state differed."),
		heals:      counter("heals_total", "Times that the state was replaced by that of a peer."),
		handovers:  counter("disk_handovers_total", "Times that leadership was given up because of a slow disk."),
		elections:  counter("crash_elections_total", "Elections started because the leader's process was seen dead."),
	}
	for _, o := range []string{"ok", "error", "no_leader", "unknown", "refused"} {
		m.proposals.WithLabelValues(o)
	}
	if r == nil {
		return m, nil
	}
	for _, col := range []prometheus.Collector{
		m.proposals, m.latency, m.commit, m.batchSize, m.logStore, m.queueDepth, m.retries, m.changes,
		m.readRounds, m.readers, m.mismatches, m.heals, m.handovers, m.elections,
		gauge("term", "Raft term.", func() float64 { return float64(c.term()) }),
		gauge("applied_index", "Index up to which this node has applied.", func() float64 { return float64(c.apply.position()) }),
		gauge("leader", "1 while this node is the leader.", func() float64 { return asFloat(c.actsAsLeader()) }),
		gauge("stale_seconds", "Age of this node's state.", func() float64 { return c.Stale().Seconds() }),
		gauge("serving", "0 while this node has stopped applying.", func() float64 { return asFloat(c.apply.stop.Load() == nil) }),
	} {
		if err := r.Register(col); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func asFloat(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m *metrics) observeProposal(err error, d time.Duration) {
	outcome := "ok"
	switch fsm.KindOf(err) {
	case "":
	case fsm.NoLeader:
		outcome = "no_leader"
	case fsm.UnknownOutcome:
		outcome = "unknown"
	case fsm.Exhausted, fsm.Unavailable:
		outcome = "refused"
	default:
		outcome = "error"
	}
	m.proposals.WithLabelValues(outcome).Inc()
	m.latency.Observe(d.Seconds())
}
