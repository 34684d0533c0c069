package fsm_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

const million = 1_000_000

// sticky returns a machine with a group "web" of n running, healthy instances
// and a service with a strategy.
func sticky(t interface{ Fatal(...any) }, n int, strategy string) *fsm.Machine {
	m := filled(t, 0)
	step(t, m, 0, fsm.PutGroup{Group: fsm.Group{
		Name: "web", Template: "web", MaxSize: 10_000,
		Service: &fsm.Service{Stickiness: fsm.Stickiness{Strategy: strategy, TTL: fsm.Duration(time.Minute)}},
	}})
	launch(t, m, 1, n)
	return m
}

// launch starts the instances from number first to last.
func launch(t interface{ Fatal(...any) }, m *fsm.Machine, first, last int) {
	for ; first <= last; first += 1000 {
		var launches []fsm.Launch
		var reports []fsm.InstanceReport
		for k := first; k <= min(last, first+999); k++ {
			launches = append(launches, fsm.Launch{ID: inst(k), Node: "n1"})
			reports = append(reports, fsm.InstanceReport{ID: inst(k), State: fsm.Starting})
		}
		step(t, m, 0, fsm.LaunchInstances{Group: "web", Term: 1, Launches: launches})
		step(t, m, 0, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: reports})
		for k := range reports {
			reports[k].State, reports[k].Health, reports[k].Incarnation = fsm.Running, fsm.Healthy, 1
			reports[k].Address = "10.0.0.1:80"
		}
		step(t, m, 0, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: reports})
	}
}

func inst(k int) string { return fmt.Sprintf("01JX000000000000%010d", k) }

// step applies one command, some seconds after the start, and returns its
// value.
func step(t interface{ Fatal(...any) }, m *fsm.Machine, second int, c fsm.Command) any {
	v, err := try(t, m, second, c)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func try(t interface{ Fatal(...any) }, m *fsm.Machine, second int, c fsm.Command) (any, error) {
	e := fsm.Entry{Time: start.Add(time.Duration(second) * time.Second), Commands: []fsm.Envelope{seal(t, c)}}
	out := apply(t, m, []fsm.LogEntry{{Index: m.State().Index() + 1, Term: 1, Data: e.Encode()}})
	return out[0].Results[0].Value, out[0].Errs[0]
}

// keysOf packs keys as commands have them.
func keysOf(keys ...key) (raw []byte) {
	for _, k := range keys {
		raw = append(raw, k[:]...)
	}
	return raw
}

func randomKeys(r *rand.Rand, n int) (raw []byte) {
	for range n {
		k := randomKey(r)
		raw = append(raw, k[:]...)
	}
	return raw
}

// manySessions returns a machine with a million sessions.
func manySessions(t interface{ Fatal(...any) }, instances int) *fsm.Machine {
	m := sticky(t, instances, fsm.StickyTable)
	r := rand.New(rand.NewPCG(1, 1))
	for n := 0; n < million; n += 4000 {
		step(t, m, 0, fsm.AssignSessions{Group: "web", Keys: randomKeys(r, 4000)})
	}
	return m
}

// BenchmarkAssignSessions gives 512 new sessions a place, with a million there.
func BenchmarkAssignSessions(b *testing.B) {
	for _, instances := range []int{10, 10_000} {
		b.Run(fmt.Sprintf("instances=%d", instances), func(b *testing.B) {
			base := manySessions(b, instances).State()
			m := fsm.NewMachine()
			m.Replace(base)
			const perCommand = 512
			r := rand.New(rand.NewPCG(2, 2))
			var log [][]byte
			for range 400 {
				log = append(log, entryOf(b, 0, fsm.AssignSessions{Group: "web", Keys: randomKeys(r, perCommand)}).Data)
			}
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				if n%len(log) == 0 {
					m.Replace(base)
				}
				if _, err := m.Apply([]fsm.LogEntry{{Index: m.State().Index() + 1, Term: 1, Data: log[n%len(log)]}}); err != nil {
					b.Fatal(err)
				}
				n++
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n*perCommand), "ns/session")
		})
	}
}

// BenchmarkSessionMemory measures the heap that a million sessions take.
func BenchmarkSessionMemory(b *testing.B) {
	heap := func() float64 {
		runtime.GC()
		var s runtime.MemStats
		runtime.ReadMemStats(&s)
		return float64(s.HeapAlloc)
	}
	for b.Loop() {
		before := heap()
		m := manySessions(b, 10)
		b.ReportMetric((heap()-before)/million, "B/session")
		runtime.KeepAlive(m)
	}
}

