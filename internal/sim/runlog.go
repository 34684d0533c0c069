package sim

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// runLog is what the nodes log and the faults do, in the order of virtual
// time. Lines are formatted only when somebody reads them.
type runLog struct {
	began   time.Time
	verbose func(string)

	mu    sync.Mutex
	lines []logLine
	lost  int
}

type logLine struct {
	at   time.Duration
	from string
	text string
	rec  *slog.Record
	with []slog.Attr
}

// add notes a line.
func (l *runLog) add(from, text string) {
	l.put(logLine{at: time.Since(l.began), from: from, text: text})
}

func (l *runLog) put(line logLine) {
	if l.verbose != nil {
		l.verbose(line.String())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) >= maxLogLines {
		// The newest lines matter most.
		l.lines = append(l.lines[:0], l.lines[maxLogLines/4:]...)
		l.lost += maxLogLines / 4
	}
	l.lines = append(l.lines, line)
}

// all renders the log.
func (l *runLog) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]string, 0, len(l.lines)+1)
	if l.lost > 0 {
		out = append(out, fmt.Sprintf("… %d earlier lines were dropped", l.lost))
	}
	for _, line := range l.lines {
		out = append(out, line.String())
	}
	return out
}

// String renders one line.
func (l logLine) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%10.4f %-6s %s", l.at.Seconds(), l.from, l.text)
	if l.rec == nil {
		return b.String()
	}
	fmt.Fprintf(&b, "%-5s %s", l.rec.Level, l.rec.Message)
	for _, a := range l.with {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
	}
	l.rec.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%v", a.Key, a.Value)
		return true
	})
	return b.String()
}

// logHandler brings what a node logs into the run's log.
type logHandler struct {
	log  *runLog
	node string
	with []slog.Attr
}

// Enabled implements [slog.Handler].
func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }

// Handle implements [slog.Handler].
func (h *logHandler) Handle(_ context.Context, r slog.Record) error {
	h.log.put(logLine{at: time.Since(h.log.began), from: h.node, rec: &r, with: h.with})
	return nil
}

// WithAttrs implements [slog.Handler]. The node's name is in every line
// already.
func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.with = append([]slog.Attr(nil), h.with...)
	for _, a := range attrs {
		if a.Key != "node" {
			c.with = append(c.with, a)
		}
	}
	return &c
}

// WithGroup implements [slog.Handler].
func (h *logHandler) WithGroup(string) slog.Handler { return h }
