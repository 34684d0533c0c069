package proxy

import (
	"net"
	"time"
)

// clock tells the time since a proxy began, which is all it needs: it never
// goes back and costs half of a time.Now.
type clock struct{ base time.Time }

func (c clock) now() time.Duration { return time.Since(c.base) }

func (c clock) at(d time.Duration) time.Time { return c.base.Add(d) }

// stream is one side of a connection, with its deadlines. Arming a deadline
// costs as much as a small system call, so one that is armed already and
// within an eighth of the wanted wait is left: a timeout may come that much
// earlier or later than asked for, and never is there none.
type stream struct {
	net.Conn
	clk     clock
	readBy  time.Duration
	writeBy time.Duration
}

// readIn bounds the next reads to a wait from now on.
func (s *stream) readIn(now, wait time.Duration) {
	if by := now + wait; !near(s.readBy, by, wait) {
		s.readBy = by
		_ = s.SetReadDeadline(s.clk.at(by))
	}
}

// writeIn bounds the next writes to a wait from now on.
func (s *stream) writeIn(now, wait time.Duration) {
	if by := now + wait; !near(s.writeBy, by, wait) {
		s.writeBy = by
		_ = s.SetWriteDeadline(s.clk.at(by))
	}
}

// near reports whether an armed deadline serves as well as the wanted one.
func near(armed, wanted, wait time.Duration) bool {
	slack := wait >> 3
	return armed > wanted-slack && armed < wanted+slack
}

// interrupt ends reads that are under way or follow, until the deadline is
// armed again. It may be called while another goroutine reads, which then has
// to set readBy to 0.
func (s *stream) interrupt() { _ = s.SetReadDeadline(s.clk.base) }
