package httpapi

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
)

// sessionCollector tells the sessions of each group, from the state as it is
// at the scrape: keeping counters beside it could only differ from it. Every
// node tells the same, so sums over nodes make no sense; take the maximum.
type sessionCollector struct{ cluster Cluster }

// sessionMetric is one series for each group.
type sessionMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*fsm.SessionStats) float64
}

func sessionMetrics() []sessionMetric {
	series := func(name, help string, kind prometheus.ValueType, value func(*fsm.SessionStats) float64) sessionMetric {
		return sessionMetric{prometheus.NewDesc("paceline_sessions"+name, help, []string{"group"}, nil), kind, value}
	}
	return []sessionMetric{
		series("", "Sticky sessions.", prometheus.GaugeValue, func(s *fsm.SessionStats) float64 { return float64(s.Sessions) }),
		series("_homeless", "Sticky sessions whose instance has ended and that were not moved yet.", prometheus.GaugeValue,
			func(s *fsm.SessionStats) float64 { return float64(s.Homeless) }),
		series("_assigned_total", "Sticky sessions that were placed.", prometheus.CounterValue,
			func(s *fsm.SessionStats) float64 { return float64(s.Assigned) }),
		series("_moved_total", "Sticky sessions that were moved because their instance had ended.", prometheus.CounterValue,
			func(s *fsm.SessionStats) float64 { return float64(s.Moved) }),
		series("_expired_total", "Sticky sessions that ended because nobody used them.", prometheus.CounterValue,
			func(s *fsm.SessionStats) float64 { return float64(s.Expired) }),
		series("_deleted_total", "Sticky sessions that were deleted.", prometheus.CounterValue,
			func(s *fsm.SessionStats) float64 { return float64(s.Deleted) }),
	}
}

// Describe implements [prometheus.Collector].
func (sessionCollector) Describe(out chan<- *prometheus.Desc) {
	for _, m := range sessionMetrics() {
		out <- m.desc
	}
}

// Collect implements [prometheus.Collector].
func (c sessionCollector) Collect(out chan<- prometheus.Metric) {
	s, list := c.cluster.State(), sessionMetrics()
	for name, g := range s.Groups.All() {
		stats := s.SessionStats(name)
		sticky := g.Service != nil && g.Service.Stickiness.Strategy == fsm.StickyTable
		if !sticky && stats.Assigned == 0 {
			continue
		}
		for _, m := range list {
			out <- prometheus.MustNewConstMetric(m.desc, m.kind, m.value(&stats), name)
		}
	}
}
