package xds

import "github.com/prometheus/client_golang/prometheus"

// metrics count what the server does. Every series exists from the start, at
// zero.
type metrics struct {
	streams   prometheus.Gauge
	resources *prometheus.GaugeVec
	pushes    *prometheus.CounterVec
	nacks     *prometheus.CounterVec
	refused   *prometheus.CounterVec
}

// Reasons of paceline_xds_refused_total.
const (
	refusedNotReady   = "not_ready"
	refusedBusy       = "busy"
	refusedBadRequest = "bad_request"
)

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	byType := []string{"type"}
	m := &metrics{
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "paceline_xds_streams", Help: "xDS streams that are open: one for each client.",
		}),
		resources: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "paceline_xds_resources", Help: "xDS resources that can be asked for, by type.",
		}, byType),
		pushes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "paceline_xds_pushes_total", Help: "Responses sent to xDS clients, first ones and changes, by type.",
		}, byType),
		nacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "paceline_xds_nacks_total", Help: "Responses that an xDS client has refused, by type; the log has the reason.",
		}, byType),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "paceline_xds_refused_total", Help: "xDS streams refused or ended, because the node is not ready, has too many, or the request is bad.",
		}, []string{"reason"}),
	}
	for _, c := range []prometheus.Collector{m.streams, m.resources, m.pushes, m.nacks, m.refused} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for _, k := range kinds {
		m.resources.WithLabelValues(k.label)
		m.pushes.WithLabelValues(k.label)
		m.nacks.WithLabelValues(k.label)
	}
	for _, reason := range []string{refusedNotReady, refusedBusy, refusedBadRequest} {
		m.refused.WithLabelValues(reason)
	}
	return m, nil
}
