package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options are what the command line chooses.
type options struct {
	systems  []system
	sections []string
	clients  []int
	reps     int
	warm     time.Duration
	window   time.Duration
	trials   int
	objects  int
	dir      string
	log      func(format string, args ...any)
}

// section is one part of the comparison: it measures one fresh cluster.
type section struct {
	name    string
	measure func(ctx context.Context, o *options, c *cluster, rep int, r *report) error
}

// writes is the section that is measured with each log store.
const writes = "writes"

func sections() []section {
	return []section{
		{writes, measureWrites},
		{"reads", measureReads},
		{"failover", measureFailover},
		{"memory", measureMemory},
		{"sessions", measureSessions},
	}
}

// runSections measures every section as often as asked for. The systems take
// turns within each repetition, and the one that begins changes, so that a
// slow minute of the machine does not fall on one of them alone.
func runSections(ctx context.Context, o *options, r *report) error {
	for _, s := range o.systems {
		if s.name() == oursWAL {
			continue // the same binary
		}
		info, err := os.Stat(s.binary())
		if err != nil {
			return err
		}
		r.add(s.name(), key{"size", "binary", "MiB", median}, float64(info.Size())/(1<<20))
	}
	for _, sec := range sections() {
		if !slices.Contains(o.sections, sec.name) {
			continue
		}
		for rep := range o.reps {
			order := slices.Clone(o.systems)
			if rep%2 == 1 {
				slices.Reverse(order)
			}
			for _, s := range order {
				if s.name() == oursWAL && sec.name != writes || s.name() == peer && sec.name == "sessions" {
					continue // the log store matters to writes alone; the peer knows no sessions
				}
				if err := runOne(ctx, o, sec, s, rep, r); err != nil {
					return fmt.Errorf("%s of %s: %w", sec.name, s.name(), err)
				}
			}
		}
	}
	return nil
}

func runOne(ctx context.Context, o *options, sec section, s system, rep int, r *report) error {
	c, err := launch(ctx, s, o.dir)
	if err != nil {
		return err
	}
	defer c.stop()
	r.add(s.name(), key{"start", "three nodes to a leader", "ms", median}, ms(c.toLeader))
	if err := c.settle(ctx); err != nil {
		return err
	}
	o.log("%s %s, repetition %d of %d", sec.name, s.name(), rep+1, o.reps)
	return sec.measure(ctx, o, c, rep, r)
}

func measureWrites(ctx context.Context, o *options, c *cluster, _ int, r *report) error {
	for _, n := range o.clients {
		if err := ctx.Err(); err != nil {
			return err
		}
		conns, err := c.connect(n)
		if err != nil {
			return err
		}
		res := closedLoop(n, o.warm, o.window, func(client, i int) error {
			name := fmt.Sprintf("w%d-%d", client, i%keysPerClient)
			return conns[client%nodes].put(client, name, valueOf(i, client), "", attemptDeadline)
		})
		closeAll(conns)
		record(o, r, c.name(), fmt.Sprintf("write c=%d", n), res)
	}
	return nil
}

func measureReads(ctx context.Context, o *options, c *cluster, _ int, r *report) error {
	const clients = 64
	conns, err := c.connect(clients)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	if err := fill(conns, clients, readKeys); err != nil {
		return err
	}
	for _, strong := range []bool{true, false} {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := map[bool]string{true: "strong read c=64", false: "stale read c=64"}[strong]
		res := closedLoop(clients, o.warm, o.window, func(client, _ int) error {
			return conns[client%nodes].get(client, objectName(rand.IntN(readKeys)), strong, attemptDeadline)
		})
		record(o, r, c.name(), name, res)
	}
	return nil
}

