package sim

import (
	"context"
	"runtime"
	"strings"
	"testing/synctest"
	"time"
)

// plant carries out the bugs that happen once, when a run calms down.
func (w *World) plant(ctx context.Context) {
	m := w.staying()[0]
	switch w.opt.Bug {
	case BugCorruptRow:
		if c, _ := m.process(); c != nil {
			for _, g := range c.State().Groups.All() {
				g.MaxSize++ // a row of an immutable state
				break
			}
		}
	case BugOtherSnapshot:
		m.crash(false)
		m.disk.snapshots.falsify()
		m.up(ctx)
	}
}

// leakPatience is how long goroutines may take to end after their node has.
const leakPatience = 5 * time.Second

// maxStacks is how much of all goroutines' stacks is looked at.
const maxStacks = 16 << 20

// bubbleGoroutines returns the stacks of the bubble's goroutines but for the
// caller's.
func bubbleGoroutines() []string {
	time.Sleep(leakPatience)
	synctest.Wait()
	buf := make([]byte, maxStacks)
	buf = buf[:runtime.Stack(buf, true)]
	stacks := strings.Split(string(buf), "\n\n")
	mine := bubbleOf(stacks[0])
	var left []string
	for _, s := range stacks[1:] {
		if mine != "" && bubbleOf(s) == mine && !strings.Contains(s, "testing/synctest.") {
			left = append(left, s)
		}
	}
	return left
}

// bubbleOf is the number of the bubble that a stack names in its first line.
func bubbleOf(stack string) string {
	head, _, _ := strings.Cut(stack, "\n")
	_, after, ok := strings.Cut(head, "synctest bubble ")
	if !ok {
		return ""
	}
	return strings.TrimRight(after, "]:, durable")
}
