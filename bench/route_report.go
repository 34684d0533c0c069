package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

// RouteRow is one measured thing of the comparison of proxies.
type RouteRow struct {
	Section   string               `json:"section"`
	Name      string               `json:"name"`
	Unit      string               `json:"unit,omitempty"`
	Aggregate aggregate            `json:"aggregate"`
	Values    map[string][]float64 `json:"values"`
	Result    map[string]float64   `json:"result"`
	// Ratio is each system's result over HAProxy's, where both are above zero.
	Ratio map[string]float64 `json:"ratioToHAProxy,omitempty"`
	Goals []Verdict          `json:"goals,omitempty"`
}

// Verdict is one goal of a row, and whether it is met.
type Verdict struct {
	Goal string `json:"goal"`
	Met  bool   `json:"met"`
}

// routeGoal is at most a multiple of a peer's result, or without a peer at
// most a value.
type routeGoal struct {
	peer  string
	value float64
}

// routeGoals are the project's aims, by section and name of the row.
func routeGoals() map[string][]routeGoal {
	return map[string][]routeGoal{
		"saturation CPU a request":   {{peerHAProxy, 1.15}, {peerCaddy, 0.35}},
		"saturation p99":             {{peerHAProxy, 1.2}},
		"saturation failed":          {{}},
		"sticky CPU a request":       {{peerHAProxy, 1.3}},
		"sticky sessions that moved": {{}},
		"sticky failed":              {{}},
		"rate CPU a request":         {{peerHAProxy, 1.4}},
		"rate p99":                   {{peerHAProxy, 1.2}},
		"rate p99.9":                 {{peerHAProxy, 1.5}},
		"rate failed":                {{}},
		"idle RSS":                   {{"", 150}},
		"idle connections lost":      {{}},
		"churn failed":               {{}},
		"large failed":               {{}},
	}
}

// String writes the goal as the table shows it.
func (g routeGoal) String() string {
	if g.peer == "" {
		return fmt.Sprintf("≤ %g", g.value)
	}
	return fmt.Sprintf("≤ %g× %s", g.value, g.peer)
}

// judge says whether the results meet the goal, if they can tell.
func (g routeGoal) judge(result map[string]float64) (met, known bool) {
	mine, ok := result[ours]
	if !ok || g.peer == "" {
		return mine <= g.value, ok
	}
	theirs, ok := result[g.peer]
	// A peer without a figure is nothing to be compared with.
	return mine <= g.value*theirs, ok && theirs > 0
}

// routeRows sums up every key.
func routeRows(r *report, judge bool) []RouteRow {
	rows := make([]RouteRow, 0, len(r.keys))
	for _, k := range r.keys {
		row := RouteRow{
			Section: k.section, Name: k.name, Unit: k.unit, Aggregate: k.how,
			Values: r.values[k], Result: map[string]float64{}, Ratio: map[string]float64{},
		}
		for system, values := range r.values[k] {
			row.Result[system] = k.how.of(values)
		}
		for system, v := range row.Result {
			if base := row.Result[peerHAProxy]; v > 0 && base > 0 {
				row.Ratio[system] = v / base
			}
		}
		for _, g := range routeGoals()[k.section+" "+k.name] {
			if met, known := g.judge(row.Result); known && judge {
				row.Goals = append(row.Goals, Verdict{g.String(), met})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// printRoutes writes the table: each result with its ratio to HAProxy's.
func printRoutes(w io.Writer, o *routeOptions, r *report) error {
	columns := []string{ours, peerHAProxy, peerNginx, peerCaddy}
	columns = slices.DeleteFunc(columns, func(c string) bool { return r.env.Systems[c] == "" })
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprint(t, "section\twhat\tunit\t")
	for _, c := range columns {
		_, _ = fmt.Fprintf(t, "%s\t", c)
	}
	_, _ = fmt.Fprintln(t, "goal\t")
	for _, row := range routeRows(r, len(o.cpus.proxy) > 0) {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t", row.Section, row.Name, row.Unit)
		for _, c := range columns {
			cell := figure(row.Result, c)
			if ratio, ok := row.Ratio[c]; ok && c != peerHAProxy && row.Unit != "" {
				cell += fmt.Sprintf(" (%.2f×)", ratio)
			}
			_, _ = fmt.Fprintf(t, "%s\t", cell)
		}
		for i, v := range row.Goals {
			if i > 0 {
				_, _ = fmt.Fprint(t, ", ")
			}
			_, _ = fmt.Fprint(t, v.Goal, map[bool]string{true: " ok", false: " MISSED"}[v.Met])
		}
		_, _ = fmt.Fprintln(t, "\t")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, n := range o.notes {
		if _, err := fmt.Fprintln(w, "not measured:", n); err != nil {
			return err
		}
	}
	return nil
}

// saveRoutes writes the JSON file, whole or not at all.
func saveRoutes(o *routeOptions, r *report) error {
	return saveJSON(o.out, struct {
		Environment Environment `json:"environment"`
		NotMeasured []string    `json:"notMeasured,omitempty"`
		Rows        []RouteRow  `json:"rows"`
	}{r.env, o.notes, routeRows(r, len(o.cpus.proxy) > 0)})
}

// saveJSON writes a file of results, whole or not at all.
func saveJSON(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(name+".tmp", append(text, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}
