//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/oklog/ulid/v2"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// Limits of the load.
const (
	workers         = 9
	opPause         = 12 * time.Millisecond
	attemptDeadline = 8 * time.Second // an answer that takes longer is a hung request
	opDeadline      = 25 * time.Second
	retryPause      = 10 * time.Millisecond
	slots           = 3   // register keys in use at once
	casGroups       = 40  // groups whose size is a register
	casMax          = 900 // the largest size
	maxTexts        = 5
)

// load is clients that write and read while faults happen, and remember all.
type load struct {
	f    *fleet
	t    testing.TB
	hist *history
	stop context.CancelFunc
	ctx  context.Context
	wg   sync.WaitGroup

	mu      sync.Mutex
	nodes   []*node // that clients know
	struck  map[*node]bool
	lost    map[*node]context.Context // ends when the node is struck
	strike  map[*node]context.CancelFunc
	created []string // templates that were acknowledged
	problem counts
	texts   []string

	turn   atomic.Int64
	values atomic.Int64
}

// counts is what clients saw.
type counts struct{ acked, errors, hung, moved, unknown, staleReads int }

// begin starts the load on every node.
func begin(t testing.TB, f *fleet) *load {
	t.Helper()
	l := &load{f: f, t: t, hist: newHistory(), struck: map[*node]bool{}, lost: map[*node]context.Context{}, strike: map[*node]context.CancelFunc{}}
	l.ctx, l.stop = context.WithCancel(context.Background())
	l.nodes = slices.Clone(f.nodes)
	for _, n := range f.nodes {
		l.lost[n], l.strike[n] = context.WithCancel(l.ctx)
	}
	_, err := put(t.Context(), f.any(), "idle", "")
	must(t, err)
	for i := range casGroups {
		// No node stands in this zone: the groups have a size and no instances.
		_, err := f.any().PutGroup(t.Context(), fsm.Group{Name: casName(i), Template: "idle", MaxSize: casMax, Zones: []string{"nowhere"}})
		must(t, err)
		l.hist.add(casName(i), opInput{kind: writeOp, to: "0"}, opOutput{}, l.hist.now())
	}
	t.Cleanup(func() { l.stop(); l.wg.Wait() })
	for i := range workers {
		l.wg.Go(func() { l.work(i) })
	}
	return l
}

func casName(i int) string { return fmt.Sprintf("size-%d", i) }

// hit tells the clients that a node is under fault: they go elsewhere, and
// what it does from now on is not held against the cluster.
func (l *load) hit(n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.struck[n] = true
	l.strike[n]()
}

// leave tells the clients that a node is about to stop in order: they send it
// nothing more, but what they have sent before must be answered.
func (l *load) leave(n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.struck[n] = true
}

// adopt lets the clients use a node that was added.
func (l *load) adopt(n *node) {
	l.mu.Lock()
	l.nodes = append(l.nodes, n)
	l.mu.Unlock()
	l.heal(n)
}

// heal lets the clients use the node again.
func (l *load) heal(n *node) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.struck[n] = false
	l.lost[n], l.strike[n] = context.WithCancel(l.ctx)
}

// acked is the number of writes that were acknowledged so far.
func (l *load) acked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problem.acked
}

// goesOn waits until more writes are acknowledged: the cluster works.
func (l *load) goesOn(more int) {
	l.t.Helper()
	from := l.acked()
	eventually(l.t, settleDeadline, fmt.Sprintf("%d more acknowledged writes", more), func() error {
		if n := l.acked() - from; n < more {
			return fmt.Errorf("%d so far", n)
		}
		return nil
	})
}

// work is one client: a random operation, and a short pause.
func (l *load) work(i int) {
	r := rand.New(rand.NewPCG(uint64(i), 1))
	tick := time.NewTicker(opPause)
	defer tick.Stop()
	for home := i; ; {
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return
		}
		switch p := r.IntN(100); {
		case p < 35:
			l.write(home)
		case p < 65:
			l.read(home)
		case p < 80:
			l.cas(home, r)
		case p < 90:
			l.casRead(home, r)
		default:
			l.create(home)
		}
	}
}

// key is the register of a slot; a used one makes place for the next.
func (l *load) key() string {
	slot := l.turn.Add(1) % slots
	for gen := 0; ; gen++ {
		if key := fmt.Sprintf("reg-%d-%d", slot, gen); l.hist.size(key) < maxKeyOps {
			return key
		}
	}
}

func (l *load) write(home int) {
	key, value, call := l.key(), strconv.FormatInt(l.values.Add(1), 10), l.hist.now()
	var meta client.Meta
	var at *node
	err := l.do(home, true, func(ctx context.Context, n *node, id string) error {
		at = n
		_, err := put(ctx, n.cli(), key, value, client.Once(), client.WithIdempotencyKey(id), client.Capture(&meta))
		return err
	})
	l.hist.add(key, opInput{kind: writeOp, to: value}, opOutput{unknown: err != nil}, call)
	if err == nil {
		l.ownWrite(at, meta.Index, key)
	}
}

// ownWrite reads at the node that acknowledged a write, without asking for
// consistency: it must know that write.
func (l *load) ownWrite(n *node, index uint64, key string) {
	if index%8 != 0 {
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, attemptDeadline)
	defer cancel()
	var meta client.Meta
	_, err := n.cli().GetTemplate(ctx, key, client.Once(), client.Capture(&meta))
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && meta.ServedBy == n.name && meta.Index < index && !l.struck[n] {
		l.problem.staleReads++
	}
}

