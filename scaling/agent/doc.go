// Package agent makes real, on one node, what the replicated state says about
// that node: it launches the instances that were placed here, checks their
// health, measures them, ends them, and reports what happened.
//
// The state is the truth and changes only wake the agent. Each instance has one
// worker, which walks it through its life and is the only one that acts on it.
// See DESIGN.md beside this file for the flow and the guards against a second
// copy of an instance.
package agent
