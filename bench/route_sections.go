package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"
)

// routeSection is one part of the comparison of proxies.
type routeSection struct {
	name    string
	wrk     bool // needs wrk
	setup   func(o *routeOptions) setup
	measure func(ctx context.Context, o *routeOptions, st *stage, r *report) error
}

func routeSections() []routeSection {
	with := func(s setup) func(*routeOptions) setup {
		s.clients = 4 * saturationConns
		return func(*routeOptions) setup { return s }
	}
	return []routeSection{
		{"saturation", true, with(setup{}), measureSaturation},
		{"sticky", true, with(setup{sticky: true}), measureSticky},
		{"rate", false, with(setup{}), measureRate},
		{"idle", false, func(o *routeOptions) setup { return setup{clients: o.idle} }, measureIdle},
		{"churn", false, with(setup{retry: true, dynamic: true}), measureChurn},
		{"kill", false, with(setup{retry: true}), measureKill},
		{"large", true, with(setup{}), measureLarge},
	}
}

func sectionNames() []string {
	var names []string
	for _, s := range routeSections() {
		names = append(names, s.name)
	}
	return names
}

// loadWrk warms the proxy up, measures it, and records what all sections with
// wrk have; it returns the processor time of the proxy.
func loadWrk(ctx context.Context, o *routeOptions, st *stage, path, script string, conns int) (*wrkResult, time.Duration, error) {
	if o.warm > 0 {
		if _, err := runWrk(ctx, st.addr, path, conns, o.warm, script); err != nil {
			return nil, 0, err
		}
	}
	from, err := cpuTime(st.pids)
	if err != nil {
		return nil, 0, err
	}
	res, err := runWrk(ctx, st.addr, path, conns, o.window, script)
	if err != nil {
		return nil, 0, err
	}
	to, err := cpuTime(st.pids)
	if err != nil {
		return nil, 0, err
	}
	if res.requests == 0 {
		return nil, 0, fmt.Errorf("wrk got no answer from %s", st.addr)
	}
	return res, to - from, nil
}

// perRequest is the processor time of each of n requests, in microseconds.
func perRequest(cpu time.Duration, n int) float64 {
	return float64(cpu) / float64(time.Microsecond) / float64(max(n, 1))
}

func measureSaturation(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	res, cpu, err := loadWrk(ctx, o, st, "/", "", saturationConns)
	if err != nil {
		return err
	}
	return recordWrk(o, st, r, "saturation", res, cpu)
}

func measureSticky(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	cookies, err := gatherCookies(st.addr, stickyCookies)
	if err != nil {
		return err
	}
	moved, err := strays(st.addr, cookies)
	if err != nil {
		return err
	}
	r.add(st.name, key{"sticky", "sessions that moved", "", sum}, float64(moved))
	script, err := cookieScript(st.dir, cookies)
	if err != nil {
		return err
	}
	res, cpu, err := loadWrk(ctx, o, st, "/", script, saturationConns)
	if err != nil {
		return err
	}
	return recordWrk(o, st, r, "sticky", res, cpu)
}

func recordWrk(o *routeOptions, st *stage, r *report, section string, res *wrkResult, cpu time.Duration) error {
	rss, err := st.rssMB()
	if err != nil {
		return err
	}
	perSecond := float64(res.requests) / res.window.Seconds()
	r.add(st.name, key{section, "requests", "1/s", median}, perSecond)
	r.add(st.name, key{section, "p50", "ms", median}, ms(res.p50))
	r.add(st.name, key{section, "p99", "ms", median}, ms(res.p99))
	r.add(st.name, key{section, "CPU a request", "µs", median}, perRequest(cpu, res.requests))
	r.add(st.name, key{section, "RSS", "MB", median}, rss)
	r.add(st.name, key{section, "failed", "", sum}, float64(res.failed))
	o.log("  %s: %.0f/s, p50 %.2f ms, p99 %.2f ms, CPU %.1f µs a request, RSS %.1f MB, %d failed",
		st.name, perSecond, ms(res.p50), ms(res.p99), perRequest(cpu, res.requests), rss, res.failed)
	return nil
}

// gatherCookies begins sessions, as so many new clients.
func gatherCookies(addr string, n int) ([]string, error) {
	cli := &http.Client{Timeout: attemptDeadline}
	defer cli.CloseIdleConnections()
	var cookies []string
	for range n {
		c, err := cookieOf(cli, "http://"+addr+"/")
		if err != nil {
			return nil, err
		}
		cookies = append(cookies, c)
	}
	return cookies, nil
}

// strays counts the sessions that do not get the same origin each time.
func strays(addr string, cookies []string) (int, error) {
	cli := &http.Client{Timeout: attemptDeadline}
	defer cli.CloseIdleConnections()
	moved := 0
	for _, cookie := range cookies {
		seen := map[string]bool{}
		for range 4 {
			body, err := getWith(cli, "http://"+addr+"/", cookie)
			if err != nil {
				return 0, err
			}
			seen[body] = true
		}
		if len(seen) > 1 {
			moved++
		}
	}
	return moved, nil
}

func getWith(cli *http.Client, url, cookie string) (string, error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Cookie", cookie)
	res, err := cli.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d", url, res.StatusCode)
	}
	return string(body), err
}

