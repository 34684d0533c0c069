package fsm

import (
	"regexp"
	"slices"
)

// Limits of names, labels and text that users give. They bound what one row
// may cost on every node.
const (
	maxLabels       = 64
	maxLabelKey     = 64
	maxLabelValue   = 256
	maxReason       = 256
	maxArgs         = 128
	maxArg          = 4096
	maxEnvironment  = 128
	maxUserData     = 16 << 10
	maxGRPCService  = 256
	maxZones        = 64
	maxGroupSize    = 10_000
	maxPolicies     = 32
	maxRequestID    = 128
	maxNodeCPU      = 4096
	maxNodeMemory   = 1 << 34 // MiB
	maxPeriods      = 60
	maxMetricName   = 64
	maxMetricsGroup = 32
)

// MaxCommandBytes bounds the encoded body of one command; a batch of commands
// is bounded by the proposer.
const MaxCommandBytes = 1 << 20

var (
	namePattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	metricPattern = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9_.:-]*$`)
	envPattern    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// NamePattern is what every name must match; it is quoted in error messages.
const NamePattern = `^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`

// ValidName reports whether s may name a noun.
func ValidName(s string) bool { return namePattern.MatchString(s) }

func (f *fieldErrors) name(field, s string) {
	f.check(ValidName(s), field, "must match %s (lower-case letters, digits and dashes, at most 63)", NamePattern)
}

func (f *fieldErrors) labels(field string, labels map[string]string) {
	if len(labels) == 0 {
		return
	}
	f.check(len(labels) <= maxLabels, field, "has more than %d entries", maxLabels)
	for _, k := range sortedKeys(labels) {
		if k == "" || len(k) > maxLabelKey {
			f.add(field, "has a key of %d bytes, 1 to %d are allowed", len(k), maxLabelKey)
		}
		if n := len(labels[k]); n > maxLabelValue {
			f.add(field+"."+k, "has %d bytes, at most %d are allowed", n, maxLabelValue)
		}
	}
}

// sortedKeys returns the keys of a map in order: maps are never walked in
// their own.
func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m { //archtest:ok the keys are sorted before anything looks at them
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (f *fieldErrors) metric(field, s string) {
	f.check(len(s) <= maxMetricName && metricPattern.MatchString(s), field,
		"must be a name such as cpu or queue_depth, at most %d characters", maxMetricName)
}

// ValidMetric reports whether s may name a metric.
func ValidMetric(s string) bool {
	return len(s) <= maxMetricName && metricPattern.MatchString(s)
}