func (l *load) read(home int) {
	key, call, value := l.key(), l.hist.now(), ""
	err := l.do(home, false, func(ctx context.Context, n *node, _ string) error {
		t, err := n.cli().GetTemplate(ctx, key, client.Once(), client.WithConsistency(client.Strong))
		if client.CodeOf(err) == fsm.NotFound {
			value = ""
			return nil
		}
		if err == nil {
			value = t.Labels["v"]
		}
		return err
	})
	if err == nil {
		l.hist.add(key, opInput{kind: readOp}, opOutput{value: value}, call)
	}
}

// group is one whose history has room, "" when all are full.
func (l *load) group(r *rand.Rand) string {
	for i := range casGroups {
		if l.hist.size(casName(i)) < maxKeyOps-r.IntN(maxKeyOps/2) {
			return casName(i)
		}
	}
	return ""
}

func (l *load) casRead(home int, r *rand.Rand) (size int, ok bool) {
	key, call := l.group(r), l.hist.now()
	if key == "" {
		return 0, false
	}
	err := l.do(home, false, func(ctx context.Context, n *node, _ string) error {
		g, err := n.cli().GetGroup(ctx, key, client.Once(), client.WithConsistency(client.Strong))
		if err == nil {
			size = g.Desired
		}
		return err
	})
	if err == nil {
		l.hist.add(key, opInput{kind: readOp}, opOutput{value: strconv.Itoa(size)}, call)
	}
	return size, err == nil
}

// cas moves a group's size from what a stale read says to another one.
func (l *load) cas(home int, r *rand.Rand) {
	key := l.group(r)
	if key == "" {
		return
	}
	from := 0
	if l.do(home, false, func(ctx context.Context, n *node, _ string) error {
		g, err := n.cli().GetGroup(ctx, key, client.Once())
		if err == nil {
			from = g.Desired
		}
		return err
	}) != nil {
		return
	}
	to, call, refused := 1+r.IntN(casMax), l.hist.now(), false
	if to == from {
		return
	}
	err := l.do(home, true, func(ctx context.Context, n *node, id string) error {
		_, err := n.cli().ScaleGroup(ctx, key, client.ScaleRequest{Desired: to, From: &from}, client.Once(), client.WithIdempotencyKey(id))
		if client.CodeOf(err) == fsm.Conflict {
			refused = true
			return nil
		}
		return err
	})
	l.hist.add(key, opInput{kind: casOp, from: strconv.Itoa(from), to: strconv.Itoa(to)}, opOutput{ok: !refused, unknown: err != nil}, call)
}

// create makes an object that is never changed: it must be there at the end.
func (l *load) create(home int) {
	name := fmt.Sprintf("made-%d", l.values.Add(1))
	err := l.do(home, true, func(ctx context.Context, n *node, id string) error {
		_, err := put(ctx, n.cli(), name, name, client.Once(), client.WithIdempotencyKey(id), client.IfAbsent())
		return err
	})
	if err == nil {
		l.mu.Lock()
		l.created = append(l.created, name)
		l.mu.Unlock()
	}
}

// do makes attempts until one has an answer, as a client with several nodes
// does: each at a node that is not known to be under fault, all with one key.
func (l *load) do(home int, write bool, attempt func(ctx context.Context, n *node, id string) error) error {
	id, deadline := ulid.Make().String(), time.Now().Add(opDeadline)
	for k := 0; time.Now().Before(deadline) && l.ctx.Err() == nil; k++ {
		n, lost := l.pick(home + k)
		if n == nil {
			time.Sleep(retryPause) //archtest:ok a client that waits before it tries again
			continue
		}
		ctx, cancel := context.WithTimeout(l.ctx, attemptDeadline)
		stop := context.AfterFunc(lost, cancel)
		err := attempt(ctx, n, id)
		timedOut := errors.Is(ctx.Err(), context.DeadlineExceeded)
		stop()
		cancel()
		if err == nil {
			if write {
				l.note(func(c *counts) { c.acked++ })
			}
			return nil
		}
		if l.ctx.Err() == nil {
			l.blame(n, lost, err, timedOut)
		}
		time.Sleep(retryPause) //archtest:ok a client that waits before it tries again
	}
	if l.ctx.Err() == nil {
		l.note(func(c *counts) { c.unknown++ })
	}
	return errors.New("no answer")
}

// pick chooses a node to talk to, and the context that ends when it is struck.
func (l *load) pick(k int) (*node, context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.nodes {
		if n := l.nodes[(k+i)%len(l.nodes)]; !l.struck[n] {
			return n, l.lost[n]
		}
	}
	return nil, nil
}

// blame counts a failed attempt by whose fault it was.
func (l *load) blame(n *node, lost context.Context, err error, timedOut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case lost.Err() != nil:
		l.problem.moved++
		return
	case l.struck[n] && strings.Contains(err.Error(), "connection refused"):
		// The node was left while the attempt was about to begin: it never
		// reached anybody, and a client tries the next node.
		l.problem.moved++
		return
	case timedOut:
		l.problem.hung++
	default:
		l.problem.errors++
	}
	if text := n.name + ": " + err.Error(); len(l.texts) < maxTexts && !slices.Contains(l.texts, text) {
		l.texts = append(l.texts, text)
	}
}

func (l *load) note(change func(*counts)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&l.problem)
}

// picture writes a failed history where a browser can show it.
func (h *history) picture(info porcupine.LinearizationInfo) string {
	file, err := os.CreateTemp("", "paceline-history-*.html")
	if err != nil {
		return ""
	}
	defer file.Close() //nolint:errcheck // a picture for a failed test
	if porcupine.Visualize(register, info, file) != nil {
		return ""
	}
	return file.Name()
}
