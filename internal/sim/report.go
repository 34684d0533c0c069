package sim

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// Stats are the figures of one run.
type Stats struct {
	Virtual, Converged                     time.Duration
	Ops, Acked, Refused, Unknown, Reads    int
	Faults, Terms, Snapshots, Starts       int
	Entries, Decisions, Scalings, Launches int
	Registers, RegisterOps                 int
}

// Add sums up the figures of several runs.
func (s *Stats) Add(o Stats) {
	s.Virtual += o.Virtual
	s.Converged = max(s.Converged, o.Converged)
	s.Ops, s.Acked, s.Refused = s.Ops+o.Ops, s.Acked+o.Acked, s.Refused+o.Refused
	s.Unknown, s.Reads = s.Unknown+o.Unknown, s.Reads+o.Reads
	s.Faults, s.Terms, s.Snapshots, s.Starts = s.Faults+o.Faults, s.Terms+o.Terms, s.Snapshots+o.Snapshots, s.Starts+o.Starts
	s.Entries, s.Decisions = s.Entries+o.Entries, s.Decisions+o.Decisions
	s.Scalings, s.Launches = s.Scalings+o.Scalings, s.Launches+o.Launches
	s.Registers, s.RegisterOps = s.Registers+o.Registers, s.RegisterOps+o.RegisterOps
}

// String is one line.
func (s Stats) String() string {
	return fmt.Sprintf("%d ops (%d acked, %d refused, %d unknown, %d strong reads), %d faults, %d node starts, %d terms, %d snapshots, %d entries, %d decisions (%d scaled), %d launches, %d registers, slowest calm %s",
		s.Ops, s.Acked, s.Refused, s.Unknown, s.Reads, s.Faults, s.Starts, s.Terms, s.Snapshots, s.Entries, s.Decisions, s.Scalings, s.Launches, s.Registers, s.Converged.Round(time.Millisecond))
}

// Report is the outcome of one run.
type Report struct {
	Options    Options
	Violations []string
	Stats      Stats

	schedule []Fault
	ops      []*op
	applied  map[string][]uint64
	log      *runLog
	bad      []verdict
	stacks   string // of a run that hangs
}

// report collects what a run has to say.
func (w *World) report(schedule []Fault) *Report {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := &Report{
		Options: w.opt, Violations: slices.Clone(w.violations), Stats: w.stats, schedule: schedule,
		ops: w.history.all(), applied: w.audit.rules.applied, log: w.log,
	}
	if w.suppressed > 0 {
		r.Violations = append(r.Violations, fmt.Sprintf("and %d more", w.suppressed))
	}
	s := &r.Stats
	s.Virtual, s.Terms, s.Entries = time.Since(w.began), w.audit.terms(), int(w.audit.pos)
	s.Decisions, s.Scalings, s.Launches = w.audit.rules.decisions, w.audit.rules.scalings, len(w.ledger.launches())
	for _, m := range w.machines {
		s.Snapshots += m.disk.snapshots.taken()
		s.Starts += m.starts
	}
	for _, o := range r.ops {
		s.Ops++
		switch {
		case o.verb == verbRead && o.fate == fateOK:
			s.Reads++
		case o.fate == fateOK:
			s.Acked++
		case o.fate == fateUnknown:
			s.Unknown++
		default:
			s.Refused++
		}
	}
	return r
}

// Check does what needs real time: it checks that the registers' histories are
// linearizable. Call it outside the bubble.
func (r *Report) Check() {
	r.bad, r.Stats.Registers = linearize(r.ops, r.applied)
	for _, v := range r.bad {
		r.Violations = append(r.Violations, fmt.Sprintf("linearizability: register %s with %d operations is %s", v.key, v.ops, v.result))
	}
}

// Dump writes all that is known of the run into a new directory below dir, and
// returns the main file's name.
func (r *Report) Dump(dir string) (string, error) {
	dir, err := os.MkdirTemp(dir, fmt.Sprintf("paceline-sim-seed-%d-", r.Options.Seed))
	if err != nil {
		return "", err
	}
	for k, v := range r.bad {
		name := filepath.Join(dir, fmt.Sprintf("%d-%s.html", k, v.key))
		if perr := porcupine.VisualizePath(v.model, v.info, name); perr != nil {
			err = errors.Join(err, perr)
		}
	}
	name := filepath.Join(dir, "run.txt")
	f, ferr := os.Create(name)
	if ferr != nil {
		return "", errors.Join(err, ferr)
	}
	out := bufio.NewWriter(f)
	fmt.Fprintf(out, "seed %d, %d nodes and %d non-voters, load %s, bug %q\n%s\n", r.Options.Seed, r.Options.Nodes, r.Options.NonVoters, r.Options.Load, r.Options.Bug, r.Stats)
	r.section(out, "violations", r.Violations)
	var faults, ops []string
	for _, f := range r.schedule {
		faults = append(faults, f.String())
	}
	for _, o := range r.ops {
		ops = append(ops, fmt.Sprintf("%s took effect at %v", o, r.applied[o.id]))
	}
	r.section(out, "schedule", faults)
	r.section(out, "log", r.log.all())
	if r.stacks != "" {
		r.section(out, "goroutines", []string{r.stacks})
	}
	r.section(out, "operations: call, return, id, node, tries, fate", ops)
	return name, errors.Join(err, out.Flush(), f.Close())
}

func (r *Report) section(out *bufio.Writer, title string, lines []string) {
	fmt.Fprintf(out, "\n=== %s\n%s\n", title, strings.Join(lines, "\n"))
}
