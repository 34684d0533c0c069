//go:build linux

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/pacelinehq/paceline/client"
)

// How the failover is measured: fresh writes at a fixed rate, before, through
// and after the fault, spread over the nodes.
const (
	writeRate   = 200 // a second
	writesAhead = 150 // before the fault
	writesAfter = 150 // after the first acknowledgement
	writesLimit = 4000
	trialsEnv   = "PACELINE_E2E_TRIALS"
)

// trial is one fault with what clients saw of it.
type trial struct {
	nodes  []*node
	target *node
	name   string
	manner

	ctx  context.Context // ends when the target is known to be gone
	stop context.CancelFunc

	mu     sync.Mutex
	at     time.Time // of the fault
	acks   []ack
	counts struct{ errors, hung, moved, lost int }
	texts  []string
}

type ack struct {
	begun, at time.Time
	key       string
}

// manner is how a fault is done.
type manner struct {
	// soft lets clients go on using the target until it refuses them.
	soft bool
	// slow faults take time to be done; they count from when they are.
	slow bool
}

// run writes, strikes once, and returns when the cluster has answered again.
func (r *trial) run(strike func()) {
	r.ctx, r.stop = context.WithCancel(context.Background())
	defer r.stop()
	tick := time.NewTicker(time.Second / writeRate)
	defer tick.Stop()
	var wg sync.WaitGroup
	begun := 0
	for n := 0; n < writesLimit; n++ {
		if n == writesAhead {
			r.mu.Lock()
			r.at = time.Now()
			r.mu.Unlock()
			if !r.soft {
				r.stop()
			}
			wg.Go(func() { r.strike(strike) })
		}
		wg.Go(func() { r.write(n) })
		if n > writesAhead && r.answered() {
			if begun++; begun > writesAfter {
				break
			}
		}
		<-tick.C
	}
	wg.Wait()
}

func (r *trial) strike(do func()) {
	do()
	if r.slow {
		r.mu.Lock()
		r.at = time.Now()
		r.mu.Unlock()
	}
}

// answered reports whether a write begun after the fault is acknowledged.
func (r *trial) answered() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.acks, func(a ack) bool { return a.begun.After(r.at) })
}

// write is one write with all its attempts.
func (r *trial) write(n int) {
	key, id, begun := fmt.Sprintf("%s-%d", r.name, n), ulid.Make().String(), time.Now()
	for k := n; time.Since(begun) < opDeadline; k++ {
		node := r.nodes[k%len(r.nodes)]
		parent := context.Background()
		if node == r.target {
			if parent = r.ctx; parent.Err() != nil {
				continue
			}
		}
		ctx, cancel := context.WithTimeout(parent, attemptDeadline)
		_, err := put(ctx, node.cli(), key, "v", client.Once(), client.WithIdempotencyKey(id))
		cancel()
		if err == nil {
			r.mu.Lock()
			r.acks = append(r.acks, ack{begun, time.Now(), key})
			r.mu.Unlock()
			return
		}
		r.failed(node, err)
		time.Sleep(retryPause) //archtest:ok a client that waits before it tries again
	}
	r.mu.Lock()
	r.counts.lost++
	r.mu.Unlock()
}

// failed counts an attempt by whose fault it was.
func (r *trial) failed(n *node, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	code := client.CodeOf(err)
	switch {
	case n == r.target && !r.at.IsZero() && (r.ctx.Err() != nil || code == client.CodeUnreachable):
		r.stop()
		r.counts.moved++
		return
	case code == client.CodeTimeout:
		r.counts.hung++
	default:
		r.counts.errors++
	}
	if text := n.name + ": " + err.Error(); len(r.texts) < maxTexts && !slices.Contains(r.texts, text) {
		r.texts = append(r.texts, text)
	}
}

// result is the time to the first acknowledged write begun after the fault,
// and the longest time without any, before it and from it on.
func (r *trial) result() (first, gap, noise time.Duration) {
	slices.SortFunc(r.acks, func(a, b ack) int { return a.at.Compare(b.at) })
	var last time.Time
	for _, a := range r.acks {
		if first == 0 && a.begun.After(r.at) {
			first = a.at.Sub(r.at)
		}
		if !last.IsZero() {
			if d := a.at.Sub(last); a.at.Before(r.at) {
				noise = max(noise, d)
			} else {
				gap = max(gap, d)
			}
		}
		last = a.at
	}
	return first, gap, noise
}

// missing counts acknowledged writes that a strong read does not find.
func (r *trial) missing(c *client.Client) (n int, err error) {
	have := map[string]bool{}
	opts := []client.Option{client.WithConsistency(client.Strong), client.WithLimit(500)}
	for t, err := range client.Pages(context.Background(), c.ListTemplates, opts...) {
		if err != nil {
			return 0, err
		}
		have[t.Name] = true
	}
	for _, a := range r.acks {
		if !have[a.key] {
			n++
		}
	}
	return n, nil
}

