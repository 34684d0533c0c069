package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "paceline-bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	const usage = "say what to measure: paceline-bench core|routing [flags]"
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "core":
		return runCore(ctx, args[1:])
	case "routing":
		return runRouting(ctx, args[1:])
	case "origin": // what the routing comparison starts behind the proxies
		return serveOrigin(ctx)
	default:
		return errors.New(usage)
	}
}

// runCore is "paceline-bench core".
func runCore(ctx context.Context, args []string) error {
	o, out, err := parse(args)
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(o.dir) }()
	r := newReport()
	if r.env, err = environment(o); err != nil {
		return err
	}
	err = runSections(ctx, o, r)
	// What was measured before an error is still worth a look, but it does
	// not replace the file of a complete run.
	fmt.Println()
	if printErr := r.print(os.Stdout); err != nil || printErr != nil {
		return errors.Join(err, printErr)
	}
	return r.save(out)
}

// parse reads the flags and makes the directory for the data.
func parse(args []string) (*options, string, error) {
	f := flag.NewFlagSet("core", flag.ContinueOnError)
	var (
		binary   = f.String("paceline", "bin/paceline", "the paceline binary")
		ourArgs  = f.String("paceline-args", "", "more arguments of each paceline agent, separated by spaces")
		etcdPath = f.String("etcd", "bin/etcd", "the etcd binary")
		perConn  = f.Int("etcd-clients-per-conn", 64, "how many clients share one connection to etcd; fewer made it slower")
		systems  = f.String("systems", "paceline,paceline-wal,etcd", "what to measure; paceline-wal has the other log store, and is measured in writes only")
		parts    = f.String("run", "writes,reads,failover,memory,sessions", "which sections to run")
		clients  = f.String("clients", "1,64,256", "how many clients write")
		reps     = f.Int("reps", 3, "how often each section is measured")
		window   = f.Duration("dur", 4*time.Second, "how long each load is measured")
		warm     = f.Duration("warm", time.Second, "how long each load runs before that")
		trials   = f.Int("trials", 10, "failovers of each kind in one repetition")
		objects  = f.Int("objects", 200_000, "objects stored for the memory figure")
		dir      = f.String("dir", os.TempDir(), "where the nodes keep their data; a real disk, or fsync costs nothing")
		outputTo = f.String("out", "bench/results/core.json", "the file for the results")
	)
	if err := f.Parse(args); err != nil {
		return nil, "", err
	}
	o := &options{
		sections: strings.Split(*parts, ","), reps: *reps, window: *window, warm: *warm, trials: *trials, objects: *objects,
		log: func(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) },
	}
	known := map[string]system{
		ours: &paceline{system: ours, path: *binary, args: strings.Fields(*ourArgs)},
		oursWAL: &paceline{system: oursWAL, path: *binary,
			args: append([]string{"--raft-log-store", "wal"}, strings.Fields(*ourArgs)...)},
		peer: &etcd{path: *etcdPath, clientsPerConn: *perConn},
	}
	var errs []error
	for name := range strings.SplitSeq(*systems, ",") {
		if known[name] == nil {
			errs = append(errs, fmt.Errorf("there is no system %q", name))
			continue
		}
		o.systems = append(o.systems, known[name])
	}
	for _, name := range o.sections {
		if !slices.ContainsFunc(sections(), func(s section) bool { return s.name == name }) {
			errs = append(errs, fmt.Errorf("there is no section %q", name))
		}
	}
	for text := range strings.SplitSeq(*clients, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			errs = append(errs, fmt.Errorf("%q is not a number of clients", text))
		}
		o.clients = append(o.clients, n)
	}
	if o.reps < 1 || o.trials < 1 || o.objects < 1 || *perConn < 1 || o.window <= 0 || o.warm < 0 {
		errs = append(errs, errors.New("counts and times must be above zero"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, "", err
	}
	made, err := os.MkdirTemp(*dir, "paceline-bench-")
	o.dir = made
	return o, *outputTo, err
}

// environment describes the machine and what is measured on it.
func environment(o *options) (Environment, error) {
	fsync, err := fsyncMedian(o.dir)
	e := Environment{
		Time: time.Now().UTC().Format(time.RFC3339), Command: strings.Join(os.Args, " "),
		CPUs: runtime.NumCPU(), Go: runtime.Version(), Kernel: kernel(), FsyncMs: ms(fsync), Systems: map[string]string{},
	}
	for _, s := range o.systems {
		arg := map[string]string{peer: "--version"}[s.name()]
		if arg == "" {
			arg = "version"
		}
		text, err := exec.Command(s.binary(), arg).Output()
		if err != nil {
			return e, fmt.Errorf("%s %s: %w", s.binary(), arg, err)
		}
		first, _, _ := strings.Cut(string(text), "\n")
		e.Systems[s.name()] = first
	}
	o.log("%d CPUs, fsync of 4 KiB takes %.2f ms (median), data in %s", e.CPUs, e.FsyncMs, o.dir)
	return e, err
}

// fsyncMedian measures what one small durable write costs here.
func fsyncMedian(dir string) (time.Duration, error) {
	const writes = 200
	f, err := os.Create(filepath.Join(dir, "fsync"))
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, 4096)
	took := make([]time.Duration, 0, writes)
	for range writes {
		begin := time.Now()
		if _, err := f.Write(block); err != nil {
			return 0, err
		}
		if err := f.Sync(); err != nil {
			return 0, err
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	return quantile(took, 0.5), nil
}
