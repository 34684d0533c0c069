package scaling

import (
	"maps"
	"slices"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// BuiltinMetrics are recorded for every group that has a policy, whether or
// not a policy uses them.
func BuiltinMetrics() []string {
	return []string{"cpu", "memory", "requests", "inflight", "responseTime"}
}

// The metrics of which each node's proxy sees a part: what an instance has is
// the sum of the parts of some, and the mean of those of others.
var (
	summedMetrics   = []string{"requests", "inflight"}
	averagedMetrics = []string{"responseTime"}
)

// cursor remembers, for the samples that concern a group as a whole, up to
// which time they have been counted: each of them belongs to one evaluation.
// Samples of one instance need none; they are readings of a gauge, of which
// the newest counts.
type cursor map[cursorKey]time.Time

// cursorKey has the node, because times are only compared with times of the
// same clock.
type cursorKey struct{ node, group, metric string }

// mean is an average in the making.
type mean struct {
	sum float64
	n   int
}

func (m *mean) add(v float64) { m.sum, m.n = m.sum+v, m.n+1 }

// aggregate turns samples into one value for each group and metric.
//
// A value that was pushed for the group as a whole goes before what was
// measured on its instances: the user has said what to scale on. Otherwise the
// newest reading of each healthy instance counts, averaged over them. Of what the
// proxies see of an instance each node has a part.
//
// It returns the values by group and metric, and the next cursor.
func aggregate(s *fsm.State, samples []MetricSample, seen cursor) (map[string]map[string]float64, cursor) {
	type groupMetric struct{ group, metric string }
	type reading struct{ metric, instance, node string }
	whole, single := map[groupMetric]*mean{}, map[reading]MetricSample{}
	// A series that gave nothing this time is forgotten: what it gave before
	// is older than what the next collection asks for.
	next := cursor{}
	for _, m := range samples {
		switch {
		case !isFinite(m.Value):
		case m.Instance != "":
			key := reading{metric: m.Metric, instance: m.Instance}
			if slices.Contains(summedMetrics, m.Metric) || slices.Contains(averagedMetrics, m.Metric) {
				key.node = m.Node
			}
			if have, ok := single[key]; countsFor(s, m) && (!ok || m.At.After(have.At)) {
				single[key] = m
			}
		default:
			at := cursorKey{m.Node, m.Group, m.Metric}
			next[at] = later(later(seen[at], next[at]), m.At)
			if m.At.After(seen[at]) {
				addTo(whole, groupMetric{m.Group, m.Metric}, m.Value)
			}
		}
	}
	parts, groupOf := map[reading]*mean{}, map[string]string{}
	for key, m := range single {
		addTo(parts, reading{metric: key.metric, instance: key.instance}, m.Value)
		groupOf[m.Instance] = m.Group
	}
	measured := map[groupMetric]*mean{}
	for key, p := range parts {
		value := p.sum
		if !slices.Contains(summedMetrics, key.metric) {
			value /= float64(p.n)
		}
		addTo(measured, groupMetric{groupOf[key.instance], key.metric}, value)
	}
	maps.Copy(measured, whole)
	values := map[string]map[string]float64{}
	for key, m := range measured {
		if values[key.group] == nil {
			values[key.group] = map[string]float64{}
		}
		values[key.group][key.metric] = m.sum / float64(m.n)
	}
	return values, next
}

// inFlightOf adds up the requests that the proxies say the instances have.
func inFlightOf(s *fsm.State, samples []MetricSample) map[string]float64 {
	type reading struct{ instance, node string }
	newest := map[reading]MetricSample{}
	for _, m := range samples {
		key := reading{m.Instance, m.Node}
		if m.Metric == "inflight" && m.Instance != "" && isFinite(m.Value) && countsFor(s, m) && m.At.After(newest[key].At) {
			newest[key] = m
		}
	}
	sum := map[string]float64{}
	for key, m := range newest {
		sum[key.instance] += m.Value
	}
	return sum
}

func addTo[K comparable](means map[K]*mean, key K, v float64) {
	if means[key] == nil {
		means[key] = &mean{}
	}
	means[key].add(v)
}

// countsFor reports whether a sample comes from a healthy instance of the
// group that it names.
func countsFor(s *fsm.State, m MetricSample) bool {
	i, ok := s.Instances.Get(m.Instance)
	return ok && i.Group == m.Group && serves(i)
}

// recorded keeps the metrics that a decision carries: those of the policies,
// and the built-in ones. Others would add windows to the replicated state that
// nothing reads and only the end of the group removes.
func recorded(policies []*fsm.Policy, values map[string]float64) map[string]float64 {
	names := make([]string, 0, len(policies)+5)
	for _, p := range policies {
		names = append(names, p.Metric)
	}
	out := map[string]float64{}
	for _, name := range slices.Concat(names, BuiltinMetrics()) {
		if v, ok := values[name]; ok && len(out) < maxMetrics {
			out[name] = v
		}
	}
	return out
}
