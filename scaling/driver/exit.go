package driver

import (
	"fmt"
	"time"
)

// Exit is how an instance ended.
type Exit struct {
	// Known says that Code or Signal is set. It is not for a process which
	// ended while, or long after, the node that started it was gone.
	Known bool
	// Code is the exit status, when no signal ended the process.
	Code int
	// Signal is the name of the signal that ended the process, such as "KILL".
	Signal string
	// Note is what else the driver knows: that it ran out of memory, or that
	// the machine was restarted.
	Note string
	At   time.Time
}

// Clean reports whether the instance ended with exit status 0.
func (e Exit) Clean() bool { return e.Known && e.Signal == "" && e.Code == 0 }

// Reason is a sentence about the end of an instance, such as "exit status 1
// after 3.2s".
func (s Status) Reason() string {
	if s.Exit == nil {
		return ""
	}
	e := *s.Exit
	text := "ended, how is not known,"
	switch {
	case e.Signal != "":
		text = "was killed by signal " + e.Signal
	case e.Known:
		text = fmt.Sprintf("exit status %d", e.Code)
	}
	if life := e.At.Sub(s.StartedAt); !s.StartedAt.IsZero() && life >= 0 {
		text += " after " + roundLife(life).String()
	}
	if e.Note != "" {
		text += " (" + e.Note + ")"
	}
	return text
}

// roundLife keeps the digits a person reads.
func roundLife(d time.Duration) time.Duration {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond)
	case d < time.Minute:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Second)
}
