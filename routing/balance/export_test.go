package balance

import "time"

// Latency is what peak EWMA thinks of an endpoint.
func (l *Load) Latency(now time.Duration) time.Duration { return time.Duration(l.latency(now)) }

// The sizes at which a policy changes its way, for tests of both sides.
const (
	LeastScan    = leastScan
	Rendezvous   = rendezvous
	MaxEndpoints = maxEndpoints
	FewTried     = fewTried
)

// FamilyTotal is the sum that bounded loads go by; 0 without it.
func FamilyTotal(l *Load) int64 {
	f := l.family.Load()
	if f == nil {
		return 0
	}
	return f.total.Load()
}
