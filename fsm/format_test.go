package fsm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

var update = flag.Bool("update", false, "write the golden files of this version anew")

// goldenLog is a log with every command, as the first version wrote it.
func goldenLog(t *testing.T) []fsm.LogEntry {
	t.Helper()
	node := fsm.Node{Name: "n1", Incarnation: 1, Zone: "a", Drivers: []string{"process"}, Resources: fsm.Resources{CPU: 2, MemoryMiB: 4096}, API: "127.0.0.1:7700", Version: "1"}
	templ := fsm.Template{
		Name: "web", Driver: "process", Command: "@sample", Args: []string{"-v"},
		Resources: fsm.Resources{CPU: 0.5, MemoryMiB: 64}, Environment: map[string]string{"B": "2", "A": "1"},
		HealthCheck: &fsm.HealthCheck{Type: fsm.CheckHTTP, Path: "/healthz"}, Stop: &fsm.Stop{Signal: "INT"},
		Labels: map[string]string{"team": "core"}, PricePerHour: 0.25,
	}
	return []fsm.LogEntry{
		entryOf(t, 1, fsm.InitCluster{ID: "01GOLDEN"}, fsm.RegisterNode{Node: node}, fsm.PutTemplate{Template: templ}),
		entryOf(t, 2,
			fsm.PutGroup{Group: fsm.Group{Name: "web", Template: "web", MinSize: 1, MaxSize: 5, Desired: 2, Zones: []string{"a"}}},
			fsm.PutPolicy{Policy: fsm.Policy{Group: "web", Name: "up", Metric: "cpu", Operator: fsm.Greater, Threshold: 70, Direction: fsm.Up, Adjustment: 1, Cooldown: 30e9}},
			fsm.LaunchInstances{Group: "web", Term: 1, Cause: "below desired", Launches: []fsm.Launch{{ID: "01A", Node: "n1"}, {ID: "01B", Node: "n1"}}}),
		entryOf(t, 3,
			fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: "01A", State: fsm.Starting}}},
			fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: "01A", State: fsm.Running, Address: "127.0.0.1:20000", PID: 7, Incarnation: 1}}},
			fsm.RecordDecision{Term: 1, Decision: fsm.Decision{Group: "web", From: 2, To: 3, Winner: "up", Metrics: map[string]float64{"cpu": 85.5}, Reason: "cpu is 85.5, above 70"}},
			fsm.SetDesired{Group: "web", To: 4}, fsm.DrainNode{Node: "n1", Drain: true, Reason: "upgrade"}),
		entryOf(t, 4,
			fsm.StopInstances{Instances: []string{"01B"}, Cause: "scale-in"}, fsm.ForgetInstances{Instances: []string{"01B"}},
			fsm.PutTemplate{Template: fsm.Template{Name: "old", Driver: "process", Command: "@sample"}}, fsm.DeleteTemplate{Template: "old"},
			fsm.NodeDown{Node: "n1", Incarnation: 1, Term: 1, Reason: "no contact"},
			fsm.PutGroup{Group: fsm.Group{Name: "gone", Template: "web", MaxSize: 1}}, fsm.DeleteGroup{Group: "gone"}, fsm.RemoveGroup{Group: "gone"},
			fsm.DeletePolicy{Group: "web", Policy: "up"}, fsm.RemoveNode{Node: "n1"}),
		goldenSessions(t, node),
		entryOf(t, 6,
			fsm.PutGroup{Group: fsm.Group{Name: "idle", Template: "web", MaxSize: 2}}, fsm.WakeGroup{Group: "idle"}),
		entryOf(t, 7, fsm.AssignSessions{
			Group: "sticky", Keys: make([]byte, 16), Wanted: []fsm.WantedPlace{{Instance: "01C", Incarnation: 1}},
		}),
		entryOf(t, 8, fsm.RemoveNode{Node: "n9", Process: 3}),
	}
}

