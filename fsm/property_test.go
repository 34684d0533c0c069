package fsm_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pacelinehq/paceline/fsm"
)

// drawCommand makes a command over few names, so that commands meet.
func drawCommand(t *rapid.T, k int) fsm.Command {
	name := func(prefix string, n int) string {
		return fmt.Sprintf("%s%d", prefix, rapid.IntRange(1, n).Draw(t, prefix))
	}
	size := rapid.IntRange(-1, 6).Draw(t, "size")
	node, group, templ := name("n", 3), name("g", 2), name("t", 2)
	inst := name("i", 12)
	inc := rapid.Uint64Range(1, 3).Draw(t, "incarnation")
	states := []fsm.InstanceState{"", fsm.Planned, fsm.Starting, fsm.Running, fsm.Draining, fsm.Stopping, fsm.Stopped, fsm.Failed, fsm.Lost}
	list := []fsm.Command{
		fsm.InitCluster{ID: "01C"},
		fsm.RegisterNode{Node: fsm.Node{Name: node, Incarnation: inc, Zone: "a", Drivers: []string{"process"}}},
		fsm.DrainNode{Node: node, Drain: size > 2},
		fsm.NodeDown{Node: node, Incarnation: inc, Term: 1},
		fsm.RemoveNode{Node: node, Process: inc / 2},
		fsm.PutTemplate{Template: fsm.Template{Name: templ, Driver: "process", Command: "@sample", Labels: map[string]string{"a": node, "b": inst}}},
		fsm.DeleteTemplate{Template: templ},
		fsm.PutGroup{Group: fsm.Group{Name: group, Template: templ, MinSize: 0, MaxSize: 4, Desired: size, Service: drawService(t, group)}},
		fsm.DeleteGroup{Group: group},
		fsm.RemoveGroup{Group: group},
		fsm.SetDesired{Group: group, To: size},
		fsm.WakeGroup{Group: group},
		fsm.LaunchInstances{Group: group, Term: 1, Launches: []fsm.Launch{{ID: inst, Node: node}}},
		fsm.StopInstances{Instances: []string{inst}},
		fsm.ReportInstances{Node: node, NodeIncarnation: inc, Reports: []fsm.InstanceReport{{
			ID: inst, State: rapid.SampledFrom(states).Draw(t, "state"), Health: fsm.Healthy, PID: k,
			Address: "10.0.0.1:80", Incarnation: k % 4,
		}}},
		fsm.ForgetInstances{Instances: []string{inst}},
		fsm.PutPolicy{Policy: fsm.Policy{
			Group: group, Name: "p", Metric: "cpu", Operator: fsm.Greater, Threshold: float64(size),
			Direction: fsm.Up, Adjustment: 1,
		}},
		fsm.DeletePolicy{Group: group, Policy: "p"},
		fsm.RecordDecision{Term: 1, Decision: fsm.Decision{
			Group: group, From: 1, To: size, Winner: "p", Metrics: map[string]float64{"cpu": float64(size), "m": 0.1},
		}},
		fsm.Planted{Do: rapid.SampledFrom([]string{"panic", "fail", "write", "assign panic", "assign fail"}).Draw(t, "do")},
	}
	list = append(list, sessionCommands(t, group)...)
	return list[rapid.IntRange(0, len(list)-1).Draw(t, "command")]
}

func drawService(t *rapid.T, group string) *fsm.Service {
	strategy := rapid.SampledFrom([]string{"", fsm.StickyTable, fsm.StickyTable, fsm.StickyShared}).Draw(t, "strategy")
	if strategy == "" {
		return nil
	}
	return &fsm.Service{Hosts: []string{group + ".example"}, Stickiness: fsm.Stickiness{Strategy: strategy, TTL: fsm.Duration(5 * time.Second)}}
}

