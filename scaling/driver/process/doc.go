// Package process is the driver that runs instances as processes of the
// machine.
//
// A process gets a session of its own, a minimal environment, a port and a log
// file which it writes by itself, so that it needs nothing of the node: the
// node may die and come back, and adopts it. What was started is written to
// disk before it starts, so that no instance ever runs twice. Only executables
// on the node's own allow-list run, without a shell.
//
// See DESIGN.md beside this file for the invariants and the rejected ideas.
package process

// Name is what templates call this driver.
const Name = "process"
