package screen

import (
	"context"
	"slices"
	"time"
	"unicode/utf8"

	tea "charm.land/bubbletea/v2"

	"github.com/pacelinehq/paceline/internal/top"
)

// maxFilter is the longest filter in characters.
const maxFilter = 64

// Read takes one reading.
type Read func(ctx context.Context) (*top.Reading, error)

// Config is what a [Model] shows and how.
type Config struct {
	Read Read
	// Every is the time between two readings.
	Every time.Duration
	// Plain switches colours off.
	Plain bool
}

// Model is the screen as a Bubble Tea model. Its zero value is not usable.
type Model struct {
	cfg           Config
	ctx           context.Context
	width, height int

	before, after *top.Reading
	table         *top.Table
	err           error

	order   top.Order
	folded  map[string]bool
	filter  string
	typing  bool
	paused  bool
	waiting bool // a reading or the time until the next one is under way
	cursor  rowKey
	offset  int
}

// rowKey names the row under the cursor, which stays the same row when the
// rows change their places.
type rowKey struct{ group, instance string }

// Messages of the model.
type (
	// Took is a reading that has come.
	Took struct {
		Reading *top.Reading
		Err     error
	}
	// Due says that it is time for the next reading.
	Due struct{}
)

// New makes the model. Readings end with ctx.
func New(ctx context.Context, cfg Config) *Model {
	return &Model{cfg: cfg, ctx: ctx, width: 80, height: 24, order: top.ByName, folded: map[string]bool{}, waiting: true}
}

// Init implements [tea.Model].
func (m *Model) Init() tea.Cmd { return m.read }

func (m *Model) read() tea.Msg {
	r, err := m.cfg.Read(m.ctx)
	return Took{r, err}
}

// Update implements [tea.Model].
func (m *Model) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	var next tea.Cmd
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		m.width, m.height = msg.Width, msg.Height
	case Took:
		next = m.took(msg)
	case Due:
		m.waiting = !m.paused
		if m.waiting {
			next = m.read
		}
	case tea.KeyPressMsg:
		next = m.key(msg)
	}
	return m, next
}

// took takes a reading in. While paused it is kept, so that the rates after
// the pause are those of the time since, and is not shown.
func (m *Model) took(msg Took) tea.Cmd {
	m.err = msg.Err
	if msg.Err == nil {
		m.before, m.after = m.after, msg.Reading
		if !m.paused {
			m.table = top.Compare(m.before, m.after)
		}
	}
	m.waiting = true
	return tea.Tick(m.cfg.Every, func(time.Time) tea.Msg { return Due{} })
}

func (m *Model) key(msg tea.KeyPressMsg) tea.Cmd {
	name := msg.String()
	if name == "ctrl+c" {
		return tea.Quit
	}
	if m.typing {
		m.edit(name, msg.Text)
		return nil
	}
	switch name {
	case "q":
		return tea.Quit
	case "p", "space":
		return m.pause()
	case "s", "right":
		m.sort(1)
	case "S", "left":
		m.sort(-1)
	case "/":
		m.typing = true
	case "esc":
		m.filter = ""
	case "enter":
		m.fold()
	case "up", "k":
		m.move(-1)
	case "down", "j":
		m.move(1)
	case "pgup":
		m.move(-m.page())
	case "pgdown":
		m.move(m.page())
	}
	return nil
}

// edit changes the filter.
func (m *Model) edit(name, text string) {
	switch name {
	case "enter":
		m.typing = false
	case "esc":
		m.typing, m.filter = false, ""
	case "backspace":
		_, n := utf8.DecodeLastRuneInString(m.filter)
		m.filter = m.filter[:len(m.filter)-n]
	default:
		if utf8.RuneCountInString(m.filter+text) <= maxFilter {
			m.filter += text
		}
	}
}

// pause stops the readings, or takes the next one at once.
func (m *Model) pause() tea.Cmd {
	m.paused = !m.paused
	if m.paused || m.waiting {
		return nil
	}
	m.waiting = true
	return m.read
}

func (m *Model) sort(step int) {
	all := top.Orders()
	at := slices.Index(all, m.order) + step
	m.order = all[(at+len(all))%len(all)]
}

// fold hides or shows the instances of the service under the cursor.
func (m *Model) fold() {
	if at := m.at(m.rows()); at >= 0 {
		m.cursor = rowKey{group: m.cursor.group}
		m.folded[m.cursor.group] = !m.folded[m.cursor.group]
	}
}

func (m *Model) move(by int) {
	rows := m.rows()
	if len(rows) > 0 {
		m.cursor = rows[min(max(m.at(rows)+by, 0), len(rows)-1)].key
	}
}

// at finds the row under the cursor: the first one when its row is gone, -1
// when there are none. The cursor is put there.
func (m *Model) at(rows []row) int {
	if len(rows) == 0 {
		return -1
	}
	at := max(slices.IndexFunc(rows, func(r row) bool { return r.key == m.cursor }), 0)
	m.cursor = rows[at].key
	return at
}
