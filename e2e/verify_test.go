//go:build linux

package e2e_test

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
)

// finish ends the load and checks what the clients remember: the order of
// everything, that nothing acknowledged is missing, and, when nothing but
// nodes under fault may fail, that clients saw neither errors nor silence.
func (l *load) finish(strict bool) {
	l.t.Helper()
	l.stop()
	l.wg.Wait()
	l.finalReads()
	l.hist.check(l.t)
	l.missing()
	c := l.problem
	l.t.Logf("%d operations on %d keys, %d writes acknowledged, %d attempts moved away from nodes under fault, %d errors, %d hung, %d without outcome",
		l.hist.count, len(l.hist.keys), c.acked, c.moved, c.errors, c.hung, c.unknown)
	if c.staleReads > 0 {
		l.t.Errorf("%d reads did not see a write that the same node had acknowledged before", c.staleReads)
	}
	if c.acked == 0 {
		l.t.Error("no write was acknowledged: the test has shown nothing")
	}
	if strict && c.errors+c.hung+c.unknown > 0 {
		l.t.Errorf("clients of living nodes saw %d errors, %d hung requests, %d operations without outcome: %q", c.errors, c.hung, c.unknown, l.texts)
	} else if len(l.texts) > 0 {
		l.t.Logf("clients saw: %q", l.texts)
	}
}

// finalReads reads every register once more, at the end of its history, each
// at another node.
func (l *load) finalReads() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	i := 0
	for key := range l.hist.keys {
		n := l.f.nodes[i%len(l.f.nodes)]
		i++
		call, value := l.hist.now(), ""
		if key[0] == 's' {
			g, err := n.cli().GetGroup(ctx, key, client.WithConsistency(client.Strong))
			must(l.t, err)
			value = strconv.Itoa(g.Desired)
		} else if tmpl, err := n.cli().GetTemplate(ctx, key, client.WithConsistency(client.Strong)); err == nil {
			value = tmpl.Labels["v"]
		} else if p := problem(l.t, err); p.Status != 404 {
			l.t.Fatal(err)
		}
		l.hist.add(key, opInput{kind: readOp}, opOutput{value: value}, call)
		if key[0] == 'r' {
			l.versions(ctx, n, key)
		}
	}
}

// versions checks that a register has as many versions as writes: one more
// would be a write applied twice.
func (l *load) versions(ctx context.Context, n *node, key string) {
	acked, unknown := 0, 0
	for _, op := range l.hist.keys[key] {
		if op.Input.(opInput).kind != writeOp {
			continue
		}
		if op.Output.(opOutput).unknown {
			unknown++
		} else {
			acked++
		}
	}
	version := 0
	if t, err := n.cli().GetTemplate(ctx, key, client.WithConsistency(client.Strong)); err == nil {
		version = t.Version
	}
	if version < acked || version > acked+unknown {
		l.t.Errorf("%s has version %d after %d acknowledged writes and %d without outcome", key, version, acked, unknown)
	}
}

// missing looks for every created object on every node.
func (l *load) missing() {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	for _, n := range l.f.nodes {
		wg.Go(func() {
			have := map[string]bool{}
			opts := []client.Option{client.WithConsistency(client.Strong), client.WithLimit(500)}
			for t, err := range client.Pages(ctx, n.cli().ListTemplates, opts...) {
				if err != nil {
					l.t.Errorf("%s: %v", n.name, err)
					return
				}
				have[t.Name] = true
			}
			for _, name := range l.created {
				if !have[name] {
					l.t.Errorf("%s was acknowledged, and %s does not have it", name, n.name)
				}
			}
		})
	}
	wg.Wait()
}