// series is the trials of one kind of fault.
type series struct {
	kind               string
	first, gap, noise  []time.Duration
	errs, hung, moved  int
	lost, gone, trials int
}

func (s *series) add(t *testing.T, r *trial, survivor *client.Client) {
	t.Helper()
	first, gap, noise := r.result()
	s.first, s.gap, s.noise = append(s.first, first), append(s.gap, gap), append(s.noise, noise)
	s.errs, s.hung, s.moved, s.lost = s.errs+r.counts.errors, s.hung+r.counts.hung, s.moved+r.counts.moved, s.lost+r.counts.lost
	s.trials++
	gone, err := r.missing(survivor)
	must(t, err)
	s.gone += gone
	t.Logf("%s %d: first ack %s, longest gap %s (before: %s), errors %d, hung %d %q", s.kind, s.trials, ms(first), ms(gap), ms(noise), r.counts.errors, r.counts.hung, r.texts)
	if gone+r.counts.lost > 0 {
		t.Errorf("%s: %d acknowledged writes are missing, %d were never acknowledged", s.kind, gone, r.counts.lost)
	}
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', 1, 64) + " ms"
}

// table prints the series as the documentation quotes them.
func table(t *testing.T, all ...*series) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-16s %6s  %12s %12s  %12s %12s  %12s  %6s %5s %6s %6s\n", "fault of leader", "trials", "first: median", "max", "gap: median", "max", "gap before", "errors", "hung", "moved", "lost")
	for _, s := range all {
		if s.trials == 0 {
			continue
		}
		for _, list := range [][]time.Duration{s.first, s.gap, s.noise} {
			slices.Sort(list)
		}
		mid := s.trials / 2
		fmt.Fprintf(&b, "%-16s %6d  %12s %12s  %12s %12s  %12s  %6d %5d %6d %6d\n", s.kind, s.trials,
			ms(s.first[mid]), ms(s.first[s.trials-1]), ms(s.gap[mid]), ms(s.gap[s.trials-1]), ms(s.noise[mid]), s.errs, s.hung, s.moved, s.lost+s.gone)
	}
	t.Log(b.String())
}

// trials is how often a fault is measured.
func trials(usual int) int {
	if n, err := strconv.Atoi(os.Getenv(trialsEnv)); err == nil && n > 0 {
		return n
	}
	return usual
}

// measure strikes the leader of a fleet again and again.
func measure(t *testing.T, f *fleet, kind string, count int, how manner, strike, heal func(*node)) *series {
	t.Helper()
	s := &series{kind: kind}
	for i := range count {
		leader := f.leader()
		r := &trial{nodes: f.nodes, target: leader, manner: how}
		r.name = fmt.Sprintf("%s-%d", strings.ReplaceAll(kind, " ", "-"), i)
		r.run(func() { strike(leader) })
		survivor := f.client(f.others(leader)...)
		heal(leader)
		f.whole()
		s.add(t, r, survivor)
	}
	return s
}

// TestMeasureFailover prints how long writes pause when the leader is lost. It
// asserts that nothing is lost, and no times: they are the machine's.
func TestMeasureFailover(t *testing.T) {
	full(t)
	restart := func(n *node) {
		if n.runs() {
			n.gone()
		}
		n.start()
	}
	sig := func(s syscall.Signal) func(*node) { return func(n *node) { n.signal(s) } }
	kill, freeze, term, cut, stall := &series{}, &series{}, &series{}, &series{}, &series{}
	t.Run("kill", func(t *testing.T) {
		kill = measure(t, running(t, 3), "sigkill", trials(30), manner{}, sig(syscall.SIGKILL), restart)
	})
	t.Run("stop", func(t *testing.T) {
		freeze = measure(t, running(t, 3), "sigstop", trials(10), manner{}, sig(syscall.SIGSTOP), sig(syscall.SIGCONT))
	})
	t.Run("term", func(t *testing.T) {
		term = measure(t, running(t, 3), "sigterm", trials(10), manner{soft: true}, sig(syscall.SIGTERM), restart)
	})
	t.Run("partition", func(t *testing.T) {
		f, w := cutFleet(t, 3)
		cut = measure(t, f, "partition", trials(10), manner{slow: true}, func(n *node) {
			for _, o := range f.others(n) {
				w.cut(n, o)
			}
		}, func(*node) { w.join(f.nodes...) })
	})
	t.Run("stalled disk", func(t *testing.T) {
		f := loopFleet(t, 3)
		stall = measure(t, f, "stalled disk", trials(10), manner{slow: true}, func(n *node) { freezeDisk(t, n) }, func(n *node) { thawDisk(t, n) })
	})
	table(t, kill, freeze, term, cut, stall)
}
