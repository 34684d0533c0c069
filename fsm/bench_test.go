package fsm_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/pacelinehq/paceline/fsm"
)

// BenchmarkApply applies a mixed load in entries of 32 commands, as group
// commit makes them, and reports commands per second on one core.
func BenchmarkApply(b *testing.B) {
	m := filled(b, 100)
	apply(b, m, []fsm.LogEntry{entryOf(b, 2, fsm.LaunchInstances{
		Group: "g1", Term: 1, Launches: []fsm.Launch{{ID: "i1", Node: "n1"}},
	})})
	const perEntry = 32
	label := map[string]string{"x": strings.Repeat("v", 100)}
	var log []fsm.LogEntry
	for k := range 256 {
		var list []fsm.Command
		for j := range perEntry {
			n := k*perEntry + j
			switch n % 4 {
			case 0, 1:
				list = append(list, fsm.PutTemplate{Template: fsm.Template{Name: fmt.Sprintf("t%d", n), Driver: "process", Command: "@sample", Labels: label}})
			case 2:
				list = append(list, fsm.SetDesired{Group: fmt.Sprintf("g%d", n%100), To: n / 4 % 4})
			case 3:
				list = append(list, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: "i1", PID: n}}})
			}
		}
		log = append(log, entryOf(b, uint64(k+3), list...))
	}
	base := m.State()
	b.ReportAllocs()
	done := 0
	for b.Loop() {
		k := done % len(log)
		if k == 0 {
			m.Replace(base)
		}
		if _, err := m.Apply(log[k : k+1]); err != nil {
			b.Fatal(err)
		}
		done++
	}
	b.ReportMetric(float64(done*perEntry)/b.Elapsed().Seconds(), "commands/s")
}

// instances returns a state with n instances.
func instances(b *testing.B, n int) *fsm.State {
	b.Helper()
	m := filled(b, 1)
	index := uint64(1)
	put := func(c fsm.Command) {
		index++
		if out := apply(b, m, []fsm.LogEntry{entryOf(b, index, c)}); out[0].Errs[0] != nil {
			b.Fatal(out[0].Errs[0])
		}
	}
	for g := 0; g*5000 < n; g++ {
		name := fmt.Sprintf("big%d", g)
		put(fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MaxSize: 10_000}})
		for k := 0; k < 5000; k += 1000 {
			var list []fsm.Launch
			for j := range 1000 {
				list = append(list, fsm.Launch{ID: fmt.Sprintf("01JX0000000000%08d", g*5000+k+j), Node: "n1"})
			}
			put(fsm.LaunchInstances{Group: name, Term: 1, Launches: list})
		}
	}
	return m.State()
}

// BenchmarkSnapshotRestore saves and restores 100,000 instances.
func BenchmarkSnapshotRestore(b *testing.B) {
	s := instances(b, 100_000)
	var buf bytes.Buffer
	for b.Loop() {
		buf.Reset()
		if err := s.WriteSnapshot(&buf); err != nil {
			b.Fatal(err)
		}
		if _, err := fsm.ReadSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(buf.Len())/(1<<20), "MiB")
}

// BenchmarkDryRun is what the leader pays for each command before it proposes
// it.
func BenchmarkDryRun(b *testing.B) {
	s := filled(b, 100).State()
	env := seal(b, fsm.PutTemplate{Template: fsm.Template{Name: "new", Driver: "process", Command: "@sample"}})
	b.ReportAllocs()
	for b.Loop() {
		if bad := s.DryRun([]fsm.Envelope{env}, start); bad != nil {
			b.Fatal(bad)
		}
	}
}

// BenchmarkReplace applies entries of 32 commands that each make the next
// version of a template: the load of `make bench-core`.
func BenchmarkReplace(b *testing.B) {
	m := filled(b, 1)
	const perEntry = 32
	encoded := func(k int) []byte {
		list := make([]fsm.Command, perEntry)
		for j := range list {
			label := map[string]string{"note": fmt.Sprint(k, strings.Repeat("v", 100))}
			list[j] = fsm.PutTemplate{Template: fsm.Template{Name: fmt.Sprintf("t%d", j), Driver: "process", Command: "@sample", Labels: label}}
		}
		return entryOf(b, 0, list...).Data
	}
	data := [][]byte{encoded(0), encoded(1)}
	b.ReportAllocs()
	index := uint64(2)
	for b.Loop() {
		if _, err := m.Apply([]fsm.LogEntry{{Index: index, Term: 1, Data: data[index%2]}}); err != nil {
			b.Fatal(err)
		}
		index++
	}
	b.ReportMetric(float64(index-2)*perEntry/b.Elapsed().Seconds(), "commands/s")
}
