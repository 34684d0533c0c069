// Package driver says what it takes to run instances on one node.
//
// A [Driver] makes instances real: processes, containers, machines. The node's
// agent (scaling/agent) is its only caller. The package holds the contract and
// its data; scaling/driver/process and its siblings implement it, and
// scaling/driver/drivertest is the suite that each of them passes.
//
// Every action carries the leader's term that ordered it and an intent id,
// which is the instance's id: a driver refuses a term older than one it has
// seen for the instance, and runs an instance at most once, for ever.
package driver

import (
	"context"
	"regexp"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Driver runs instances on this node. All methods are safe for concurrent
// use, and name instances by their id. Errors are [fsm.Error] values.
type Driver interface {
	// Name is what templates call the driver.
	Name() string

	// Start runs an instance, once: a repeated Start of a running instance
	// returns its status, one of an ended instance is a Conflict. When it
	// returns an error, nothing of the instance is left running.
	Start(ctx context.Context, s Spec) (Status, error)

	// Stop ends an instance and all that it started, and returns when it has
	// ended. Stopping an ended instance returns its status. When ctx ends
	// first the instance has its signal but may still run.
	Stop(ctx context.Context, id string, s StopSpec) (Status, error)

	// Wait returns the status of an instance once it has ended.
	Wait(ctx context.Context, id string) (Status, error)

	// List returns every instance that the driver knows: those that run, also
	// when an earlier process of this node started them, and those that have
	// ended and were not removed.
	List(ctx context.Context) ([]Status, error)

	// Stats says what a running instance uses.
	Stats(ctx context.Context, id string) (Usage, error)

	// Logs reads what an instance has written.
	Logs(ctx context.Context, id string, q LogQuery) (LogChunk, error)

	// Exec runs a command beside or inside a running instance, for a health
	// check, and fails when its exit status is not 0.
	Exec(ctx context.Context, id string, argv []string) error

	// Remove forgets an ended instance with its logs.
	Remove(ctx context.Context, id string) error

	// Close lets go of the instances, which run on, and of the driver's own
	// goroutines and files.
	Close() error
}

// Spec is one instance to run.
type Spec struct {
	// ID is the instance's id, and the intent of the Start.
	ID    string
	Group string
	Node  string
	Zone  string
	// Term is the leader's term that placed the instance.
	Term uint64

	Command     string
	Args        []string
	Image       string
	Environment map[string]string
	UserData    string
	Resources   fsm.Resources
	// Port is the fixed port of the template; 0 lets the driver choose.
	Port int
}

// SpecOf returns what is needed to run an instance of a template.
func SpecOf(i *fsm.Instance, t *fsm.Template) Spec {
	s := Spec{
		ID: i.ID, Group: i.Group, Node: i.Node, Zone: i.Zone, Term: i.Term,
		Command: t.Command, Args: t.Args, Image: t.Image,
		Environment: t.Environment, UserData: t.UserData, Resources: t.Resources,
	}
	if t.Networking != nil {
		s.Port = t.Networking.Port
	}
	return s
}

// StopSpec says how to end an instance.
type StopSpec struct {
	// Term is the leader's term in the state that asks for the end.
	Term uint64
	// Signal is sent first: "TERM", "INT", "QUIT", "HUP" or "KILL".
	Signal string
	// Timeout is the time between Signal and KILL.
	Timeout time.Duration
}

// Phase is whether an instance runs.
type Phase string

// The phases of an instance, as its driver sees it.
const (
	// Running instances have a live process or container.
	Running Phase = "running"
	// Ended instances are over; they are not started again.
	Ended Phase = "ended"
)

// Status is what a driver knows of one instance.
type Status struct {
	ID    string
	Group string
	Term  uint64
	Phase Phase
	PID   int
	// Address is "host:port", where the instance was told to listen.
	Address   string
	StartedAt time.Time
	// Adopted says that an earlier process of this node started it.
	Adopted bool
	// Limits says how CPU and memory are limited: "cgroup v2", "none asked
	// for", or "none: " and why not.
	Limits string
	// Exit is set when Phase is Ended.
	Exit *Exit
}

// Usage is what an instance uses at the moment.
type Usage struct {
	// CPUPercent is relative to the cores of the template, or to one core when
	// the template names none. It is valid when HasCPU is set: a rate needs
	// two looks.
	CPUPercent float64
	HasCPU     bool
	// MemoryPercent is relative to the memory of the template, or to the
	// node's memory when the template names none.
	MemoryPercent float64
	RSSBytes      int64
	// Processes is how many processes the instance consists of.
	Processes int
}

// LogQuery selects a part of an instance's log.
type LogQuery struct {
	// Offset is the first byte wanted, counted from the instance's first
	// output; a negative one asks for the end of the log.
	Offset int64
	// TailLines is how many of the last lines are wanted when Offset is
	// negative; 0 means as many as Limit allows.
	TailLines int
	// Limit is the most bytes to return; 0 means the driver's own limit.
	Limit int
}

// LogChunk is a part of an instance's log.
type LogChunk struct {
	Data []byte
	// Offset is where Data begins. It is greater than the one asked for when
	// rotation has dropped that part.
	Offset int64
	// Next is the offset to go on from.
	Next int64
}

var idPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// CheckID refuses an instance id that could not be a file name of its own.
func CheckID(id string) error {
	if !idPattern.MatchString(id) {
		return fsm.Errorf(fsm.Invalid, "instance", id, "is not an instance id: letters, digits, - and _, at most 64")
	}
	return nil
}

// Unknown is the error for an instance that a driver does not have.
func Unknown(id string) *fsm.Error {
	return fsm.Errorf(fsm.NotFound, "instance", id, "is not on this node")
}

// Fence refuses an action that carries an older term than one seen before for
// the same instance: a deposed leader ordered it.
func Fence(id string, term, seen uint64) error {
	if term < seen {
		return fsm.Errorf(fsm.Conflict, "instance", id, "was ordered about by term %d already; this order is of term %d", seen, term).
			WithHint("the order comes from a leader that has been replaced; nothing was done")
	}
	return nil
}

// Find returns one instance of a driver's list.
func Find(ctx context.Context, d Driver, id string) (Status, bool, error) {
	list, err := d.List(ctx)
	if err != nil {
		return Status{}, false, err
	}
	for _, s := range list {
		if s.ID == id {
			return s, true, nil
		}
	}
	return Status{}, false, nil
}
