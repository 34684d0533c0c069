package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestQuantile(t *testing.T) {
	list := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	for _, c := range []struct {
		q    float64
		want int
	}{{0, 1}, {0.1, 1}, {0.5, 5}, {0.51, 6}, {0.99, 10}, {1, 10}} {
		if got := quantile(list, c.q); got != c.want {
			t.Errorf("quantile %v = %d, want %d", c.q, got, c.want)
		}
	}
	if got := quantile([]int(nil), 0.5); got != 0 {
		t.Errorf("quantile of nothing = %d", got)
	}
}

func TestAggregates(t *testing.T) {
	values := []float64{9, 1, 2, 4}
	for how, want := range map[aggregate]float64{median: 3, worst: 9, sum: 16} {
		if got := how.of(values); got != want {
			t.Errorf("%s = %v, want %v", how, got, want)
		}
		if got := how.of(nil); got != 0 {
			t.Errorf("%s of nothing = %v", how, got)
		}
	}
	if got := median.of([]float64{3, 1, 2}); got != 2 {
		t.Errorf("median = %v, want 2", got)
	}
}

// TestClosedLoop counts in virtual time what falls into the window.
func TestClosedLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		res := closedLoop(4, time.Second, 2*time.Second, func(client, i int) error {
			time.Sleep(time.Duration(client+1) * 10 * time.Millisecond) //archtest:ok virtual time of testing/synctest
			if client == 3 {
				return broken
			}
			return nil
		})
		// 2 s at 10, 20 and 30 ms, both edges counted: 201 + 101 + 67.
		if res.ops != 369 || len(res.latency) != 369 {
			t.Errorf("%d operations, %d latencies, want 369", res.ops, len(res.latency))
		}
		if res.errs != 51 || res.text != "broken" {
			t.Errorf("%d errors (%s), want 51", res.errs, res.text)
		}
		if got := res.quantile(0.5); got != 10*time.Millisecond {
			t.Errorf("median %v, want 10ms", got)
		}
		if got := res.perSecond(); got != 184.5 {
			t.Errorf("%v a second, want 184.5", got)
		}
	})
}

func TestSpreadDoesEachOnce(t *testing.T) {
	var seen [100]atomic.Int32
	if err := spread(7, len(seen), func(_, i int) error { seen[i].Add(1); return nil }); err != nil {
		t.Fatal(err)
	}
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Errorf("operation %d was done %d times", i, n)
		}
	}
	broken := errors.New("broken")
	if err := spread(2, 10, func(_, i int) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("error %v, want %v", err, broken)
	}
}

// fakeCluster is three nodes in memory with a leader that can fail.
type fakeCluster struct {
	mu      sync.Mutex
	keys    map[string]bool
	downFor time.Duration // from the strike until writes are answered again
	struck  time.Time
	answer  error // of healthy nodes while there is no leader; nil holds the write
	drop    bool  // forget one acknowledged write
}

type fakeNode struct {
	*fakeCluster
	target bool
}

func (n fakeNode) put(_ int, key, _, _ string, timeout time.Duration) error {
	n.mu.Lock()
	struck := n.struck
	n.mu.Unlock()
	left := n.downFor - time.Since(struck)
	if !struck.IsZero() {
		if n.target {
			return errors.New("connection refused")
		}
		if left > 0 && n.answer != nil {
			return n.answer
		}
		if left > timeout {
			sleep(timeout)
			return context.DeadlineExceeded
		}
		sleep(left)
	}
	sleep(time.Millisecond)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.drop {
		n.drop = false
		return nil
	}
	n.keys[key] = true
	return nil
}

func sleep(d time.Duration) {
	time.Sleep(d) //archtest:ok virtual time of testing/synctest
}

func (n fakeNode) get(_ int, key string, _ bool, _ time.Duration) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.keys[key] {
		return errNotFound
	}
	return nil
}

func (n fakeNode) close() {}

// TestFailoverTrial checks what a trial reports about faults whose course is
// known, in virtual time.
func TestFailoverTrial(t *testing.T) {
	cases := []struct {
		name    string
		cluster *fakeCluster
		want    failoverResult
	}{
		{"held and answered", &fakeCluster{downFor: 300 * time.Millisecond},
			failoverResult{firstAck: 301 * time.Millisecond, gap: 301 * time.Millisecond}},
		{"refused", &fakeCluster{downFor: 50 * time.Millisecond, answer: errors.New("no leader")},
			failoverResult{firstAck: 61 * time.Millisecond, errors: 1}},
		{"hung", &fakeCluster{downFor: 6 * time.Second},
			failoverResult{firstAck: 6001 * time.Millisecond, hung: 1}},
		{"loses a write", &fakeCluster{downFor: time.Millisecond, drop: true},
			failoverResult{firstAck: 2 * time.Millisecond, missing: 1}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := c.cluster
				f.keys = map[string]bool{}
				tr := &trial{
					conns: []conn{fakeNode{f, false}, fakeNode{f, true}, fakeNode{f, false}}, target: 1, sig: syscall.SIGKILL,
					prefix: "t", steady: time.Second, after: time.Second, limit: 20 * time.Second,
				}
				err := tr.run(func() error {
					f.mu.Lock()
					defer f.mu.Unlock()
					f.struck = time.Now()
					return nil
				})
				if err != nil {
					t.Fatal(err)
				}
				r := tr.result()
				if r.missing, err = missing(tr.conns[0], tr.acks); err != nil {
					t.Fatal(err)
				}
				checkTrial(t, r, &c.want)
			})
		})
	}
}

