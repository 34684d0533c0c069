package fsm_test

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
)

// sessionModel is what the sessions of group "web" should be, told with maps
// and without a thought of speed.
type sessionModel struct {
	sessions map[key]modelSession
	slots    map[uint32]modelOwner
	last     uint32
	totals   fsm.SessionTotals
}

type modelSession struct {
	slot, epoch uint32
	seen        int64
}

type modelOwner struct {
	instance    string
	incarnation int
}

func (m sessionModel) clone() sessionModel {
	m.sessions, m.slots = maps.Clone(m.sessions), maps.Clone(m.slots)
	return m
}

// lives reports whether a slot's process serves, and whether it takes more.
func (m sessionModel) lives(s *fsm.State, o modelOwner) (lives, takes bool) {
	best := fsm.Unknown
	for _, i := range s.InstancesOf("web") {
		if _, ok := i.Endpoint(); ok && i.State == fsm.Running && i.Health == fsm.Healthy {
			best = fsm.Healthy
		}
	}
	i, ok := s.Instances.Get(o.instance)
	if !ok || i.Incarnation != o.incarnation || i.Address == "" {
		return false, false
	}
	return i.State == fsm.Running || i.State == fsm.Draining, i.State == fsm.Running && i.Health == best
}

func (m sessionModel) count(slot uint32) (n int) {
	for _, s := range m.sessions {
		if s.slot == slot {
			n++
		}
	}
	return n
}

// pick gives new instances their slots and returns the emptiest.
func (m *sessionModel) pick(s *fsm.State) (uint32, bool) {
	for id, i := range s.InstancesOf("web") {
		o, known := modelOwner{id, i.Incarnation}, false
		for _, have := range m.slots {
			known = known || have == o
		}
		if _, takes := m.lives(s, o); takes && !known {
			m.last++
			m.slots[m.last] = o
		}
	}
	best, least := uint32(0), 0
	for _, slot := range slices.Sorted(maps.Keys(m.slots)) {
		if _, takes := m.lives(s, m.slots[slot]); takes && (best == 0 || m.count(slot) < least) {
			best, least = slot, m.count(slot)
		}
	}
	return best, best != 0
}

// prefer returns the slot of a wanted instance, or else the picked one.
func (m *sessionModel) prefer(s *fsm.State, picked uint32, wanted []fsm.WantedPlace, at int) uint32 {
	for _, w := range wanted {
		for slot, o := range m.slots {
			if _, takes := m.lives(s, o); w.Key == at && takes && o == (modelOwner{w.Instance, w.Incarnation}) {
				return slot
			}
		}
	}
	return picked
}

// assign is AssignSessions; ok is false when it must fail.
func (m *sessionModel) assign(s *fsm.State, now int64, keys []key, wanted []fsm.WantedPlace) (out []fsm.Assignment, ok bool) {
	answers := map[key]fsm.Assignment{}
	for at, k := range keys {
		if a, twice := answers[k]; twice {
			out = append(out, a)
			continue
		}
		have, is := m.sessions[k]
		a := fsm.Assignment{Created: !is}
		if is {
			lives, _ := m.lives(s, m.slots[have.slot])
			a.Moved = !lives
		}
		if a.Created || a.Moved {
			slot, ok := m.pick(s)
			if !ok {
				return nil, false
			}
			have.slot = m.prefer(s, slot, wanted, at)
		}
		if a.Moved {
			have.epoch++
			m.totals.Moved++
		} else if a.Created {
			m.totals.Assigned++
		}
		have.seen = now
		m.sessions[k] = have
		o := m.slots[have.slot]
		a.Slot, a.Instance, a.Incarnation, a.Epoch = have.slot, o.instance, o.incarnation, have.epoch
		answers[k] = a
		out = append(out, a)
	}
	return out, true
}

// tidy forgets the slots that are of no use, as each change does.
func (m *sessionModel) tidy(s *fsm.State) {
	for _, slot := range slices.Sorted(maps.Keys(m.slots)) {
		if lives, _ := m.lives(s, m.slots[slot]); !lives && m.count(slot) == 0 {
			delete(m.slots, slot)
		}
	}
}

