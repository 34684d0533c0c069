package scaling_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// crowd has groups with so many wanted instances each, on so many nodes.
func crowd(tb testing.TB, nodes, groups, size int) *scene {
	s := &scene{cluster: newCluster(), id: newIDs()}
	for k := range nodes {
		s.must(tb, node(fmt.Sprintf("n%02d", k), string(rune('a'+k%3)), 1000))
	}
	s.must(tb, template("app", 0.1))
	for k := range groups {
		s.must(tb, group(fmt.Sprintf("g%03d", k), size, 0, size))
	}
	return s
}

// fillUp launches everything that the groups want.
func (s *scene) fillUp(tb testing.TB, healthy bool) {
	p := s.planner().Plan(s.State(), s.State().Time())
	s.must(tb, p.Commands()...)
	if !healthy {
		return
	}
	for _, state := range []fsm.InstanceState{fsm.Starting, fsm.Running} {
		for name := range s.State().Nodes.All() {
			r := fsm.ReportInstances{Node: name, NodeIncarnation: 1}
			for id, i := range s.State().Instances.All() {
				if i.Node == name {
					r.Reports = append(r.Reports, fsm.InstanceReport{ID: id, State: state, Health: fsm.Healthy})
				}
			}
			s.must(tb, r)
		}
	}
}

func (s *scene) planner() scaling.Planner {
	return scaling.Planner{Term: 1, NewID: s.id, Limits: scaling.Limits{LaunchBurst: 10_000}}
}

func BenchmarkPlan(b *testing.B) {
	for _, k := range []struct {
		name                string
		nodes, groups, size int
		healthy, empty      bool
	}{
		{name: "settled/nodes=3/instances=1000", nodes: 3, groups: 10, size: 100, healthy: true},
		{name: "launch/nodes=3/instances=1000", nodes: 3, groups: 10, size: 100, empty: true},
		{name: "launch/nodes=50/instances=1000", nodes: 50, groups: 10, size: 100, empty: true},
		{name: "settled/nodes=3/instances=1000/groups=500", nodes: 3, groups: 500, size: 2, healthy: true},
	} {
		b.Run(k.name, func(b *testing.B) {
			s := crowd(b, k.nodes, k.groups, k.size)
			if !k.empty {
				s.fillUp(b, k.healthy)
			}
			st := s.State()
			want := 0
			if k.empty {
				want = k.groups
			}
			b.ReportAllocs()
			for b.Loop() {
				if p := s.planner().Plan(st, st.Time().Add(time.Minute)); len(p.Commands()) != want {
					b.Fatalf("%d commands, want %d", len(p.Commands()), want)
				}
			}
		})
	}
}

func BenchmarkExplain(b *testing.B) {
	s := crowd(b, 3, 10, 100)
	s.fillUp(b, true)
	st := s.State()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := scaling.Explain(st, "g005", st.Time(), scaling.Limits{}, nil); err != nil {
			b.Fatal(err)
		}
	}
}
