// Package screen shows the table of package top on a terminal, again with each
// reading, and lets the user sort, filter, fold and pause it.
//
// See DESIGN.md beside this file.
package screen