// goldenSessions is an entry with every command about sessions.
func goldenSessions(t *testing.T, node fsm.Node) fsm.LogEntry {
	node.Name = "n2"
	group := func(name, strategy string) fsm.PutGroup {
		return fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MaxSize: 5, Service: &fsm.Service{
			Hosts: []string{name}, Stickiness: fsm.Stickiness{Strategy: strategy, TTL: fsm.Duration(time.Hour)},
		}}}
	}
	report := func(id string, state fsm.InstanceState) fsm.ReportInstances {
		return fsm.ReportInstances{Node: "n2", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{
			ID: id, State: state, Health: fsm.Healthy, Address: "127.0.0.1:20000", Incarnation: 1,
		}}}
	}
	var keys []key
	for k := range 100 { // enough for a tree of several pages
		keys = append(keys, fsm.SessionKey(fmt.Sprint(k)))
	}
	secret := []byte("0123456789abcdef")
	return entryOf(t, 5, fsm.RegisterNode{Node: node}, group("sticky", fsm.StickyTable), group("shared", fsm.StickyShared),
		fsm.LaunchInstances{Group: "sticky", Term: 1, Launches: []fsm.Launch{{ID: "01C", Node: "n2"}, {ID: "01D", Node: "n2"}}},
		report("01C", fsm.Starting), report("01C", fsm.Running), report("01D", fsm.Starting), report("01D", fsm.Running),
		fsm.AssignSessions{Group: "sticky", Keys: keysOf(keys...)},
		report("01D", fsm.Failed),
		fsm.RehomeSessions{Group: "sticky", Limit: 50},
		fsm.TouchSessions{Group: "sticky", Keys: keysOf(keys[:2]...)},
		fsm.DeleteSessions{Group: "sticky", Keys: keysOf(keys[2:5]...)},
		fsm.ExpireSessions{Group: "sticky", From: keys[0][:], Limit: 9},
		fsm.PutSessionData{Group: "shared", Session: "alice", Data: []byte("cart"), ContentType: "text/plain", TTL: fsm.Duration(time.Minute)},
		fsm.PutSessionData{Group: "shared", Session: "bob", Data: []byte("empty")},
		fsm.DeleteSessionData{Group: "shared", Session: "bob"}, fsm.ExpireSessionData{Group: "shared", Limit: 1},
		fsm.RotateSessionKeys{ID: 1, Secret: secret}, fsm.RotateSessionKeys{ID: 2, Secret: secret},
	)
}

// TestGoldenFiles opens the log and the snapshot of each released format and
// compares what this version writes with the current one, byte for byte.
func TestGoldenFiles(t *testing.T) {
	logFile, snapFile := filepath.Join("testdata", "v1.log"), filepath.Join("testdata", "v1.snap")
	m := fsm.NewMachine()
	log := goldenLog(t)
	var raw []byte
	for _, e := range log {
		raw = append(append(raw, byte(len(e.Data)>>8), byte(len(e.Data))), e.Data...)
	}
	for _, o := range apply(t, m, log) {
		for k, err := range o.Errs {
			if err != nil {
				t.Errorf("entry %d command %d: %v", o.Index, k, err)
			}
		}
	}
	var inLog []string
	for _, e := range log {
		entry, err := fsm.DecodeEntry(e.Data)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range entry.Commands {
			inLog = append(inLog, c.Name)
		}
	}
	for _, name := range fsm.CommandNames() {
		if !slices.Contains(inLog, name) {
			t.Errorf("no command %s in the golden log", name)
		}
	}
	snap := dumpAll(t, m.State())
	if *update {
		writeFile(t, logFile, raw)
		writeFile(t, snapFile, []byte(snap))
	}
	if want := readFile(t, logFile); !bytes.Equal(want, raw) {
		t.Errorf("%s: this version writes another log; an older node could not read it", logFile)
	}
	old := fsm.NewMachine()
	for index, rest := uint64(1), readFile(t, logFile); len(rest) > 0; index++ {
		n := int(rest[0])<<8 | int(rest[1])
		apply(t, old, []fsm.LogEntry{{Index: index, Term: 1, Data: rest[2 : 2+n]}})
		rest = rest[2+n:]
	}
	restored, err := fsm.ReadSnapshot(bytes.NewReader(readFile(t, snapFile)))
	if err != nil {
		t.Fatal(err)
	}
	if old.State().Digest() != restored.Digest() || restored.Digest() != m.State().Digest() {
		t.Error("the golden log and the golden snapshot give different states")
	}
}

