package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// aggregate says how the values of several repetitions become one.
type aggregate string

const (
	median aggregate = "median"
	worst  aggregate = "max"
	sum    aggregate = "sum"
)

func (a aggregate) of(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	switch a {
	case worst:
		return sorted[len(sorted)-1]
	case sum:
		total := 0.0
		for _, v := range values {
			total += v
		}
		return total
	default:
		mid := len(sorted) / 2
		if len(sorted)%2 == 0 {
			return (sorted[mid-1] + sorted[mid]) / 2
		}
		return sorted[mid]
	}
}

// key names one thing that is measured of every system.
type key struct {
	section, name, unit string
	how                 aggregate
}

// Row is one measured thing, as the JSON file holds it.
type Row struct {
	Section   string               `json:"section"`
	Name      string               `json:"name"`
	Unit      string               `json:"unit,omitempty"`
	Aggregate aggregate            `json:"aggregate"`
	Values    map[string][]float64 `json:"values"`
	Result    map[string]float64   `json:"result"`
	// Ratio is Paceline's result over the peer's, where both are above zero.
	Ratio float64 `json:"ratio,omitempty"`
	// Goal is what the project wants of this row, and Met whether it is so.
	Goal string `json:"goal,omitempty"`
	Met  *bool  `json:"met,omitempty"`
}

// Environment says where and how the figures were measured.
type Environment struct {
	Time    string            `json:"time"`
	Command string            `json:"command"`
	CPUs    int               `json:"cpus"`
	Kernel  string            `json:"kernel"`
	Go      string            `json:"go"`
	FsyncMs float64           `json:"fsyncMedianMs,omitempty"`
	Systems map[string]string `json:"systems"`
	// Load is the machine's load average when the run began: what others did.
	Load string `json:"loadAverage,omitempty"`
}

// report collects values in the order in which they first come.
type report struct {
	env    Environment
	keys   []key
	values map[key]map[string][]float64
}

func newReport() *report { return &report{values: map[key]map[string][]float64{}} }

func (r *report) add(system string, k key, v float64) {
	if r.values[k] == nil {
		r.keys = append(r.keys, k)
		r.values[k] = map[string][]float64{}
	}
	r.values[k][system] = append(r.values[k][system], v)
}

// variants are the ways in which Paceline is run; each has rows of its own,
// beside the same peer.
var variants = []struct{ system, suffix string }{{ours, ""}, {oursWAL, " (wal)"}}

// rows sums up every key.
func (r *report) rows() []Row {
	var rows []Row
	for _, v := range variants {
		for _, k := range r.keys {
			// What only the peer was measured in is a row of the first variant.
			if len(r.values[k][v.system]) > 0 || v.system == ours && len(r.values[k][oursWAL]) == 0 {
				rows = append(rows, r.row(k, v.system, v.suffix))
			}
		}
	}
	return rows
}

func (r *report) row(k key, variant, suffix string) Row {
	row := Row{
		Section: k.section, Name: k.name + suffix, Unit: k.unit, Aggregate: k.how,
		Values: map[string][]float64{}, Result: map[string]float64{},
	}
	for column, system := range map[string]string{ours: variant, peer: peer} {
		if values, ok := r.values[k][system]; ok {
			row.Values[column], row.Result[column] = values, k.how.of(values)
		}
	}
	mine, haveOurs := row.Result[ours]
	theirs, havePeer := row.Result[peer]
	if haveOurs && havePeer && mine > 0 && theirs > 0 {
		row.Ratio = mine / theirs
	}
	if g, ok := goals[row.Name]; ok && haveOurs && (havePeer || !g.ratio) {
		met := g.met(row)
		row.Goal, row.Met = g.String(), &met
	}
	return row
}

// goal is what the project wants of one row.
type goal struct {
	ratio bool // of the ratio to the peer, not of our own value
	least bool // at least, not at most
	value float64
}

// goals are the project's aims, by the name of the row.
var goals = map[string]goal{
	"write c=64":                       {ratio: true, least: true, value: 1.3},
	"write c=256":                      {ratio: true, least: true, value: 1.5},
	"write c=256 p99":                  {ratio: true, value: 0.6},
	"write c=1 p50":                    {ratio: true, value: 1.3},
	"write c=64 (wal)":                 {ratio: true, least: true, value: 1.6},
	"write c=256 (wal)":                {ratio: true, least: true, value: 2},
	"write c=1 p50 (wal)":              {ratio: true, value: 1},
	"sessions to writes c=64":          {least: true, value: 1},
	"sessions to writes c=256":         {least: true, value: 1},
	"strong read c=64":                 {ratio: true, least: true, value: 2},
	"stale read c=64":                  {ratio: true, least: true, value: 2.5},
	"SIGKILL first ack":                {value: 50},
	"SIGKILL first ack, worst":         {value: 250},
	"SIGSTOP first ack":                {value: 600},
	"SIGSTOP first ack, worst":         {value: 1000},
	"SIGTERM longest gap, worst":       {value: 20},
	"SIGKILL errors":                   {},
	"SIGSTOP errors":                   {},
	"SIGTERM errors":                   {},
	"SIGKILL hung":                     {},
	"SIGSTOP hung":                     {},
	"SIGTERM hung":                     {},
	"SIGKILL acknowledged and missing": {},
	"SIGSTOP acknowledged and missing": {},
	"SIGTERM acknowledged and missing": {},
	"RSS a node, idle":                 {value: 40},
	"RSS a node, 200000 objects":       {ratio: true, value: 1},
	"three nodes to a leader":          {value: 1000},
	"binary":                           {value: 30},
}

// String writes the goal as the table shows it.
func (g goal) String() string {
	op, what := "≤", ""
	if g.least {
		op = "≥"
	}
	if g.ratio {
		what = "×"
	}
	return fmt.Sprintf("%s %g%s", op, g.value, what)
}

func (g goal) met(row Row) bool {
	v := row.Result[ours]
	if g.ratio {
		v = row.Ratio
		if v == 0 {
			return false
		}
	}
	if g.least {
		return v >= g.value
	}
	return v <= g.value
}

// print writes the table.
func (r *report) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "section\twhat\tunit\tpaceline\tetcd\tratio\tgoal\t")
	for _, row := range r.rows() {
		ratio, verdict := "-", ""
		if row.Ratio > 0 {
			ratio = fmt.Sprintf("%.2f", row.Ratio)
		}
		if row.Met != nil {
			verdict = row.Goal + map[bool]string{true: " met", false: " MISSED"}[*row.Met]
		}
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", row.Section, row.Name, row.Unit,
			figure(row.Result, ours), figure(row.Result, peer), ratio, verdict)
	}
	return t.Flush()
}

// figure writes a result with about three significant digits.
func figure(results map[string]float64, system string) string {
	v, ok := results[system]
	switch {
	case !ok:
		return "-"
	case v >= 100 || v == float64(int(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// save writes the JSON file, whole or not at all.
func (r *report) save(name string) error {
	return saveJSON(name, struct {
		Environment Environment `json:"environment"`
		Rows        []Row       `json:"rows"`
	}{r.env, r.rows()})
}
