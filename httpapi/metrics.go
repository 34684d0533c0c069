package httpapi

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests by route. Every series exists from the start, at
// zero: a series that appears with the first error can not be alerted on.
type metrics struct {
	requests *prometheus.CounterVec
	latency  *prometheus.HistogramVec
	inFlight *prometheus.GaugeVec
	streams  prometheus.Gauge
	watchers prometheus.Gauge
	encoded  prometheus.Counter
	byRoute  map[*route]*routeMetrics

	openStreams atomic.Int64
	openWatches atomic.Int64
}

type routeMetrics struct {
	codes    [6]prometheus.Counter // by hundred
	latency  prometheus.Observer
	inFlight prometheus.Gauge
}

var classes = [6]string{1: "1xx", 2: "2xx", 3: "3xx", 4: "4xx", 5: "5xx"}

func newMetrics(reg prometheus.Registerer, routes []*route) (*metrics, error) {
	labels := []string{"route", "method"}
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "paceline_http_requests_total", Help: "Requests answered, by route, method and class of status code.",
		}, append(labels, "code")),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "paceline_http_request_seconds", Help: "Time to answer a request; blocking reads and streams are left out.",
			Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
		}, labels),
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "paceline_http_requests_in_flight", Help: "Requests being answered.",
		}, labels),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "paceline_http_streams", Help: "Open event and log streams.",
		}),
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "paceline_http_service_watchers", Help: "Readers that wait for a change of a service, blocking or by a stream.",
		}),
		encoded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "paceline_http_service_encodes_total", Help: "Answers of services that were encoded; all readers of one version share one.",
		}),
		byRoute: map[*route]*routeMetrics{},
	}
	for _, c := range []prometheus.Collector{m.requests, m.latency, m.inFlight, m.streams, m.watchers, m.encoded} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	for _, r := range routes {
		m.add(r)
	}
	return m, nil
}

// add makes a route's series. It must not be called once requests are served.
func (m *metrics) add(r *route) {
	method := r.method
	if method == "" {
		method = "any"
	}
	rm := &routeMetrics{
		latency:  m.latency.WithLabelValues(r.path, method),
		inFlight: m.inFlight.WithLabelValues(r.path, method),
	}
	for class := 2; class <= 5; class++ {
		rm.codes[class] = m.requests.WithLabelValues(r.path, method, classes[class])
	}
	m.byRoute[r] = rm
}

// alias counts a route under the series of another.
func (m *metrics) alias(r, as *route) { m.byRoute[r] = m.byRoute[as] }

func (m *metrics) of(r *route) *routeMetrics { return m.byRoute[r] }

func (m *routeMetrics) count(status int, took time.Duration, untimed bool) {
	if c := m.codes[min(max(status/100, 2), 5)]; c != nil {
		c.Inc()
	}
	if !untimed {
		m.latency.Observe(took.Seconds())
	}
}