// sessionCommands makes one of each command about sessions, over few keys.
func sessionCommands(t *rapid.T, group string) []fsm.Command {
	var keys []byte
	for _, k := range rapid.SliceOfN(rapid.ByteRange(0, 40), 1, 30).Draw(t, "keys") {
		keys = append(keys, keysOf(key{k & 1 << 7, 15: k})...)
	}
	id := rapid.SampledFrom([]string{"s1", "s/2", "é"}).Draw(t, "session")
	limit := rapid.IntRange(0, 9).Draw(t, "limit")
	return []fsm.Command{
		fsm.AssignSessions{Group: group, Keys: keys},
		fsm.AssignSessions{Group: group, Keys: keys, Wanted: []fsm.WantedPlace{{Key: limit / 3, Instance: "i1", Incarnation: limit % 3}}},
		fsm.TouchSessions{Group: group, Keys: keys},
		fsm.RehomeSessions{Group: group, From: keys[:16], Limit: limit},
		fsm.RehomeSessions{Group: group},
		fsm.ExpireSessions{Group: group, From: keys[:16], Limit: limit},
		fsm.DeleteSessions{Group: group, Keys: keys},
		fsm.PutSessionData{Group: group, Session: id, Data: keys, TTL: fsm.Duration(limit) * fsm.Duration(time.Second)},
		fsm.DeleteSessionData{Group: group, Session: id},
		fsm.ExpireSessionData{Group: group, Limit: limit},
		fsm.RotateSessionKeys{ID: uint8(1 + limit/3), Secret: keys[:16]},
	}
}

// drawLog makes a log of entries of one to four commands each.
func drawLog(t *rapid.T) []fsm.LogEntry {
	log := []fsm.LogEntry{prelude(t)}
	for k := range rapid.IntRange(1, 60).Draw(t, "entries") {
		e := fsm.Entry{
			Time:  start.Add(time.Duration(rapid.IntRange(-5, 60).Draw(t, "second")) * time.Second),
			Batch: fsm.BatchID{Node: "n1", Boot: 1, Seq: rapid.Uint64Range(1, 80).Draw(t, "seq")},
		}
		for range rapid.IntRange(1, 4).Draw(t, "commands") {
			id := rapid.SampledFrom([]string{"", "", "", "r1", "r2"}).Draw(t, "request")
			env, err := fsm.Seal(drawCommand(t, k), "test", id)
			if err != nil {
				t.Fatal(err)
			}
			e.Commands = append(e.Commands, env)
		}
		log = append(log, fsm.LogEntry{Index: uint64(k + 2), Term: 1, Data: e.Encode()})
	}
	return log
}

// prelude is an entry that leaves two healthy instances of a sticky group:
// chance alone seldom gets there.
func prelude(t interface{ Fatal(...any) }) fsm.LogEntry {
	node := fsm.Node{Name: "n1", Incarnation: 1, Zone: "a", Drivers: []string{"process"}}
	list := []fsm.Command{
		fsm.RegisterNode{Node: node},
		fsm.PutTemplate{Template: fsm.Template{Name: "t0", Driver: "process", Command: "@sample"}},
		fsm.PutGroup{Group: fsm.Group{Name: "g1", Template: "t0", MaxSize: 4, Desired: 2, Service: &fsm.Service{
			Hosts: []string{"g1.example"}, Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable, TTL: fsm.Duration(5 * time.Second)},
		}}},
		fsm.PutGroup{Group: fsm.Group{Name: "g2", Template: "t0", MaxSize: 4, Service: &fsm.Service{
			Hosts: []string{"g2.example"}, Stickiness: fsm.Stickiness{Strategy: fsm.StickyShared},
		}}},
		fsm.LaunchInstances{Group: "g1", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: "n1"}, {ID: "i2", Node: "n1"}}},
	}
	for _, id := range []string{"i1", "i2"} {
		for _, state := range []fsm.InstanceState{fsm.Starting, fsm.Running} {
			list = append(list, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{
				ID: id, State: state, Health: fsm.Healthy, Address: "10.0.0.1:80", Incarnation: 1,
			}}})
		}
	}
	return entryOf(t, 1, list...)
}