func measureMemory(ctx context.Context, o *options, c *cluster, _ int, r *report) error {
	const clients, rest = 256, 5 * time.Second
	if err := pause(ctx, rest); err != nil {
		return err
	}
	idle, err := c.rss()
	if err != nil {
		return err
	}
	conns, err := c.connect(clients)
	if err != nil {
		return err
	}
	begin := time.Now()
	err = fill(conns, clients, o.objects)
	took := time.Since(begin)
	closeAll(conns)
	if err != nil {
		return err
	}
	if err := pause(ctx, rest); err != nil {
		return err
	}
	full, err := c.rss()
	if err != nil {
		return err
	}
	r.add(c.name(), key{"memory", "RSS a node, idle", "MiB", median}, idle)
	r.add(c.name(), key{"memory", fmt.Sprintf("RSS a node, %d objects", o.objects), "MiB", median}, full)
	o.log("  %s: idle %.0f MiB, %d objects %.0f MiB, loaded in %.1f s", c.name(), idle, o.objects, full, took.Seconds())
	return nil
}

// faults are the ways in which the leader is struck.
var faults = []struct {
	name string
	sig  syscall.Signal
}{{"SIGKILL", syscall.SIGKILL}, {"SIGSTOP", syscall.SIGSTOP}, {"SIGTERM", syscall.SIGTERM}}

func measureFailover(ctx context.Context, o *options, c *cluster, rep int, r *report) error {
	for f, fault := range faults {
		for n := range o.trials {
			if err := ctx.Err(); err != nil {
				return err
			}
			res, err := failover(ctx, c, fault.sig, (rep*len(faults)+f)*1000+n)
			if err != nil {
				return fmt.Errorf("%s: %w", fault.name, err)
			}
			recordFailover(o, r, c.name(), fault.name, res)
		}
	}
	return nil
}

func recordFailover(o *options, r *report, system, fault string, res *failoverResult) {
	add := func(metric, unit string, how aggregate, v float64) {
		r.add(system, key{"failover", fault + " " + metric, unit, how}, v)
	}
	add("first ack", "ms", median, ms(res.firstAck))
	add("first ack, worst", "ms", worst, ms(res.firstAck))
	add("longest gap", "ms", median, ms(res.gap))
	add("longest gap, worst", "ms", worst, ms(res.gap))
	add("longest gap before, worst", "ms", worst, ms(res.before))
	add("errors", "", sum, float64(res.errors))
	add("hung", "", sum, float64(res.hung))
	add("never acknowledged", "", sum, float64(res.lost))
	add("acknowledged and missing", "", sum, float64(res.missing))
	o.log("  %s %s: first ack %.1f ms, gap %.1f ms (before %.1f), %d acked, %d errors, %d hung, %d moved, %d lost, %d missing",
		system, fault, ms(res.firstAck), ms(res.gap), ms(res.before), res.acked, res.errors, res.hung, res.moved, res.lost, res.missing)
	for _, text := range res.texts {
		o.log("    %s", text)
	}
}

// record adds a closed loop's rate, latencies and errors to the report.
func record(o *options, r *report, system, name string, res *loadResult) {
	sec := strings.Fields(name)[0]
	if sec != "write" && sec != "session" {
		sec = "read"
	}
	r.add(system, key{sec, name, "1/s", median}, res.perSecond())
	r.add(system, key{sec, name + " p50", "ms", median}, ms(res.quantile(0.50)))
	r.add(system, key{sec, name + " p99", "ms", median}, ms(res.quantile(0.99)))
	r.add(system, key{sec, name + " errors", "", sum}, float64(res.errs))
	o.log("  %s %s: %.0f/s, p50 %.2f ms, p99 %.2f ms, %d errors %s",
		system, name, res.perSecond(), ms(res.quantile(0.50)), ms(res.quantile(0.99)), res.errs, res.text)
}

// fill writes objects under the names that reads ask for.
func fill(conns []conn, clients, objects int) error {
	return spread(clients, objects, func(client, i int) error {
		return conns[client%nodes].put(client, objectName(i), valueOf(i, 0), "", attemptDeadline)
	})
}

func objectName(i int) string { return fmt.Sprintf("o%07d", i) }

// valueOf makes a value of the agreed size that differs from the one before.
func valueOf(i, salt int) string {
	v := fmt.Sprintf("%d.%d.", i, salt)
	return v + strings.Repeat("x", max(valueBytes-len(v), 0))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
