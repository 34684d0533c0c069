package httpapitest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/internal/fsmtest"
)

// Web fills a cluster with template web, group web of two instances (one of
// them healthy), two policies and two decisions.
func Web(c *Cluster) {
	c.Template()
	c.Must(fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "web", MinSize: 1, MaxSize: 5, Desired: 2}})
	c.Must(fsm.PutPolicy{Policy: fsm.Policy{
		Group: "web", Name: "busy", Metric: "cpu", Operator: fsm.Greater, Threshold: 70,
		EvaluationPeriods: 2, Direction: fsm.Up, Adjustment: 1,
	}})
	c.Must(fsm.PutPolicy{Policy: fsm.Policy{
		Group: "web", Name: "idle", Metric: "cpu", Operator: fsm.Less, Threshold: 20, Direction: fsm.Down, Adjustment: 1,
	}})
	c.Must(fsm.LaunchInstances{Group: "web", Term: fsmtest.Term, Cause: "desired is 2, 0 are active", Launches: []fsm.Launch{
		{ID: InstanceID(1), Node: c.Name}, {ID: InstanceID(2), Node: c.Name},
	}})
	c.Report(InstanceID(1), fsm.Starting, "")
	c.Report(InstanceID(1), fsm.Running, fsm.Healthy)
	c.Report(InstanceID(2), fsm.Starting, "")
	value := 85.2
	c.Must(fsm.RecordDecision{Term: fsmtest.Term, Decision: fsm.Decision{
		Group: "web", From: 2, To: 2, Metrics: map[string]float64{"cpu": value},
		Reason: "no change: busy waits, cpu is 85.2, above 70 for 1 of 2 evaluations",
		Proposals: []fsm.Proposal{
			{Policy: "busy", Metric: "cpu", Value: &value, Operator: fsm.Greater, Threshold: 70, Breaches: 1, Periods: 2,
				Verdict: fsm.VerdictPending, Reason: "cpu is 85.2, above 70 for 1 of 2 evaluations"},
			{Policy: "idle", Metric: "cpu", Value: &value, Operator: fsm.Less, Threshold: 20, Periods: 1,
				Verdict: fsm.VerdictNotBreached, Reason: "cpu is 85.2, not below 20"},
		},
	}})
	c.Must(fsm.RecordDecision{Term: fsmtest.Term, Decision: fsm.Decision{
		Group: "web", From: 2, To: 3, Winner: "busy", Metrics: map[string]float64{"cpu": value},
		Reason: "up from 2 to 3: cpu is 85.2, above 70 for 2 of 2 evaluations (policy busy)",
		Proposals: []fsm.Proposal{
			{Policy: "busy", Metric: "cpu", Value: &value, Operator: fsm.Greater, Threshold: 70, Breaches: 2, Periods: 2, Size: 3,
				Verdict: fsm.VerdictWon, Reason: "cpu is 85.2, above 70 for 2 of 2 evaluations"},
			{Policy: "idle", Metric: "cpu", Value: &value, Operator: fsm.Less, Threshold: 20, Periods: 1,
				Verdict: fsm.VerdictNotBreached, Reason: "cpu is 85.2, not below 20"},
		},
	}})
}

// InstanceID returns the id of the n-th instance of the fixture.
func InstanceID(n int) string { return fmt.Sprintf("01INSTANCE%016d", n) }

// Sink remembers pushed samples.
type Sink struct {
	mu      sync.Mutex
	samples []client.MetricSample
}

// PushMetrics implements httpapi.MetricsSink.
func (s *Sink) PushMetrics(_ context.Context, _ string, samples []client.MetricSample) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.samples = append(s.samples, samples...)
	return nil
}

// Samples returns what was pushed.
func (s *Sink) Samples() []client.MetricSample {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]client.MetricSample(nil), s.samples...)
}

// Hearts takes every heartbeat and remembers it.
type Hearts struct {
	// Err refuses heartbeats.
	Err error

	mu    sync.Mutex
	beats []string
}

// Heartbeat implements httpapi.Heartbeats.
func (h *Hearts) Heartbeat(_ context.Context, instance string, beat client.Heartbeat) (client.HeartbeatTaken, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.beats = append(h.beats, strings.TrimSpace(instance+" "+beat.Status+" "+beat.Output))
	return client.HeartbeatTaken{TTL: fsm.Duration(10 * time.Second)}, h.Err
}

// Beats returns what was sent: instance, status and output of each.
func (h *Hearts) Beats() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]string(nil), h.beats...)
}

// Logs serves a fixed text as the log of every instance.
type Logs struct{ Text string }

// Logs implements httpapi.LogSource.
func (l Logs) Logs(_ context.Context, _ string, q httpapi.LogQuery) (httpapi.LogChunk, error) {
	end := int64(len(l.Text))
	if q.Offset >= 0 {
		return httpapi.LogChunk{Data: []byte(l.Text[min(q.Offset, end):]), Next: end, Ended: true}, nil
	}
	lines := strings.SplitAfter(l.Text, "\n")
	lines = lines[max(0, len(lines)-1-q.Tail):]
	return httpapi.LogChunk{Data: []byte(strings.Join(lines, "")), Next: end, Ended: true}, nil
}
