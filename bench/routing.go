package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// routeOptions are what the command line of "routing" chooses.
type routeOptions struct {
	paceline     string
	pacelineArgs []string
	proxies      []proxy
	sections     []string
	reps         int
	warm, window time.Duration
	rate         int
	idle         int
	out, dir     string
	self         string
	cpus         cpuLayout
	notes        []string // what is not measured, and why
	log          func(format string, args ...any)
}

// note says what is left out, now and in the report.
func (o *routeOptions) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if !slices.Contains(o.notes, text) {
		o.notes = append(o.notes, text)
		o.log("not measured: %s", text)
	}
}

// runRouting is "paceline-bench routing".
func runRouting(ctx context.Context, args []string) error {
	o, err := parseRouting(args)
	if err != nil {
		return err
	}
	if o.dir, err = os.MkdirTemp(o.dir, "paceline-bench-"); err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(o.dir) }()
	r := newReport()
	if r.env, err = prepare(o); err != nil {
		return err
	}
	err = measureRoutes(ctx, o, r)
	fmt.Println()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return errors.Join(err, printRoutes(os.Stdout, o, r), saveRoutes(o, r))
}

// parseRouting reads the flags.
func parseRouting(args []string) (*routeOptions, error) {
	f := flag.NewFlagSet("routing", flag.ContinueOnError)
	var (
		binary  = f.String("paceline", "bin/paceline", "the paceline binary; it also runs the origins of the peers")
		ourArgs = f.String("paceline-args", "", "more arguments of the paceline agent, separated by spaces")
		haPath  = f.String("haproxy", "haproxy", "the haproxy binary")
		ngPath  = f.String("nginx", "nginx", "the nginx binary")
		caPath  = f.String("caddy", "caddy", "the caddy binary")
		systems = f.String("systems", "paceline,haproxy,nginx,caddy", "what to measure")
		parts   = f.String("run", strings.Join(sectionNames(), ","), "which sections to run")
		reps    = f.Int("reps", 5, "how often each section is measured")
		window  = f.Duration("dur", 5*time.Second, "how long each load is measured; wrk knows whole seconds")
		warm    = f.Duration("warm", 2*time.Second, "how long each load runs before that")
		rate    = f.Int("rate", 4000, "requests a second of the fixed rate")
		idle    = f.Int("idle", 10_000, "idle keep-alive connections")
		dir     = f.String("dir", os.TempDir(), "where configurations and data go")
		out     = f.String("out", "bench/results/routing.json", "the file for the results")
	)
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	o := &routeOptions{
		paceline: *binary, pacelineArgs: strings.Fields(*ourArgs), sections: strings.Split(*parts, ","), reps: *reps,
		warm: *warm, window: *window, rate: *rate, idle: *idle, out: *out, dir: *dir,
		log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	known := map[string]proxy{
		ours: &paceProxy{*binary}, peerHAProxy: &haproxy{*haPath}, peerNginx: &nginx{*ngPath}, peerCaddy: &caddy{*caPath},
	}
	var errs []error
	for name := range strings.SplitSeq(*systems, ",") {
		if known[name] == nil {
			errs = append(errs, fmt.Errorf("there is no system %q", name))
			continue
		}
		o.proxies = append(o.proxies, known[name])
	}
	for _, name := range o.sections {
		if !slices.Contains(sectionNames(), name) {
			errs = append(errs, fmt.Errorf("there is no section %q", name))
		}
	}
	if o.reps < 1 || o.rate < 1 || o.idle < 1 || o.idle > maxIdle || o.window < time.Second || o.warm < 0 {
		errs = append(errs, fmt.Errorf("counts must be above zero, idle connections at most %d, loads of a second or more", maxIdle))
	}
	if o.rate*int(o.window/time.Second) > maxLoopSamples {
		errs = append(errs, fmt.Errorf("a rate and a time of more than %d requests", maxLoopSamples))
	}
	return o, errors.Join(errs...)
}

// prepare divides the machine, finds out which of the systems can be measured
// here, and describes both.
func prepare(o *routeOptions) (Environment, error) {
	e := Environment{
		Time: time.Now().UTC().Format(time.RFC3339), Command: strings.Join(os.Args, " "),
		CPUs: runtime.NumCPU(), Go: runtime.Version(), Kernel: kernel(), Systems: map[string]string{},
	}
	var err error
	if o.self, err = os.Executable(); err != nil {
		return e, err
	}
	if o.paceline, err = filepath.Abs(o.paceline); err != nil {
		return e, err
	}
	if _, err := os.Stat(o.paceline); err != nil {
		return e, fmt.Errorf("the origins are instances of a paceline node: %w", err)
	}
	allowed, err := allowedCPUs()
	if err != nil {
		return e, err
	}
	var divided bool
	if o.cpus, divided = divide(allowed); !divided {
		o.note("anything that depends on pinning: there is one CPU, so the load takes from the proxy; no goal is judged")
	}
	// What is started from here on inherits the load's processors.
	if err := pin([]int{os.Getpid()}, o.cpus.load); err != nil {
		return e, err
	}
	if err := adoptOrphans(); err != nil {
		return e, err
	}
	// Clients, proxies and origins each hold an end of a connection.
	files, err := raiseFiles(uint64(2*o.idle + 2000))
	if err != nil {
		return e, err
	}
	if most := int(files) - 1000; o.idle > most {
		o.note("%d idle connections: only %d files may be open, so %d connections are made", o.idle, files, most)
		o.idle = most
	}
	checkTools(o, e.Systems)
	if len(o.proxies) == 0 {
		return e, errors.New("nothing is left to measure; tools/install-bench-peers.sh installs the peers")
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		e.Load = strings.TrimSpace(string(text))
	}
	o.log("%d CPUs, proxy on %v, load and origins on %v; load average %s: latencies need a quiet machine",
		e.CPUs, o.cpus.proxy, o.cpus.load, e.Load)
	return e, nil
}

// checkTools leaves out what is not installed.
func checkTools(o *routeOptions, versions map[string]string) {
	const hint = "tools/install-bench-peers.sh installs it"
	if _, err := exec.LookPath("wrk"); err != nil {
		o.sections = slices.DeleteFunc(o.sections, func(name string) bool {
			i := slices.IndexFunc(routeSections(), func(s routeSection) bool { return s.name == name })
			if routeSections()[i].wrk {
				o.note("%s: there is no wrk; %s", name, hint)
			}
			return routeSections()[i].wrk
		})
	}
	o.proxies = slices.DeleteFunc(o.proxies, func(p proxy) bool {
		v, err := p.version()
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
			err = fmt.Errorf("it is not installed; %s", hint)
		}
		if err != nil {
			o.note("%s: %v", p.name(), err)
			return true
		}
		versions[p.name()] = v
		return false
	})
}

