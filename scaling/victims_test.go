package scaling_test

import (
	"fmt"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// TestScaleInSparesSessionsAndRequests: of instances that serve, the one with
// the fewest sessions goes, and among equals the one with the fewest requests.
func TestScaleInSparesSessionsAndRequests(t *testing.T) {
	sticky := group("web", 3, 1, 5)
	sticky.Group.Service = &fsm.Service{Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable}}
	s := newScene(t, sticky)
	s.step(0)
	s.settle()
	for k, i := range s.in(fsm.Running) {
		s.must(t, fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{
			{ID: i.ID, Address: fmt.Sprintf("127.0.0.1:%d", 20000+k), Incarnation: 1},
		}})
	}
	list := s.in(fsm.Running)
	victim := func(inFlight map[string]float64) string {
		t.Helper()
		st := s.State()
		p := scaling.Planner{Term: 1, NewID: s.id, InFlight: func(id string) float64 { return inFlight[id] }}.Plan(st, st.Time())
		stop, ok := p.Commands()[0].(fsm.StopInstances)
		if !ok || len(stop.Instances) != 1 {
			t.Fatalf("the plan is %v", p.Commands())
		}
		return stop.Instances[0]
	}
	s.must(t, fsm.SetDesired{Group: "web", To: 2})
	if got := victim(nil); got != list[2].ID {
		t.Errorf("without sessions and requests %s goes, want the newest, %s", got, list[2].ID)
	}
	busy := map[string]float64{list[0].ID: 2, list[1].ID: 1, list[2].ID: 9}
	if got := victim(busy); got != list[1].ID {
		t.Errorf("%s goes, want the one with the fewest requests, %s", got, list[1].ID)
	}
	// 30 sessions, ten each; then nine of the first instance end.
	var keys []byte
	for k := range 30 {
		key := fsm.SessionKey(fmt.Sprintf("s%d", k))
		keys = append(keys, key[:]...)
	}
	s.must(t, fsm.AssignSessions{Group: "web", Keys: keys})
	var ended []byte
	for key, v := range s.State().SessionsFrom("web", [16]byte{}) {
		if v.Instance == list[0].ID && len(ended) < 9*16 {
			ended = append(ended, key[:]...)
		}
	}
	s.must(t, fsm.DeleteSessions{Group: "web", Keys: ended})
	if got := victim(busy); got != list[0].ID {
		t.Errorf("%s goes, want the one with the fewest sessions, %s", got, list[0].ID)
	}
}
