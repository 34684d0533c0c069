package screen

import (
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/top"
)

// mood is how a row is told.
type mood int

const (
	plain   mood = iota
	head         // a service
	warning      // on its way, or sent nothing for now
	alarm        // failing
)

// row is one line of the table.
type row struct {
	key   rowKey
	cells []string // as columns
	mood  mood
}

// column is one column of the table; the first one has what is left of the
// width, and the last ones go first when there is too little.
type column struct {
	title string
	width int
	order top.Order
	keep  int // columns with a smaller one go first
}

var columns = []column{
	{title: "SERVICE", width: minName, order: top.ByName, keep: 9},
	{title: "NODE", width: 8, keep: 4},
	{title: "STATE", width: 17, keep: 6},
	{title: "REQ/S", width: 8, order: top.ByRequests, keep: 8},
	{title: "ERR/S", width: 7, order: top.ByErrors, keep: 7},
	{title: "FAIL/S", width: 7, keep: 2},
	{title: "IN FLIGHT", width: 10, order: top.ByInFlight, keep: 3},
	{title: "P50", width: 8, order: top.ByP50, keep: 3},
	{title: "P99", width: 8, order: top.ByP99, keep: 5},
	{title: "SESSIONS", width: 9, order: top.BySessions, keep: 1},
}

const minName = 18

// indent stands before an instance.
const indent = "    "

// rows are the lines of the table as the user wants them.
func (m *Model) rows() []row {
	if m.table == nil {
		return nil
	}
	var out []row
	t := m.table.Select(m.filter, m.order)
	for i := range t.Services {
		s := &t.Services[i]
		out = append(out, m.serviceRow(s))
		if m.folded[s.Group] {
			continue
		}
		for k := range s.Instances {
			out = append(out, instanceRow(s.Group, &s.Instances[k]))
		}
	}
	return out
}

func (m *Model) serviceRow(s *top.Service) row {
	mark := "- "
	if m.folded[s.Group] {
		mark = "+ "
	}
	state := fmt.Sprintf("%d of %d healthy", s.Healthy, s.Desired)
	r := row{key: rowKey{group: s.Group}, mood: head}
	switch {
	case s.Gone:
		state = "gone"
	case s.Healthy == 0 && s.Desired > 0:
		r.mood = alarm
	case s.Healthy < s.Desired:
		r.mood = warning
	}
	r.cells = append([]string{mark + s.Group, "", state}, figures(&s.Traffic)...)
	r.cells = append(r.cells, millis(s.P50), millis(s.P99), count(s.Sessions))
	return r
}

func instanceRow(group string, i *top.Instance) row {
	r := row{key: rowKey{group, i.ID}}
	state := string(i.State)
	switch {
	case i.State == "":
		state, r.mood = "gone", warning
	case i.Ejected > 0:
		state, r.mood = fmt.Sprintf("ejected by %d of %d", i.Ejected, i.Seen), warning
	case i.State == fsm.Running && i.Health == fsm.Unhealthy:
		state, r.mood = string(i.Health), alarm
	case i.State == fsm.Failed || i.State == fsm.Lost:
		r.mood = alarm
	case i.State != fsm.Running:
		r.mood = warning
	}
	r.cells = append([]string{indent + i.ID, i.Node, state}, figures(&i.Traffic)...)
	r.cells = append(r.cells, millis(i.P50), millis(i.P99), "")
	return r
}

func figures(t *top.Traffic) []string {
	return []string{rate(t.Requests), rate(t.Errors), rate(t.Failures), strconv.Itoa(t.InFlight)}
}

// rate tells a figure a second, in few characters.
func rate(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v == 0:
		return "0"
	case *v < 0.1:
		return "<0.1"
	case *v < 100:
		return strconv.FormatFloat(*v, 'f', 1, 64)
	case *v < 1e6:
		return strconv.FormatFloat(math.Round(*v), 'f', 0, 64)
	}
	return strconv.FormatFloat(*v/1e6, 'f', 2, 64) + "M"
}

func millis(v *float64) string {
	switch {
	case v == nil:
		return "-"
	case *v < 10:
		return strconv.FormatFloat(*v, 'f', 2, 64) + "ms"
	case *v < 10_000:
		return strconv.FormatFloat(*v, 'f', 0, 64) + "ms"
	}
	return strconv.FormatFloat(*v/1000, 'f', 0, 64) + "s"
}

func count(n *int) string {
	if n == nil {
		return "-"
	}
	return strconv.Itoa(*n)
}

// clean keeps control characters of data out of the terminal.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return '·'
		}
		return r
	}, s)
}
