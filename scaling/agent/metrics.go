package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
)

// metrics counts what the health monitor of this node sees.
type metrics struct {
	edges      *prometheus.CounterVec
	flaps      prometheus.Counter
	flapping   prometheus.Gauge
	heartbeats prometheus.Counter
}

// newMetrics makes the series, all at zero, and registers them unless reg is
// nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "paceline", Subsystem: "agent", Name: name, Help: help}
	}
	m := &metrics{
		edges: prometheus.NewCounterVec(prometheus.CounterOpts(opts("health_changes_total",
			"Changes of the health of this node's instances that were reported, by what they became.")), []string{"health"}),
		flaps: prometheus.NewCounter(prometheus.CounterOpts(opts("flaps_total",
			"Times that an instance of this node was held as unhealthy because its health changed too often."))),
		flapping: prometheus.NewGauge(prometheus.GaugeOpts(opts("flapping_instances",
			"Instances of this node that are held as unhealthy because their health changed too often."))),
		heartbeats: prometheus.NewCounter(prometheus.CounterOpts(opts("heartbeats_total",
			"Heartbeats of instances of this node that were taken."))),
	}
	for _, h := range []fsm.Health{fsm.Healthy, fsm.Unhealthy} {
		m.edges.WithLabelValues(string(h))
	}
	if reg != nil {
		reg.MustRegister(m.edges, m.flaps, m.flapping, m.heartbeats)
	}
	return m
}

func (m *metrics) edge(e edge) {
	m.edges.WithLabelValues(string(e.health)).Inc()
	if e.held > 0 {
		m.flaps.Inc()
	}
}