// BenchmarkSessionSnapshot saves and restores a million sessions.
func BenchmarkSessionSnapshot(b *testing.B) {
	s := manySessions(b, 10).State()
	var buf bytes.Buffer
	if err := s.WriteSnapshot(&buf); err != nil {
		b.Fatal(err)
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			buf.Reset()
			if err := s.WriteSnapshot(&buf); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(buf.Len())/1e6, "MB")
	})
	b.Run("read", func(b *testing.B) {
		for b.Loop() {
			if _, err := fsm.ReadSnapshot(bytes.NewReader(buf.Bytes())); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("verify", func(b *testing.B) {
		for b.Loop() {
			if !s.VerifyDigest() {
				b.Fatal("the digest differs")
			}
		}
	})
}

// BenchmarkSessionLookup finds sessions among a million.
func BenchmarkSessionLookup(b *testing.B) {
	s := manySessions(b, 10).State()
	var keys []key
	for k := range s.SessionsFrom("web", key{}) {
		if keys = append(keys, k); len(keys) == 1000 {
			break
		}
	}
	n := 0
	for b.Loop() {
		if _, ok := s.Session("web", keys[n%len(keys)]); !ok {
			b.Fatal("it is not there")
		}
		n++
	}
}

// scanTimes is what a scan took, by the clock and in CPU time of the thread.
type scanTimes struct {
	all, worst, worstCPU time.Duration
	changed              int
}

// scanAll proposes a scan until it is done.
func scanAll(b *testing.B, m *fsm.Machine, second int, next func(from []byte) fsm.Command) (t scanTimes) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var from []byte
	for {
		e := fsm.Entry{Time: start.Add(time.Duration(second) * time.Second), Commands: []fsm.Envelope{seal(b, next(from))}}
		entry := []fsm.LogEntry{{Index: m.State().Index() + 1, Term: 1, Data: e.Encode()}}
		began, cpu := time.Now(), threadTime()
		out, err := m.Apply(entry)
		took := time.Since(began)
		cpu = threadTime() - cpu
		if err != nil || out[0].Errs[0] != nil {
			b.Fatal(err, out)
		}
		scan := out[0].Results[0].Value.(fsm.SessionScan)
		t.all, t.worst, t.worstCPU = t.all+took, max(t.worst, took), max(t.worstCPU, cpu)
		t.changed, from = t.changed+scan.Changed, scan.Next
		if scan.Done {
			return t
		}
	}
}

// report reports the medians of several scans.
func report(b *testing.B, scans []scanTimes) {
	median := func(of func(scanTimes) time.Duration) float64 {
		all := make([]time.Duration, len(scans))
		for k, s := range scans {
			all[k] = of(s)
		}
		slices.Sort(all)
		return float64(all[len(all)/2].Microseconds()) / 1000
	}
	b.ReportMetric(median(func(s scanTimes) time.Duration { return s.all }), "ms-in-all")
	b.ReportMetric(median(func(s scanTimes) time.Duration { return s.worst }), "ms-worst-apply")
	b.ReportMetric(median(func(s scanTimes) time.Duration { return s.worstCPU }), "ms-worst-apply-cpu")
}

// BenchmarkRehomeSessions moves the 100,000 sessions of one of ten instances
// that has ended.
func BenchmarkRehomeSessions(b *testing.B) {
	m := manySessions(b, 10)
	step(b, m, 1, fsm.ReportInstances{Node: "n1", NodeIncarnation: 1, Reports: []fsm.InstanceReport{{ID: inst(3), State: fsm.Failed}}})
	base := m.State()
	var scans []scanTimes
	for b.Loop() {
		m.Replace(base)
		t := scanAll(b, m, 2, func(from []byte) fsm.Command { return fsm.RehomeSessions{Group: "web", From: from} })
		if t.changed != million/10 {
			b.Fatalf("%d sessions were moved", t.changed)
		}
		scans = append(scans, t)
	}
	report(b, scans)
}

// BenchmarkExpireSessions goes through a million sessions, of which none or
// all have expired.
func BenchmarkExpireSessions(b *testing.B) {
	m := manySessions(b, 10)
	base := m.State()
	for _, c := range []struct {
		name         string
		second, want int
	}{{"none", 30, 0}, {"all", 60, million}} {
		b.Run(c.name, func(b *testing.B) {
			var scans []scanTimes
			for b.Loop() {
				m.Replace(base)
				t := scanAll(b, m, c.second, func(from []byte) fsm.Command { return fsm.ExpireSessions{Group: "web", From: from} })
				if t.changed != c.want {
					b.Fatalf("%d sessions have expired", t.changed)
				}
				scans = append(scans, t)
			}
			report(b, scans)
		})
	}
}
