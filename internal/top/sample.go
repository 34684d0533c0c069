package top

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Sample is what one node told of its traffic: counters since its start, and
// gauges.
type Sample struct {
	// At is when the answer came; rates are taken over the time between two.
	At        time.Time
	Services  map[string]*ServiceCounters
	Instances map[InstanceKey]*InstanceCounters
}

// InstanceKey names an instance in a [Sample].
type InstanceKey struct{ Group, ID string }

// ServiceCounters are a node's figures of a service.
type ServiceCounters struct {
	// Codes counts the answers to clients by class; "none" is no answer.
	Codes    map[string]float64
	InFlight float64
	// Buckets counts the answers by the largest time they took, in seconds,
	// each without those of the smaller ones; +Inf is the last.
	Buckets map[float64]float64
	// Sessions is nil when the node tells none. It is of the replicated
	// state, so that each node tells the same.
	Sessions *float64
}

// InstanceCounters are a node's figures of an instance.
type InstanceCounters struct {
	Codes map[string]float64
	// Buckets are as those of [ServiceCounters].
	Buckets map[float64]float64
	// Failures counts attempts: without an answer, or with one that is
	// tried again elsewhere, which Codes has as well.
	Failures float64
	InFlight float64
	Ejected  bool
}

// The metrics that are read.
const (
	prefixProxy    = "paceline_proxy_"
	prefixSessions = "paceline_sessions"

	metricRequests         = prefixProxy + "requests_total"
	metricInFlight         = prefixProxy + "requests_in_flight"
	metricSeconds          = prefixProxy + "request_seconds"
	metricInstanceSeconds  = prefixProxy + "instance_request_seconds"
	metricInstanceRequests = prefixProxy + "instance_requests_total"
	metricInstanceFailures = prefixProxy + "instance_failures_total"
	metricInstanceInFlight = prefixProxy + "instance_requests_in_flight"
	metricInstanceEjected  = prefixProxy + "instance_ejected"
)

// Parse reads a node's metrics in the text format of Prometheus. A node that
// routes nothing has none of ours, which is no error.
func Parse(r io.Reader, at time.Time) (*Sample, error) {
	text, err := ours(r)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(text)
	if err != nil {
		return nil, fmt.Errorf("the metrics can not be read: %w", err)
	}
	s := &Sample{At: at, Services: map[string]*ServiceCounters{}, Instances: map[InstanceKey]*InstanceCounters{}}
	for name, read := range readers {
		for _, m := range families[name].GetMetric() {
			l := labels{}
			for _, p := range m.GetLabel() {
				l[p.GetName()] = p.GetValue()
			}
			if l["group"] != "" {
				read(s, l, m)
			}
		}
	}
	return s, nil
}

// ours keeps the lines that are read. The rest of a node's metrics is some ten
// times as much, and not this package's to judge.
func ours(r io.Reader) (*bytes.Buffer, error) {
	var out bytes.Buffer
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	for n := 0; lines.Scan(); n++ {
		if n == maxSeries {
			return nil, fmt.Errorf("the metrics have more than %d lines", maxSeries)
		}
		line := lines.Bytes()
		if bytes.Contains(line, []byte(prefixProxy)) || bytes.Contains(line, []byte(prefixSessions)) {
			out.Write(line)
			out.WriteByte('\n')
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the metrics can not be read: %w", err)
	}
	return &out, nil
}

type labels map[string]string

// readers says what is done with each metric.
var readers = map[string]func(*Sample, labels, *dto.Metric){
	metricRequests:         func(s *Sample, l labels, m *dto.Metric) { s.service(l).Codes[l["code"]] += value(m) },
	metricInFlight:         func(s *Sample, l labels, m *dto.Metric) { s.service(l).InFlight += value(m) },
	metricSeconds:          func(s *Sample, l labels, m *dto.Metric) { observe(s.service(l).Buckets, m.GetHistogram()) },
	metricInstanceSeconds:  func(s *Sample, l labels, m *dto.Metric) { observe(s.instance(l).Buckets, m.GetHistogram()) },
	prefixSessions:         func(s *Sample, l labels, m *dto.Metric) { v := value(m); s.service(l).Sessions = &v },
	metricInstanceRequests: func(s *Sample, l labels, m *dto.Metric) { s.instance(l).Codes[l["code"]] += value(m) },
	metricInstanceFailures: func(s *Sample, l labels, m *dto.Metric) { s.instance(l).Failures += value(m) },
	metricInstanceInFlight: func(s *Sample, l labels, m *dto.Metric) { s.instance(l).InFlight += value(m) },
	metricInstanceEjected:  func(s *Sample, l labels, m *dto.Metric) { s.instance(l).Ejected = value(m) > 0 },
}

func (s *Sample) service(l labels) *ServiceCounters {
	c := s.Services[l["group"]]
	if c == nil {
		c = &ServiceCounters{Codes: map[string]float64{}, Buckets: map[float64]float64{}}
		s.Services[l["group"]] = c
	}
	return c
}

func (s *Sample) instance(l labels) *InstanceCounters {
	key := InstanceKey{l["group"], l["instance"]}
	c := s.Instances[key]
	if c == nil {
		c = &InstanceCounters{Codes: map[string]float64{}, Buckets: map[float64]float64{}}
		s.Instances[key] = c
	}
	return c
}

// value is a metric's figure; one that can not be is 0, since a single NaN
// would spoil every sum.
func value(m *dto.Metric) float64 {
	v := m.GetUntyped().GetValue()
	switch {
	case m.Counter != nil:
		v = m.GetCounter().GetValue()
	case m.Gauge != nil:
		v = m.GetGauge().GetValue()
	}
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return 0
	}
	return v
}

// observe takes the histogram apart into single buckets, so that those of
// several nodes can be added.
func observe(buckets map[float64]float64, h *dto.Histogram) {
	below := 0.0
	for _, b := range h.GetBucket() {
		n := float64(b.GetCumulativeCount())
		buckets[b.GetUpperBound()] += max(n-below, 0)
		below = max(below, n)
	}
	if rest := float64(h.GetSampleCount()) - below; rest > 0 {
		buckets[math.Inf(1)] += rest
	}
}

// failed says which classes of answers are errors.
func failed(class string) bool { return class == "none" || strings.HasPrefix(class, "5") }