func (m *sessionModel) sorted() []key {
	return slices.SortedFunc(maps.Keys(m.sessions), func(a, b key) int { return bytes.Compare(a[:], b[:]) })
}

// scan visits the sessions from a key on that a bounded command looks at, and
// returns what the command should answer.
func (m *sessionModel) scan(from []byte, limit int, visit func(key) bool) (scan fsm.SessionScan) {
	scan.Done = true
	var first key
	copy(first[:], from)
	for _, k := range m.sorted() {
		if bytes.Compare(k[:], first[:]) < 0 {
			continue
		}
		if limit > 0 && scan.Scanned == limit {
			scan.Next, scan.Done = k[:], false
			break
		}
		scan.Scanned++
		if visit(k) {
			scan.Changed++
		}
	}
	return scan
}

// compare holds a state to the model.
func (m *sessionModel) compare(t *rapid.T, s *fsm.State) {
	n, keys := 0, m.sorted()
	for k, v := range s.SessionsFrom("web", key{}) {
		if n == len(keys) || keys[n] != k {
			t.Fatalf("session %d is %x", n, k)
		}
		n++
		want := m.sessions[k]
		o := m.slots[want.slot]
		lives, _ := m.lives(s, o)
		if w := (fsm.SessionView{Instance: o.instance, Incarnation: o.incarnation, Slot: want.slot, Epoch: want.epoch, Seen: time.Unix(want.seen, 0).UTC(), Lives: lives}); v != w {
			t.Fatalf("session %x is %+v, want %+v", k, v, w)
		}
		if one, ok := s.Session("web", k); !ok || one != v {
			t.Fatalf("session %x is %+v alone", k, one)
		}
	}
	stats := s.SessionStats("web")
	if n != len(keys) || stats.SessionTotals != m.totals || len(stats.Slots) != len(m.slots) {
		t.Fatalf("%d of %d sessions; %+v, want %+v and %v", n, len(keys), stats, m.totals, m.slots)
	}
	for _, slot := range stats.Slots {
		if o := m.slots[slot.Slot]; o.instance != slot.Instance || o.incarnation != slot.Incarnation || slot.Sessions != m.count(slot.Slot) {
			t.Fatalf("slot %+v, want %+v", slot, o)
		}
	}
	if !s.VerifyDigest() {
		t.Fatal("the rolling digest differs from the rows")
	}
}

// sessionRun is a machine, its model, and everything that was true before.
type sessionRun struct {
	m      *fsm.Machine
	model  sessionModel
	second int
	log    []fsm.LogEntry
	states []*fsm.State
	models []sessionModel
}

// apply applies a command, with a dry run before it.
func (r *sessionRun) apply(t *rapid.T, c fsm.Command) (any, error) {
	now := start.Add(time.Duration(r.second) * time.Second)
	if bad := r.m.State().DryRun([]fsm.Envelope{seal(t, c)}, now); bad != nil {
		t.Fatal(bad)
	}
	e := fsm.Entry{Time: now, Commands: []fsm.Envelope{seal(t, c)}}
	entry := fsm.LogEntry{Index: r.m.State().Index() + 1, Term: 1, Data: e.Encode()}
	r.log = append(r.log, entry)
	out := apply(t, r.m, []fsm.LogEntry{entry})
	return out[0].Results[0].Value, out[0].Errs[0]
}

// drawWanted draws places that sessions have already, of any instance in any
// state, or of none.
func drawWanted(t *rapid.T, s *fsm.State, keys int) (list []fsm.WantedPlace) {
	owners := []modelOwner{{"nobody", 1}}
	for id, i := range s.InstancesOf("web") {
		owners = append(owners, modelOwner{id, i.Incarnation}, modelOwner{id, i.Incarnation + 1})
	}
	for k := range keys {
		if rapid.IntRange(0, 3).Draw(t, "wants") == 0 {
			o := rapid.SampledFrom(owners).Draw(t, "wanted")
			list = append(list, fsm.WantedPlace{Key: k, Instance: o.instance, Incarnation: o.incarnation})
		}
	}
	return list
}

