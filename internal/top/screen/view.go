package screen

import (
	"fmt"
	"strings"

	tea "charm.land/bubbletea/v2"
	"charm.land/lipgloss/v2"
	"github.com/charmbracelet/x/ansi"

	"github.com/pacelinehq/paceline/internal/top"
)

// Lines of the screen that are not rows: title, nodes, problem, heads of the
// columns, keys.
const frame = 5

const keys = "q quit  s/←→ sort  ↑↓ move  enter fold  / filter  p pause"

// page is how many rows there is room for.
func (m *Model) page() int { return max(m.height-frame, 1) }

// View implements [tea.Model].
func (m *Model) View() tea.View {
	v := tea.NewView(strings.Join(m.lines(), "\n"))
	v.AltScreen = true
	v.WindowTitle = "paceline top"
	return v
}

func (m *Model) lines() []string {
	out := []string{m.line(m.title(), head), m.line(m.nodes(), plain), m.line(m.problem(), alarm)}
	shown := fit(m.width)
	out = append(out, m.line(m.cells(heads(m.order), shown, "  "), head))
	rows := m.rows()
	at := m.at(rows)
	m.offset = min(max(m.offset, at-m.page()+1, 0), max(at, 0))
	for k := m.offset; k < len(rows) && k < m.offset+m.page(); k++ {
		mark := "  "
		if k == at {
			mark = "> "
		}
		out = append(out, m.line(m.cells(rows[k].cells, shown, mark), rows[k].mood))
	}
	if len(rows) == 0 && m.table != nil {
		out = append(out, m.line("  "+m.nothing(), plain))
	}
	for len(out) < m.height-1 {
		out = append(out, "")
	}
	foot := keys
	if m.typing || m.filter != "" {
		foot = "filter: " + m.filter
		if m.typing {
			foot += "_   enter keeps it, esc clears it"
		} else {
			foot += "   esc clears it"
		}
	}
	return append(out, m.line(foot, plain))
}

func (m *Model) nothing() string {
	if m.filter != "" {
		return "nothing has this text in its group, instance or node"
	}
	return "no group has a service; see: paceline group create --help"
}

func (m *Model) title() string {
	if m.table == nil {
		return "paceline top   reading …"
	}
	t, answer := m.table, 0
	for _, n := range t.Nodes {
		if n.Answers {
			answer++
		}
	}
	leader := t.Leader
	if leader == "" {
		leader = "none"
	}
	name := "paceline top"
	if m.paused {
		name += " PAUSED"
	}
	return fmt.Sprintf("%s   leader %s   nodes %d of %d   %s req/s   %s err/s   every %s",
		name, leader, answer, len(t.Nodes), rate(t.Requests), rate(t.Errors), m.cfg.Every)
}

// nodes tells each node's requests a second.
func (m *Model) nodes() string {
	if m.table == nil {
		return ""
	}
	var parts []string
	for _, n := range m.table.Nodes {
		switch {
		case !n.Answers:
			parts = append(parts, n.Name+" no answer")
		case n.State != "ready":
			parts = append(parts, n.Name+" "+rate(n.Requests)+" "+n.State)
		default:
			parts = append(parts, n.Name+" "+rate(n.Requests))
		}
	}
	return strings.Join(parts, "   ")
}

// problem tells the first thing that is wrong.
func (m *Model) problem() string {
	if m.err != nil {
		return m.err.Error()
	}
	if m.table == nil {
		return ""
	}
	if m.table.Problem != "" {
		return m.table.Problem
	}
	for _, n := range m.table.Nodes {
		if n.Problem != "" {
			return n.Name + ": " + n.Problem
		}
	}
	return ""
}

// fit chooses the columns for a width, and gives each its own; 0 hides it.
func fit(width int) []int {
	out, left := make([]int, len(columns)), width-2
	for k, c := range columns {
		out[k] = c.width
		left -= c.width + 1
	}
	for left < 0 {
		least := 0
		for k, c := range columns {
			if out[k] > 0 && c.keep <= columns[least].keep {
				least = k
			}
		}
		if least == 0 {
			break
		}
		left += out[least] + 1
		out[least] = 0
	}
	out[0] += min(max(left, 0), 24)
	return out
}

func heads(by top.Order) []string {
	out := make([]string, len(columns))
	for k, c := range columns {
		out[k] = c.title
		if c.order == by {
			out[k] += "▾"
		}
	}
	return out
}

// cells lays a line of the table out. Text stands left, figures right.
func (m *Model) cells(cells []string, widths []int, mark string) string {
	var b strings.Builder
	b.WriteString(mark)
	for k, w := range widths {
		if w == 0 {
			continue
		}
		text := shorten(clean(cells[k]), w)
		pad := strings.Repeat(" ", w-ansi.StringWidth(text))
		if k < 3 {
			b.WriteString(text + pad)
		} else {
			b.WriteString(pad + text)
		}
		b.WriteByte(' ')
	}
	return strings.TrimRight(b.String(), " ")
}

// shorten cuts a text to a width: that of an instance in its front, because
// ids that were made at about the same time begin alike.
func shorten(text string, width int) string {
	id, is := strings.CutPrefix(text, indent)
	if over := ansi.StringWidth(text) - width; is && over > 0 && width > len(indent) {
		return indent + ansi.TruncateLeft(id, over+1, "…")
	}
	return ansi.Truncate(text, width, "…")
}

// line cuts a line to the width and gives it its look.
func (m *Model) line(text string, as mood) string {
	text = ansi.Truncate(clean(text), m.width, "…")
	if m.cfg.Plain || text == "" {
		return text
	}
	style := lipgloss.NewStyle()
	switch as {
	case head:
		style = style.Bold(true)
	case warning:
		style = style.Foreground(lipgloss.Yellow)
	case alarm:
		style = style.Foreground(lipgloss.Red)
	}
	return style.Render(text)
}
