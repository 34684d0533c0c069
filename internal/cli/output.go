package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"go.yaml.in/yaml/v4"
)

var outputs = []string{"table", "wide", "json", "yaml", "jsonl", "name"}

func (a *app) checkOutput() error {
	if slices.Contains(outputs, a.output) {
		return nil
	}
	return usagef("--output %q is not one of %s", a.output, strings.Join(outputs, ", "))
}

// human reports whether the output is one for people.
func (a *app) human() bool { return a.output == "table" || a.output == "wide" }

// column is one column of a table.
type column[T any] struct {
	title string
	wide  bool // only with -o wide
	cell  func(*T) string
}

// view says how a noun is shown.
type view[T any] struct {
	columns []column[T]
	name    func(*T) string
}

// showList writes a listing in the asked format.
func showList[T any](a *app, w io.Writer, v view[T], items []T, next string) error {
	switch a.output {
	case "json", "yaml":
		if items == nil {
			items = []T{}
		}
		return a.encode(w, struct {
			Items []T    `json:"items"`
			Next  string `json:"next,omitempty"`
		}{items, next})
	}
	if err := showRows(a, w, v, items); err != nil {
		return err
	}
	if next != "" && a.output != "jsonl" && a.output != "name" {
		_, _ = fmt.Fprintf(a.Err, "there are more: --cursor %s\n", next)
	}
	return nil
}

// showOne writes one noun in the asked format.
func showOne[T any](a *app, w io.Writer, v view[T], item *T) error {
	if a.output == "json" || a.output == "yaml" {
		return a.encode(w, item)
	}
	return showRows(a, w, v, []T{*item})
}

func showRows[T any](a *app, w io.Writer, v view[T], items []T) error {
	switch a.output {
	case "jsonl":
		for i := range items {
			line, err := json.Marshal(items[i])
			if err != nil {
				return err
			}
			if _, err := fmt.Fprintf(w, "%s\n", line); err != nil {
				return err
			}
		}
		return nil
	case "name":
		for i := range items {
			if _, err := fmt.Fprintln(w, v.name(&items[i])); err != nil {
				return err
			}
		}
		return nil
	}
	return showTable(a, w, v, items)
}

func showTable[T any](a *app, w io.Writer, v view[T], items []T) error {
	t := table.NewWriter()
	t.SetStyle(table.Style{Box: table.BoxStyle{PaddingRight: "   "}})
	t.SuppressTrailingSpaces()
	var head table.Row
	var cols []column[T]
	for _, c := range v.columns {
		if !c.wide || a.output == "wide" {
			head, cols = append(head, c.title), append(cols, c)
		}
	}
	t.AppendHeader(head)
	for i := range items {
		row := make(table.Row, len(cols))
		for k, c := range cols {
			row[k] = a.paint(clean(c.cell(&items[i])))
		}
		t.AppendRow(row)
	}
	_, err := fmt.Fprintln(w, t.Render())
	return err
}

// clean keeps control characters of data out of a terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if (r < ' ' && r != '\n') || r == 0x7f {
			return '·'
		}
		return r
	}, s)
}

// encode writes a value as JSON or YAML.
func (a *app) encode(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return a.encodeRaw(w, raw)
}

func (a *app) encodeRaw(w io.Writer, raw []byte) error {
	var out bytes.Buffer
	if a.output == "yaml" {
		b, err := toYAML(raw)
		if err != nil {
			return err
		}
		out.Write(b)
	} else {
		if err := json.Indent(&out, raw, "", "  "); err != nil {
			return err
		}
		out.WriteByte('\n')
	}
	_, err := w.Write(out.Bytes())
	return err
}

// toYAML keeps the order of the fields: JSON is YAML, in another style.
func toYAML(raw []byte) ([]byte, error) {
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, err
	}
	block(&doc)
	return yaml.Marshal(&doc)
}

func block(n *yaml.Node) {
	n.Style = 0
	for _, child := range n.Content {
		block(child)
	}
}

// colours of the words that matter.
var colours = map[string]string{
	"running": "32", "healthy": "32", "ready": "32", "alive": "32", "leader": "36",
	"failed": "31", "lost": "31", "unhealthy": "31", "down": "31", "dead": "31",
	"draining": "33", "stopping": "33", "starting": "33", "planned": "33", "suspect": "33",
}

func (a *app) paint(s string) string {
	code, ok := colours[s]
	if !ok || a.noColor || a.Env("NO_COLOR") != "" || !terminal(a.Out) {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// terminal reports whether w is a terminal.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// age tells how long ago a time was.
func (a *app) age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := max(a.Now().Sub(t), 0)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// stamp tells a time, with its date when that is another day.
func (a *app) stamp(t time.Time) string {
	local, now := t.Local(), a.Now().Local()
	if local.Format(time.DateOnly) == now.Format(time.DateOnly) {
		return local.Format(time.TimeOnly)
	}
	return local.Format(time.DateTime)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