// kernel is the version of the running kernel.
func kernel() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// measureRoutes measures every section as often as asked for. The proxies take
// turns within each repetition, and each repetition begins with another one. What
// fails is told at the end: a run takes long, and the rest of it is of use.
func measureRoutes(ctx context.Context, o *routeOptions, r *report) error {
	var errs []error
	for _, sec := range routeSections() {
		if !slices.Contains(o.sections, sec.name) {
			continue
		}
		s := sec.setup(o)
		for rep := range o.reps {
			for k := range o.proxies {
				p := o.proxies[(k+rep)%len(o.proxies)]
				if why := p.lacks(s); why != "" {
					o.note("%s of %s: %s", sec.name, p.name(), why)
					continue
				}
				o.log("%s %s, repetition %d of %d", sec.name, p.name(), rep+1, o.reps)
				err := measureRoute(ctx, o, sec, p, s, r)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err != nil {
					o.note("%s of %s: %v", sec.name, p.name(), err)
					errs = append(errs, fmt.Errorf("%s of %s: %w", sec.name, p.name(), err))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func measureRoute(ctx context.Context, o *routeOptions, sec routeSection, p proxy, s setup, r *report) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	st, err := openStage(ctx, o, p, s)
	if err != nil {
		return err
	}
	defer st.close()
	return sec.measure(ctx, o, st, r)
}
