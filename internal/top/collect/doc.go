// Package collect fetches the readings of package top: what the cluster knows
// from whichever node answers, and the metrics of every node from that node
// itself, at the same time. A node that does not answer is part of the reading
// and never holds it up for longer than the time that a reading may take.
//
// See DESIGN.md beside this file.
package collect