// newLoop makes a generator towards a proxy; it is closed by the caller.
func newLoop(st *stage, rate int, window time.Duration, pathOf func(int) string) (*loop, *epollWire, error) {
	w, err := newEpollWire(st.addr, saturationConns, pathOf)
	if err != nil {
		return nil, nil, err
	}
	return &loop{wire: w, conns: saturationConns, rate: rate, window: window, deadline: attemptDeadline, now: time.Now}, w, nil
}

func root(int) string { return "/" }

func measureRate(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	l, w, err := newLoop(st, o.rate, o.warm, root)
	if err != nil {
		return err
	}
	defer w.close()
	if _, err := l.run(ctx); err != nil {
		return err
	}
	from, err := cpuTime(st.pids)
	if err != nil {
		return err
	}
	l.window = o.window
	res, err := l.run(ctx)
	if err != nil {
		return err
	}
	to, err := cpuTime(st.pids)
	if err != nil {
		return err
	}
	cpu := perRequest(to-from, res.ops+res.errs)
	for _, q := range []struct {
		name string
		at   float64
	}{{"p50", 0.5}, {"p99", 0.99}, {"p99.9", 0.999}} {
		r.add(st.name, key{"rate", q.name, "ms", median}, ms(res.quantile(q.at)))
	}
	r.add(st.name, key{"rate", "CPU a request", "µs", median}, cpu)
	r.add(st.name, key{"rate", "failed", "", sum}, float64(res.errs))
	o.log("  %s: %d answers, p50 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, CPU %.1f µs a request, failed %s", st.name, res.ops,
		ms(res.quantile(0.5)), ms(res.quantile(0.99)), ms(res.quantile(0.999)), cpu, failuresOf(l))
	return nil
}

// failuresOf puts a loop's failures in words.
func failuresOf(l *loop) string {
	if len(l.failures) == 0 {
		return "0"
	}
	var parts []string
	for _, text := range slices.Sorted(maps.Keys(l.failures)) {
		parts = append(parts, fmt.Sprintf("%d (%s)", l.failures[text], text))
	}
	return strings.Join(parts, ", ")
}

func measureIdle(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	before, err := st.rssMB()
	if err != nil {
		return err
	}
	i, err := openIdlers(ctx, st.addr, o.idle)
	if err != nil {
		return err
	}
	defer i.close()
	if err := pause(ctx, 3*time.Second); err != nil {
		return err
	}
	after, err := st.rssMB()
	if err != nil {
		return err
	}
	lost := i.lost()
	r.add(st.name, key{"idle", "RSS", "MB", median}, after)
	r.add(st.name, key{"idle", "RSS a connection", "KB", median}, (after-before)*1000/float64(o.idle))
	r.add(st.name, key{"idle", "connections lost", "", sum}, float64(lost))
	o.log("  %s: RSS %.1f MB, with %d idle connections %.1f MB, %d lost", st.name, before, o.idle, after, lost)
	return nil
}

// measureKill ends an origin like a crash would while requests run.
func measureKill(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	list, err := st.fleet.running(ctx)
	if err != nil {
		return err
	}
	if len(list) == 0 || list[0].PID <= 0 {
		return fmt.Errorf("no origin has a process: %v", list)
	}
	l, w, err := newLoop(st, 0, o.window, root)
	if err != nil {
		return err
	}
	defer w.close()
	struck := make(chan error, 1)
	go func() {
		if err := pause(ctx, o.window/3); err != nil {
			struck <- err
			return
		}
		struck <- syscall.Kill(list[0].PID, syscall.SIGKILL)
	}()
	res, err := l.run(ctx)
	if killErr := <-struck; err == nil {
		err = killErr
	}
	if err != nil {
		return err
	}
	recordLoop(o, st, r, "kill", l, res)
	return nil
}

func recordLoop(o *routeOptions, st *stage, r *report, section string, l *loop, res *loadResult) {
	r.add(st.name, key{section, "requests", "1/s", median}, res.perSecond())
	r.add(st.name, key{section, "p99", "ms", median}, ms(res.quantile(0.99)))
	r.add(st.name, key{section, "longest", "ms", worst}, ms(res.quantile(1)))
	r.add(st.name, key{section, "failed", "", sum}, float64(res.errs))
	o.log("  %s: %.0f/s, p99 %.2f ms, longest %.1f ms, failed %s",
		st.name, res.perSecond(), ms(res.quantile(0.99)), ms(res.quantile(1)), failuresOf(l))
}

func measureLarge(ctx context.Context, o *routeOptions, st *stage, r *report) error {
	res, cpu, err := loadWrk(ctx, o, st, "/big?kb=1024", "", largeConns)
	if err != nil {
		return err
	}
	perSecond := float64(res.requests) / res.window.Seconds()
	r.add(st.name, key{"large", "throughput", "MiB/s", median}, perSecond)
	r.add(st.name, key{"large", "CPU a MiB", "µs", median}, perRequest(cpu, res.requests))
	r.add(st.name, key{"large", "p99", "ms", median}, ms(res.p99))
	r.add(st.name, key{"large", "failed", "", sum}, float64(res.failed))
	o.log("  %s: %.0f MiB/s, CPU %.0f µs a MiB, p99 %.1f ms, %d failed", st.name, perSecond, perRequest(cpu, res.requests), ms(res.p99), res.failed)
	return nil
}