// session draws a command about sessions, applies it, and says what the model
// makes of it.
func (r *sessionRun) session(t *rapid.T) {
	s, next, now := r.m.State(), r.model.clone(), start.Unix()+int64(r.second)
	keys := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) key {
		return key{rapid.ByteRange(0, 3).Draw(t, "first") << 6, 15: rapid.ByteRange(0, 12).Draw(t, "last")}
	}), 1, 40).Draw(t, "keys")
	from, limit := keys[0][:rapid.SampledFrom([]int{0, 16}).Draw(t, "cursor")], rapid.IntRange(0, 12).Draw(t, "limit")
	var c fsm.Command
	var want any
	fails := false
	switch kind := rapid.SampledFrom([]string{"assign", "assign", "touch", "rehome", "expire", "delete"}).Draw(t, "kind"); kind {
	case "assign":
		wanted := drawWanted(t, s, len(keys))
		c = fsm.AssignSessions{Group: "web", Keys: keysOf(keys...), Wanted: wanted}
		out, ok := next.assign(s, now, keys, wanted)
		want, fails = out, !ok
	case "touch":
		c = fsm.TouchSessions{Group: "web", Keys: keysOf(keys...)}
		n := 0
		for _, k := range keys {
			if have, is := next.sessions[k]; is {
				have.seen = now
				next.sessions[k] = have
				n++
			}
		}
		want = n
	case "rehome":
		c = fsm.RehomeSessions{Group: "web", From: from, Limit: limit}
		homeless := func() (n int) {
			for _, have := range next.sessions {
				if lives, _ := next.lives(s, next.slots[have.slot]); !lives {
					n++
				}
			}
			return n
		}
		if homeless() == 0 {
			want = fsm.SessionScan{Done: true}
			break
		}
		scan := next.scan(from, limit, func(k key) bool {
			have := next.sessions[k]
			if lives, _ := next.lives(s, next.slots[have.slot]); lives {
				return false
			}
			slot, ok := next.pick(s)
			fails = fails || !ok
			have.slot, have.epoch = slot, have.epoch+1
			next.sessions[k] = have
			next.totals.Moved++
			return true
		})
		if !fails && homeless() == 0 {
			scan.Next, scan.Done = nil, true
		}
		want = scan
	case "expire":
		c = fsm.ExpireSessions{Group: "web", From: from, Limit: limit}
		want = next.scan(from, limit, func(k key) bool {
			old := next.sessions[k].seen+60 <= now
			if old {
				delete(next.sessions, k)
				next.totals.Expired++
			}
			return old
		})
	case "delete":
		c = fsm.DeleteSessions{Group: "web", Keys: keysOf(keys...)}
		before := len(next.sessions)
		for _, k := range keys {
			delete(next.sessions, k)
		}
		want = before - len(next.sessions)
		next.totals.Deleted += uint64(want.(int))
	}
	got, err := r.apply(t, c)
	if _, deletes := c.(fsm.DeleteSessions); deletes && want == 0 {
		if fsm.KindOf(err) != fsm.NotFound {
			t.Fatalf("%T: %v, want it to find nothing", c, err)
		}
		return
	}
	if fails {
		if fsm.KindOf(err) != fsm.Unavailable {
			t.Fatalf("%T: %v, want it to be unavailable", c, err)
		}
		return
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%T: %+v, %v\nwant %+v", c, got, err, want)
	}
	if !reflect.DeepEqual(next, r.model) {
		next.tidy(s)
	}
	r.model = next
}