func writeFile(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestDamagedEntry: no flipped bit and no missing byte of an entry is applied.
func TestDamagedEntry(t *testing.T) {
	data := entryOf(t, 1, fsm.InitCluster{ID: "01C"}).Data
	r := rand.New(rand.NewPCG(1, 2))
	for k := range 500 {
		bad := flipped(r, data)
		if k%2 == 0 {
			bad = data[:r.IntN(len(data))]
		}
		m := fsm.NewMachine()
		out, err := m.Apply([]fsm.LogEntry{{Index: 1, Term: 1, Data: bad}})
		if err == nil || len(out) != 0 || m.State().Index() != 0 {
			t.Fatalf("a damaged entry was applied: %v", out)
		}
	}
}

// TestNewerFormat: an entry that needs a newer reader stops the machine, and
// the entries before it stay applied.
func TestNewerFormat(t *testing.T) {
	m := fsm.NewMachine()
	newer := entryOf(t, 2, fsm.InitCluster{ID: "02"})
	newer.Data[2] = 9
	sum := crc32.Update(crc32.Checksum(newer.Data[:4], castagnoli), castagnoli, newer.Data[8:])
	binary.LittleEndian.PutUint32(newer.Data[4:], sum)
	out, err := m.Apply([]fsm.LogEntry{entryOf(t, 1, fsm.InitCluster{ID: "01"}), newer})
	var tooNew *fsm.TooNewError
	if !errors.As(err, &tooNew) || len(out) != 1 || m.State().Index() != 1 || m.State().ClusterID() != "01" {
		t.Fatalf("got %v, %v, index %d", out, err, m.State().Index())
	}
}

// TestDamagedSnapshot: truncated at any length, or with any bit flipped, it is
// refused.
func TestDamagedSnapshot(t *testing.T) {
	good := []byte(dumpAll(t, filled(t, 5).State()))
	r := rand.New(rand.NewPCG(3, 4))
	for n := range good {
		if _, err := fsm.ReadSnapshot(bytes.NewReader(good[:n])); fsm.KindOf(err) != fsm.Invalid {
			t.Fatalf("truncated at %d of %d: %v", n, len(good), err)
		}
	}
	for range 1000 {
		bad := flipped(r, good)
		if _, err := fsm.ReadSnapshot(bytes.NewReader(bad)); err == nil {
			t.Fatal("a flipped bit was not noticed")
		}
	}
}

// TestUnknownSection: a section of a newer version survives a round trip.
func TestUnknownSection(t *testing.T) {
	good := []byte(dumpAll(t, filled(t, 1).State()))
	end := len(good) - 1 // the empty name
	row := []byte{4, 'n', 'e', 'w', 's', 3, 'h', 'i', 0}
	file := append(append(bytes.Clone(good[:end]), withSum(row)...), 0)
	s, err := fsm.ReadSnapshot(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if dumpAll(t, s) != string(file) {
		t.Fatal("the unknown section was not written back")
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// withSum appends the checksum that ends a snapshot section.
func withSum(section []byte) []byte {
	return binary.LittleEndian.AppendUint32(section, crc32.Checksum(section, castagnoli))
}

func FuzzEntry(f *testing.F) {
	f.Add(fsm.NewMachine().State().Index(), []byte("x"))
	f.Fuzz(func(t *testing.T, index uint64, body []byte) {
		for _, name := range fsm.CommandNames() {
			e := fsm.Entry{Time: start, Commands: []fsm.Envelope{{Name: name, Body: body}}}
			m := fsm.NewMachine()
			if _, err := m.Apply([]fsm.LogEntry{{Index: 1 + index%10, Term: 1, Data: e.Encode()}}); err != nil {
				t.Fatal(err)
			}
			if m.State().Quarantine.Len() != 0 {
				t.Fatalf("%s panics on %q", name, body)
			}
		}
		_, _ = fsm.NewMachine().Apply([]fsm.LogEntry{{Index: 1, Data: body}})
		_, _ = fsm.DecodeCommands(body)
		_, _ = fsm.ReadSnapshot(bytes.NewReader(body))
	})
}
