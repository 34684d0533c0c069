package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// maxLine bounds one event: a test that prints more in one line is cut by go
// test itself long before.
const maxLine = 16 << 20

// maxKept bounds the output kept of one test that has not ended yet.
const maxKept = 1 << 20

// event is one line of go test -json.
type event struct {
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64
	Output     string
}

// Package is the outcome of one package.
type Package struct {
	Name    string
	Action  string
	Seconds float64
}

// Skip is one test that did not run, and why.
type Skip struct{ Package, Test, Reason string }

// Summary is the outcome of a whole run.
type Summary struct {
	Passed   int
	Failed   []string
	Skipped  []Skip
	Packages []Package
}

// reader follows the events of a run.
type reader struct {
	Summary
	out  io.Writer
	kept map[string]*strings.Builder
}

// Read follows the events of go test -json, writes one line for each package
// and the output of what failed, and returns the summary.
func Read(in io.Reader, out io.Writer) (*Summary, error) {
	r := &reader{out: out, kept: map[string]*strings.Builder{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			_, _ = fmt.Fprintln(out, lines.Text()) // not an event: show it as it is
			continue
		}
		r.follow(e)
	}
	return &r.Summary, lines.Err()
}

func (r *reader) follow(e event) {
	key := e.Package + " " + e.Test
	switch e.Action {
	case "output":
		r.keep(key, e.Output)
	case "build-output":
		_, _ = fmt.Fprint(r.out, e.Output)
	case "pass", "fail", "skip":
		text := ""
		if b := r.kept[key]; b != nil {
			text = b.String()
		}
		delete(r.kept, key)
		if e.Test == "" {
			r.endPackage(e, text)
		} else {
			r.endTest(e, text)
		}
	}
}

func (r *reader) keep(key, text string) {
	b := r.kept[key]
	if b == nil {
		b = &strings.Builder{}
		r.kept[key] = b
	}
	if b.Len() < maxKept {
		b.WriteString(text)
	}
}

func (r *reader) endTest(e event, text string) {
	switch e.Action {
	case "pass":
		r.Passed++
	case "fail":
		r.Failed = append(r.Failed, e.Package+" "+e.Test)
		_, _ = fmt.Fprint(r.out, text)
	case "skip":
		r.Skipped = append(r.Skipped, Skip{e.Package, e.Test, reason(text)})
	}
}

// cutOff shows the tests of a package that have not ended. When its process
// panics, go test gives the panic to whichever of them was heard last. Those
// that said nothing but that they began are left out.
func (r *reader) cutOff(pkg string) {
	for _, key := range slices.Sorted(maps.Keys(r.kept)) {
		name, test, _ := strings.Cut(key, " ")
		if name != pkg || test == "" {
			continue
		}
		text := r.kept[key].String()
		delete(r.kept, key)
		if reason(text) == noReason {
			continue
		}
		r.Failed = append(r.Failed, key+" (did not end)")
		_, _ = fmt.Fprint(r.out, text)
	}
}

func (r *reader) endPackage(e event, text string) {
	r.Packages = append(r.Packages, Package{e.Package, e.Action, e.Elapsed})
	if e.Action == "fail" {
		r.cutOff(e.Package)
		// A race at exit or a leaked goroutine belongs to no test.
		_, _ = fmt.Fprint(r.out, text)
		if !slices.ContainsFunc(r.Failed, func(f string) bool { return strings.HasPrefix(f, e.Package+" ") }) {
			r.Failed = append(r.Failed, e.Package)
		}
	}
	if e.Action != "skip" { // "skip" of a package means that it has no tests
		_, _ = fmt.Fprintf(r.out, "%-4s %s (%.1fs)\n", e.Action, e.Package, e.Elapsed)
	}
}

// logPrefix is what testing puts before a message: file and line.
var logPrefix = regexp.MustCompile(`^\s*[\w./-]+\.go:\d+: `)

const noReason = "no reason given"

// reason finds what a skipped test said.
func reason(text string) string {
	var said []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		said = append(said, logPrefix.ReplaceAllString(line, ""))
	}
	if len(said) == 0 {
		return noReason
	}
	return said[len(said)-1]
}

// OK reports whether something ran and nothing failed.
func (s *Summary) OK() bool { return len(s.Failed) == 0 && s.Passed > 0 }

// Print writes the summary; slow packages are listed with their time.
func (s *Summary) Print(w io.Writer, slow int) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("")
	byReason := map[string][]string{}
	var reasons []string
	for _, k := range s.Skipped {
		if byReason[k.Reason] == nil {
			reasons = append(reasons, k.Reason)
		}
		byReason[k.Reason] = append(byReason[k.Reason], lastElement(k.Package)+"."+k.Test)
	}
	slices.Sort(reasons)
	for _, why := range reasons {
		p("SKIPPED %d because: %s", len(byReason[why]), why)
		for _, t := range byReason[why] {
			p("        %s", t)
		}
	}
	slices.SortFunc(s.Packages, func(a, b Package) int { return cmp.Compare(b.Seconds, a.Seconds) })
	for i, pkg := range s.Packages {
		if i < slow && pkg.Seconds >= 5 {
			p("slow    %6.1fs %s", pkg.Seconds, pkg.Name)
		}
	}
	for _, f := range s.Failed {
		p("FAILED  %s", f)
	}
	p("tests: %d passed, %d failed, %d skipped", s.Passed, len(s.Failed), len(s.Skipped))
	if s.Passed == 0 {
		p("no test has run")
	}
}

func lastElement(pkg string) string { return pkg[strings.LastIndex(pkg, "/")+1:] }