func apply(t interface{ Fatal(...any) }, m *fsm.Machine, log []fsm.LogEntry) []fsm.Outcome {
	out, err := m.Apply(log)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestReplay: the same log gives the same state, whether it is applied entry
// by entry, all at once, or with a snapshot in between at any place; and what
// the state promises about itself holds after every entry.
func TestReplay(t *testing.T) {
	defer fsm.PlantCommands()()
	rapid.Check(t, func(t *rapid.T) {
		log := drawLog(t)
		one, all, snap := fsm.NewMachine(), fsm.NewMachine(), fsm.NewMachine()
		apply(t, all, log)
		cut := rapid.IntRange(0, len(log)).Draw(t, "cut")
		var published []*fsm.State
		for k := range log {
			before := one.State()
			digest := before.Digest()
			apply(t, one, log[k:k+1])
			if before.Digest() != digest || !before.VerifyDigest() {
				t.Fatal("applying an entry changed the state before it")
			}
			published = append(published, before)
			checkState(t, one.State())
			if k == cut {
				apply(t, snap, log[:k])
				snap.Replace(roundTrip(t, snap.State()))
				apply(t, snap, log) // those before the cut are skipped
				if snap.State().Digest() != all.State().Digest() {
					t.Fatal("a snapshot in between changed the outcome")
				}
			}
		}
		for _, s := range published {
			if !s.VerifyDigest() {
				t.Fatal("a later entry changed a published state")
			}
		}
		if one.State().Digest() != all.State().Digest() {
			t.Fatal("applying entries together differs from one by one")
		}
		if a, b := dumpAll(t, one.State()), dumpAll(t, all.State()); a != b {
			t.Fatalf("rows differ:\n%s\n%s", a, b)
		}
	})
}

func roundTrip(t interface{ Fatal(...any) }, s *fsm.State) *fsm.State {
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	r, err := fsm.ReadSnapshot(&b)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dumpAll is the whole state as a snapshot, whose bytes two equal states share.
func dumpAll(t interface{ Fatal(...any) }, s *fsm.State) string {
	var b bytes.Buffer
	if err := s.WriteSnapshot(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func checkState(t *rapid.T, s *fsm.State) {
	if !s.VerifyDigest() {
		t.Fatal("the rolling digest differs from the rows")
	}
	for _, g := range s.Groups.All() {
		if g.Desired < g.MinSize || g.Desired > g.MaxSize {
			t.Fatalf("group %s: desired %d outside [%d,%d]", g.Name, g.Desired, g.MinSize, g.MaxSize)
		}
		if _, err := s.TemplateAt(g.Template, g.Version); err != nil {
			t.Fatalf("group %s uses a template that is gone: %v", g.Name, err)
		}
	}
	checkSessions(t, s)
	checkVersions(t, s)
	if s.Instances.Len() != s.GroupInstances.Len() {
		t.Fatal("the index of instances does not match the instances")
	}
	for _, i := range s.Instances.All() {
		if _, err := s.TemplateAt(i.Template, i.Version); err != nil && !i.State.Terminal() {
			t.Fatalf("instance %s runs a template that is gone: %v", i.ID, err)
		}
		if n, ok := s.Nodes.Get(i.Node); (!ok || n.State == fsm.NodeStateDown) && !i.State.Terminal() {
			t.Fatalf("instance %s is %s on a node that is gone", i.ID, i.State)
		}
	}
}

// checkVersions: a superseded version is kept while a group or a living
// instance uses it, and no longer.
func checkVersions(t *rapid.T, s *fsm.State) {
	used := map[string]bool{}
	for _, g := range s.Groups.All() {
		used[fmt.Sprint(g.Template, g.Version)] = true
	}
	for _, i := range s.Instances.All() {
		if !i.State.Terminal() {
			used[fmt.Sprint(i.Template, i.Version)] = true
		}
	}
	for _, v := range s.TemplateVersions.All() {
		if !used[fmt.Sprint(v.Name, v.Version)] {
			t.Fatalf("version %d of template %s is kept for nobody", v.Version, v.Name)
		}
	}
}

// checkSessions: each session's slot exists and counts it, no slot is shared,
// nothing is left of a group that is gone, and the quotas add up.
func checkSessions(t *rapid.T, s *fsm.State) {
	numbers, all := map[uint32]bool{}, 0
	for name := range s.Groups.All() {
		have := map[uint32]int{}
		for k, v := range s.SessionsFrom(name, key{}) {
			have[v.Slot]++
			if id, inc, ok := s.ResolveSlot(name, v.Slot); !ok || id != v.Instance || inc != v.Incarnation {
				t.Fatalf("session %x is in slot %d, which is not there", k, v.Slot)
			}
		}
		stats, sum := s.SessionStats(name), 0
		for _, slot := range stats.Slots {
			if have[slot.Slot] != slot.Sessions || numbers[slot.Slot] {
				t.Fatalf("slot %d of %s counts %d sessions, there are %d; taken before: %v", slot.Slot, name, slot.Sessions, have[slot.Slot], numbers[slot.Slot])
			}
			numbers[slot.Slot] = true
			sum += slot.Sessions
		}
		if all += sum; sum != stats.Sessions {
			t.Fatalf("the slots of %s count %d sessions, it has %d", name, sum, stats.Sessions)
		}
	}
	if all != s.Sessions.Len() {
		t.Fatalf("%d sessions, and %d in groups that exist", s.Sessions.Len(), all)
	}
	entries, bytes := map[string]int{}, map[string]int{}
	for _, d := range s.SessionData.All() {
		entries[d.Group]++
		bytes[d.Group] += len(d.Session) + len(d.Data) + len(d.ContentType)
	}
	if s.SessionData.Len() != s.SessionDataEnds.Len() || s.SessionUsages.Len() != len(entries) {
		t.Fatal("the indexes of session data do not match the data")
	}
	for _, u := range s.SessionUsages.All() {
		if !s.Groups.Has(u.Group) || u.Entries != entries[u.Group] || u.Bytes != bytes[u.Group] {
			t.Fatalf("usage %+v, but %d entries with %d bytes", *u, entries[u.Group], bytes[u.Group])
		}
	}
}

// TestTransitions: only the steps of the table can be reported.
func TestTransitions(t *testing.T) {
	states := []fsm.InstanceState{fsm.Planned, fsm.Starting, fsm.Running, fsm.Draining, fsm.Stopping, fsm.Stopped, fsm.Failed, fsm.Lost}
	for _, from := range states {
		for _, to := range states {
			if from.Terminal() && fsm.CanStep(from, to) {
				t.Errorf("%s is an end, but can become %s", from, to)
			}
			if to == fsm.Planned && fsm.CanStep(from, to) {
				t.Errorf("%s can become planned again", from)
			}
			if from.Terminal() && from.Active() {
				t.Errorf("%s is both an end and active", from)
			}
		}
		if !from.Terminal() && !fsm.CanStep(from, fsm.Lost) {
			t.Errorf("%s can not be lost", from)
		}
	}
}

// TestDigestCatchesCorruption plants the error that the digest exists for.
func TestDigestCatchesCorruption(t *testing.T) {
	m := filled(t, 10)
	if !m.State().VerifyDigest() {
		t.Fatal("a good state does not verify")
	}
	fsm.Corrupt(m.State(), "g1")
	if m.State().VerifyDigest() {
		t.Fatal("a row was changed in place and the digest did not notice")
	}
}

// TestEveryTableIsKept compares State's tables with those that are hashed and
// saved, so that a new one can not be forgotten.
func TestEveryTableIsKept(t *testing.T) {
	names := fsm.TableNames(fsm.NewState())
	fields := 0
	typ := reflect.TypeFor[fsm.State]()
	for i := range typ.NumField() {
		// What has a name and a length is a table, of rows or of sessions.
		ptr := reflect.PointerTo(typ.Field(i).Type)
		_, named := ptr.MethodByName("Name")
		_, counted := ptr.MethodByName("Len")
		if named && counted {
			fields++
		}
	}
	if fields != len(names) {
		t.Fatalf("State has %d tables, tables() lists %d", fields, len(names))
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != fields {
		t.Fatal("two tables share a name")
	}
}

// TestReadersSeeOneState reads and walks states while entries are applied; the
// race detector is the assertion, and that no reader sees a row change.
func TestReadersSeeOneState(t *testing.T) {
	m := filled(t, 50)
	stop, done := make(chan struct{}), make(chan error, 2)
	for range 2 {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				s := m.State()
				if !s.VerifyDigest() {
					done <- fmt.Errorf("state %d changed under its reader", s.Index())
					return
				}
				env := seal(t, fsm.SetDesired{Group: "g1", To: 3})
				if bad := s.DryRun([]fsm.Envelope{env}, start); bad != nil {
					done <- bad[0]
					return
				}
			}
		}()
	}
	for k := range 300 {
		apply(t, m, []fsm.LogEntry{entryOf(t, m.State().Index()+1, fsm.SetDesired{Group: "g1", To: k % 4})})
	}
	close(stop)
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func seal(t interface{ Fatal(...any) }, c fsm.Command) fsm.Envelope {
	env, err := fsm.Seal(c, "test", "")
	if err != nil {
		t.Fatal(err)
	}
	return env
}

func entryOf(t interface{ Fatal(...any) }, index uint64, list ...fsm.Command) fsm.LogEntry {
	e := fsm.Entry{Time: start}
	for _, c := range list {
		e.Commands = append(e.Commands, seal(t, c))
	}
	return fsm.LogEntry{Index: index, Term: 1, Data: e.Encode()}
}

// filled returns a machine with nodes, one template and n groups of up to 4.
func filled(t interface{ Fatal(...any) }, n int) *fsm.Machine {
	m := fsm.NewMachine()
	list := []fsm.Command{
		fsm.RegisterNode{Node: fsm.Node{Name: "n1", Incarnation: 1, Drivers: []string{"process"}}},
		fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: "@sample"}},
	}
	for k := range n {
		list = append(list, fsm.PutGroup{Group: fsm.Group{Name: fmt.Sprintf("g%d", k), Template: "web", MaxSize: 4}})
	}
	for _, o := range apply(t, m, []fsm.LogEntry{entryOf(t, 1, list...)}) {
		for _, err := range o.Errs {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return m
}

// TestDurationJSON: durations are strings with a unit.
func TestDurationJSON(t *testing.T) {
	for in, want := range map[string]string{`"30s"`: "30s", `"1h0m0s"`: "1h0m0s", `30`: "", `"30"`: "", `"soon"`: "", `null`: "0s"} {
		var d fsm.Duration
		err := json.Unmarshal([]byte(in), &d)
		if (err != nil) != (want == "") || (err == nil && d.String() != want) {
			t.Errorf("%s: got %v, %v", in, d, err)
		}
	}
}

// randomBytes flips one bit of a copy.
func flipped(r *rand.Rand, b []byte) []byte {
	c := slices.Clone(b)
	bit := r.IntN(len(c) * 8)
	c[bit/8] ^= 1 << (bit % 8)
	return c
}

// TestDryRun: a panic is found, named by its place, and hides no other one;
// errors and good commands pass; the state is left alone.
func TestDryRun(t *testing.T) {
	defer fsm.PlantCommands()()
	s := filled(t, 2).State()
	digest := s.Digest()
	var list []fsm.Envelope
	for _, do := range []string{"write", "panic", "fail", "write", "panic"} {
		list = append(list, seal(t, fsm.Planted{Do: do}))
	}
	bad := s.DryRun(list, start)
	if len(bad) != 2 || bad[1] == nil || bad[4] == nil {
		t.Fatalf("got %v", bad)
	}
	if s.DryRun(list[2:4], start) != nil {
		t.Fatal("commands that do not panic were refused")
	}
	if s.Digest() != digest || !s.VerifyDigest() || s.ClusterID() != "" {
		t.Fatal("a dry run changed the state")
	}
}
