package process

import (
	"log/slog"
	"path/filepath"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// The limits of the driver, and how patient it is.
const (
	// maxInstances is how many instances, running and ended, one node keeps.
	maxInstances = 10_000
	// maxRecord is the most bytes of a record file that are read.
	maxRecord = 1 << 20
	// maxExecOutput is how much of a health check's output is kept for the
	// error message.
	maxExecOutput = 512
	// killWait is how long a killed instance may take to be gone, which is
	// long only for a process in an uninterruptible system call.
	killWait = 10 * time.Second
	// sweepRounds bounds the search for processes that fork faster than they
	// are killed.
	sweepRounds = 8
	// statsFresh is how long one walk over /proc serves all instances.
	statsFresh = 500 * time.Millisecond
	// exitPoll is how often an exit is looked for where the kernel has no
	// pidfd.
	exitPoll = 200 * time.Millisecond
	// reapEvery is how often orphans are reaped where this process is the
	// first of its PID namespace.
	reapEvery = 5 * time.Second
)

// Config is the node-local configuration of the driver. It is never
// replicated: what a machine may run is decided on that machine.
type Config struct {
	// Dir holds a directory for each instance. It belongs to one driver.
	Dir string
	// Allow lists the executables that templates may name: absolute paths of
	// files, or of directories when they end in "/". Whoever can write to
	// them decides what runs.
	Allow []string

	// Host is the address on which instances listen; 127.0.0.1 by default.
	Host string
	// API is the base URL of this node's API, which instances find in
	// PACELINE_API; "" for none.
	API string
	// PortMin and PortMax are the ports that instances get, inclusive.
	PortMin, PortMax int

	// SelfPath and SelfArgs are what "@sample" runs: this executable with the
	// argument "sample" by default.
	SelfPath string
	SelfArgs []string

	// UID and GID run instances as another user; 0 keeps the node's own.
	UID, GID int
	// OpenFiles is the limit of open files of an instance; 0 keeps the node's.
	OpenFiles uint64

	// Cgroup is where limits are set: "" finds the node's own cgroup, "off"
	// sets none.
	Cgroup string
	// Node is what the machine offers; a template without a memory limit is
	// measured against it. 0 means what the machine has.
	Node fsm.Resources

	// LogBytes is the size at which a log is rotated, LogFiles how many
	// rotated files are kept, LogEvery how often the sizes are looked at.
	LogBytes int64
	LogFiles int
	LogEvery time.Duration

	Logger *slog.Logger
}

// withDefaults fills in what is not set.
func (c Config) withDefaults() Config {
	orString(&c.Host, "127.0.0.1")
	orInt(&c.PortMin, 20000)
	orInt(&c.PortMax, 29999)
	orInt(&c.LogFiles, 3)
	if c.SelfPath == "" && c.SelfArgs == nil {
		c.SelfArgs = []string{"sample"}
	}
	if c.LogBytes == 0 {
		c.LogBytes = 10 << 20
	}
	if c.LogEvery == 0 {
		c.LogEvery = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func orString(p *string, def string) {
	if *p == "" {
		*p = def
	}
}

func orInt(p *int, def int) {
	if *p == 0 {
		*p = def
	}
}

// check refuses a configuration that can not work.
func (c Config) check() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fsm.Errorf(fsm.Invalid, "driver", Name, "needs an absolute directory, not %q", c.Dir)
	case c.PortMin < 1 || c.PortMax > 65535 || c.PortMin > c.PortMax:
		return fsm.Errorf(fsm.Invalid, "driver", Name, "can not use the ports %d to %d", c.PortMin, c.PortMax).
			WithHint("give a range within 1 and 65535")
	case c.LogBytes < 0 || c.LogFiles < 0 || c.LogEvery < 0:
		return fsm.Errorf(fsm.Invalid, "driver", Name, "has a negative log limit")
	}
	return nil
}