func checkTrial(t *testing.T, got, want *failoverResult) {
	t.Helper()
	const slack = 15 * time.Millisecond // writes come every 5 ms, retries after 20 ms
	if d := (got.firstAck - want.firstAck).Abs(); d > slack {
		t.Errorf("first ack after %v, want %v", got.firstAck, want.firstAck)
	}
	if d := (got.gap - want.gap).Abs(); want.gap > 0 && d > slack {
		t.Errorf("gap %v, want %v", got.gap, want.gap)
	}
	if (got.errors > 0) != (want.errors > 0) || (got.hung > 0) != (want.hung > 0) {
		t.Errorf("%d errors and %d hung, want %d and %d", got.errors, got.hung, want.errors, want.hung)
	}
	if got.missing != want.missing || got.lost != 0 {
		t.Errorf("%d missing and %d lost, want %d and 0", got.missing, got.lost, want.missing)
	}
}

// TestGapEndsWithTheWrites checks that acknowledgements of repeated writes,
// long after the last was begun, do not count as a gap.
func TestGapEndsWithTheWrites(t *testing.T) {
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	tr := &trial{signalAt: at(100), endAt: at(400), acks: []ack{
		{"z", at(0), at(50)}, {"a", at(0), at(90)}, {"b", at(95), at(150)}, {"c", at(160), at(350)}, {"d", at(170), at(5000)},
	}}
	r := tr.result()
	if r.gap != 200*time.Millisecond || r.firstAck != 250*time.Millisecond || r.acked != 5 || r.before != 40*time.Millisecond {
		t.Errorf("gap %v, first ack %v, before %v, %d acked; want 200ms, 250ms, 40ms, 5", r.gap, r.firstAck, r.before, r.acked)
	}
}

func TestReport(t *testing.T) {
	r := newReport()
	for _, v := range []float64{100, 300, 200} {
		r.add("paceline", key{"write", "write c=64", "1/s", median}, v*2)
		r.add("paceline-wal", key{"write", "write c=64", "1/s", median}, v*3)
		r.add("etcd", key{"write", "write c=64", "1/s", median}, v)
	}
	r.add("paceline", key{"failover", "SIGKILL errors", "", sum}, 0)
	r.add("etcd", key{"failover", "SIGKILL errors", "", sum}, 5)
	r.add("paceline", key{"failover", "SIGKILL first ack", "ms", median}, 51)
	r.add("etcd", key{"write", "write c=256", "1/s", median}, 7)
	var out bytes.Buffer
	if err := r.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"400       200", "2.00   ≥ 1.3× met", "write c=64 (wal)", "3.00   ≥ 1.6× met", "≤ 0 met", "≤ 50 MISSED"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
	for _, row := range r.rows() {
		if row.Name == "write c=256" && row.Met != nil {
			t.Error("a goal was judged without our own figure")
		}
	}
	name := filepath.Join(t.TempDir(), "sub", "core.json")
	if err := r.save(name); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(name); err != nil || !strings.Contains(string(text), `"ratio": 2`) {
		t.Errorf("saved %s, %v", text, err)
	}
}

// TestGoalsNameRows finds goals that no section would ever report.
func TestGoalsNameRows(t *testing.T) {
	known := func(name string) bool {
		for _, prefix := range []string{"write c=", "strong read c=", "stale read c=", "SIGKILL ", "SIGSTOP ", "SIGTERM ", "RSS a node, ", "sessions to writes c="} {
			if strings.HasPrefix(name, prefix) {
				return true
			}
		}
		return name == "binary" || name == "three nodes to a leader"
	}
	for name := range goals {
		if !known(name) {
			t.Errorf("goal %q belongs to no row", name)
		}
	}
}

func TestParse(t *testing.T) {
	dir := t.TempDir()
	for _, bad := range [][]string{
		{"-systems", "zookeeper"}, {"-run", "dance"}, {"-clients", "0"}, {"-clients", "x"}, {"-reps", "0"}, {"-dur", "0s"}, {"-nonsense"},
	} {
		if _, _, err := parse(append([]string{"-dir", dir}, bad...)); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	o, out, err := parse([]string{"-dir", dir, "-run", "reads", "-clients", "1,2", "-out", "x.json"})
	if err != nil || out != "x.json" || len(o.clients) != 2 || len(o.systems) != 3 {
		t.Errorf("parsed %+v, %q, %v", o, out, err)
	}
}

func TestValueDiffersAndHasItsSize(t *testing.T) {
	if a, b := valueOf(1, 2), valueOf(1, 3); a == b || len(a) != valueBytes || len(b) != valueBytes {
		t.Errorf("%q and %q", a, b)
	}
}

func TestProc(t *testing.T) {
	p := &proc{binary: "/bin/sh", args: []string{"-c", "echo hello; exec sleep 60"}, log: filepath.Join(t.TempDir(), "log")}
	if p.running() || p.signal(syscall.SIGTERM) == nil {
		t.Error("a process that was never started runs")
	}
	for range 2 { // a process can be started again
		if err := p.start(); err != nil {
			t.Fatal(err)
		}
		if m, err := p.rssMiB(); err != nil || m <= 0 {
			t.Errorf("RSS %v, %v", m, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := poll(ctx, time.Millisecond, func() bool { return strings.Contains(p.lastLog(), "hello") }); err != nil {
			t.Error("no output arrived in the log")
		}
		p.stop()
		if p.running() {
			t.Error("a stopped process runs")
		}
	}
	ports, err := freePorts(5)
	if err != nil || len(ports) != 5 {
		t.Errorf("ports %v, %v", ports, err)
	}
}
