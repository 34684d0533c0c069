package sim

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// The load's own settings.
const (
	evaluationInterval = time.Second
	loadMetric         = "load"
	appTemplate        = "app"
	checkedTemplate    = "checked"
	registerTemplate   = "register"
	loadPeriod         = 25 * time.Second // of the wave that the groups follow
)

// autoGroups are the groups with real instances. Their limits never change.
func autoGroups() []fsm.Group {
	return []fsm.Group{
		{Name: "web", Template: checkedTemplate, MinSize: 2, MaxSize: 8, Desired: 3},
		{Name: "jobs", Template: appTemplate, MinSize: 1, MaxSize: 6, Desired: 2},
		{Name: "fixed", Template: appTemplate, MinSize: 3, MaxSize: 3, Desired: 3},
	}
}

// autoPolicies are the policies of those groups.
func autoPolicies() []fsm.Policy {
	var list []fsm.Policy
	for _, g := range []string{"web", "jobs"} {
		list = append(list,
			fsm.Policy{Group: g, Name: "up", Metric: loadMetric, Operator: fsm.Greater, Threshold: 70, EvaluationPeriods: 2,
				Direction: fsm.Up, Adjustment: 2, Cooldown: fsm.Duration(4 * time.Second)},
			fsm.Policy{Group: g, Name: "down", Metric: loadMetric, Operator: fsm.Less, Threshold: 30, EvaluationPeriods: 2,
				Direction: fsm.Down, Adjustment: 1, Cooldown: fsm.Duration(5 * time.Second)})
	}
	return list
}

func declaredPolicy(group, name string) (fsm.Policy, bool) {
	for _, p := range autoPolicies() {
		if p.Group == group && p.Name == name {
			return p, true
		}
	}
	return fsm.Policy{}, false
}

func putLabel(key string, value int) fsm.Command {
	return fsm.PutTemplate{Template: fsm.Template{Name: key, Driver: driverName, Command: fsm.SampleCommand, Labels: map[string]string{"v": fmt.Sprint(value)}}}
}

// putSize makes a group that is never placed, since no node has its driver: a
// register.
func putSize(key string, value int) fsm.Command {
	return fsm.PutGroup{Group: fsm.Group{Name: key, Template: registerTemplate, MaxSize: maxValue, Desired: value}}
}

// plantRows writes the templates, groups and policies of the run.
func (w *World) plantRows(ctx context.Context) error {
	stop := &fsm.Stop{Grace: fsm.Duration(300 * time.Millisecond), Timeout: fsm.Duration(time.Second)}
	check := &fsm.HealthCheck{Type: fsm.CheckExec, Command: []string{"/bin/true"}, Interval: fsm.Duration(500 * time.Millisecond),
		Timeout: fsm.Duration(200 * time.Millisecond), Rise: 1, Fall: 2, Grace: fsm.Duration(5 * time.Second)}
	list := []fsm.Command{
		fsm.PutTemplate{Template: fsm.Template{Name: appTemplate, Driver: driverName, Command: fsm.SampleCommand, Stop: stop}},
		fsm.PutTemplate{Template: fsm.Template{Name: checkedTemplate, Driver: driverName, Command: fsm.SampleCommand, Stop: stop, HealthCheck: check}},
		fsm.PutTemplate{Template: fsm.Template{Name: registerTemplate, Driver: "absent", Command: fsm.SampleCommand}},
	}
	for _, g := range autoGroups() {
		list = append(list, fsm.PutGroup{Group: g})
	}
	for _, p := range autoPolicies() {
		list = append(list, fsm.PutPolicy{Policy: p})
	}
	for k, cmd := range list {
		if err := w.insist(ctx, fmt.Sprintf("setup-%d", k), cmd); err != nil {
			return fmt.Errorf("%s: %w", cmd.Name(), err)
		}
	}
	return nil
}

// insist proposes a command until it is applied.
func (w *World) insist(ctx context.Context, request string, cmd fsm.Command) (err error) {
	err = context.DeadlineExceeded
	for ctx.Err() == nil {
		for _, m := range w.live() {
			c, _ := m.process()
			if c == nil {
				continue
			}
			try, cancel := context.WithTimeout(fsm.WithRequestID(fsm.WithActor(ctx, request), request), opTimeout)
			_, err = c.Propose(try, cmd)
			cancel()
			if err == nil || fateOf(fsm.KindOf(err)) == fateRefused {
				return err
			}
		}
		_ = pause(ctx, 100*time.Millisecond)
	}
	return err
}

// pushMetrics has the groups' load follow a wave, on whatever node.
func (w *World) pushMetrics(ctx context.Context) {
	rng := w.chance.of(2)
	shift := rng.Float64() * 2 * math.Pi
	for pause(ctx, evaluationInterval/2) == nil {
		live := w.live()
		if len(live) == 0 {
			continue
		}
		for k, g := range autoGroups()[:2] {
			angle := shift + float64(k) + 2*math.Pi*float64(time.Since(w.began))/float64(loadPeriod)
			m := live[rng.IntN(len(live))]
			m.push(g.Name, 50+50*math.Sin(angle)+10*rng.Float64())
		}
	}
}

func (m *machine) push(group string, value float64) {
	m.mu.Lock()
	n := m.proc
	m.mu.Unlock()
	if n != nil {
		_ = n.PushMetrics(context.Background(), group, []client.MetricSample{{Metric: loadMetric, Value: value}})
	}
}