// disturb changes the instances, the time, or the machine.
func (r *sessionRun) disturb(t *rapid.T) {
	id := inst(rapid.IntRange(1, 5).Draw(t, "instance"))
	i, exists := r.m.State().Instances.Get(id)
	report := fsm.InstanceReport{ID: id}
	switch kind := rapid.SampledFrom([]string{"state", "state", "restart", "health", "health", "launch", "forget", "time", "snapshot"}).Draw(t, "disturbance"); {
	case kind == "time":
		r.second += rapid.IntRange(1, 40).Draw(t, "seconds")
		return
	case kind == "snapshot":
		digest := r.m.State().Digest()
		r.m.Replace(roundTrip(t, r.m.State()))
		if r.m.State().Digest() != digest {
			t.Fatal("the restored state differs")
		}
		return
	case kind == "launch" && !exists:
		_, _ = r.apply(t, fsm.LaunchInstances{Group: "web", Term: 1, Launches: []fsm.Launch{{ID: id, Node: "n1"}}})
		return
	case kind == "forget":
		_, _ = r.apply(t, fsm.ForgetInstances{Instances: []string{id}})
		return
	case !exists:
		return
	case kind == "restart":
		report.Incarnation = i.Incarnation + 1
	case kind == "health":
		report.Health = rapid.SampledFrom([]fsm.Health{fsm.Unknown, fsm.Healthy, fsm.Unhealthy}).Draw(t, "health")
	default:
		steps := map[fsm.InstanceState][]fsm.InstanceState{
			fsm.Planned: {fsm.Starting}, fsm.Starting: {fsm.Running}, fsm.Running: {fsm.Draining, fsm.Failed, fsm.Running},
			fsm.Draining: {fsm.Stopping, fsm.Failed}, fsm.Stopping: {fsm.Stopped},
		}
		if len(steps[i.State]) == 0 {
			return
		}
		report.State = rapid.SampledFrom(steps[i.State]).Draw(t, "to")
		report.Address, report.Health, report.Incarnation = "10.0.0.1:80", fsm.Healthy, max(i.Incarnation, 1)
	}
	_, _ = r.apply(t, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{report}})
}

// TestSessionModel: whatever happens to instances, the sessions are those of
// the model, no earlier state ever changes, and the log applied at once gives
// the same state.
func TestSessionModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := sticky(t, 2, fsm.StickyTable).State()
		r := &sessionRun{m: fsm.NewMachine(), model: sessionModel{sessions: map[key]modelSession{}, slots: map[uint32]modelOwner{}}}
		r.m.Replace(base)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			r.states, r.models = append(r.states, r.m.State()), append(r.models, r.model.clone())
			if rapid.IntRange(0, 2).Draw(t, "what") == 0 {
				r.disturb(t)
			} else {
				r.session(t)
			}
			r.model.compare(t, r.m.State())
		}
		for k, s := range r.states {
			r.models[k].compare(t, s)
		}
		all := fsm.NewMachine()
		all.Replace(base)
		apply(t, all, r.log)
		if all.State().Digest() != r.m.State().Digest() || dumpAll(t, all.State()) != dumpAll(t, r.m.State()) {
			t.Fatal("applying the log at once gives another state")
		}
	})
}

// TestRehomeIsFair: the sessions of an instance that ends are spread evenly in
// bounded steps, and no other session moves.
func TestRehomeIsFair(t *testing.T) {
	m := sticky(t, 10, fsm.StickyTable)
	var keys []byte
	for k := range 40_000 {
		keys = append(keys, keysOf(fsm.SessionKey(fmt.Sprint(k)))...)
	}
	for c := range slices.Chunk(keys, 4000*16) {
		step(t, m, 0, fsm.AssignSessions{Group: "web", Keys: c})
	}
	before := m.State()
	step(t, m, 1, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: inst(3), State: fsm.Failed}}})
	var from []byte
	for n := 1; ; n++ {
		scan := step(t, m, 1, fsm.RehomeSessions{Group: "web", From: from}).(fsm.SessionScan)
		if scan.Changed > fsm.MaxSessionMoves || scan.Scanned > fsm.MaxSessionScan || n > 9 {
			t.Fatalf("step %d: %+v", n, scan)
		}
		if from = scan.Next; scan.Done {
			break
		}
	}
	places, victims := map[string]int{}, 0
	for k, v := range m.State().SessionsFrom("web", key{}) {
		old, _ := before.Session("web", k)
		switch {
		case old.Instance == inst(3):
			victims++
			places[v.Instance]++
			if v.Epoch != 1 || !v.Lives {
				t.Fatalf("a victim is %+v", v)
			}
		case v != old:
			t.Fatalf("session %x has moved from %+v to %+v", k, old, v)
		}
	}
	most := slices.MaxFunc(slices.Collect(maps.Values(places)), cmp.Compare[int])
	if victims != 4000 || len(places) != 9 || float64(most)*9/4000 > 1.01 {
		t.Errorf("%d victims went to %v", victims, places)
	}
	if stats := m.State().SessionStats("web"); stats.Homeless != 0 || len(stats.Slots) != 9 {
		t.Errorf("%+v", stats)
	}
}
