// Package top turns what the nodes tell of their traffic into a table of rates:
// readings of counters, two of them apart, become requests a second, latencies
// and states, for each service and each of its instances.
//
// The package is pure: it reads no clock and asks nobody. Package collect
// fetches the readings, package screen shows the table on a terminal.
//
// See DESIGN.md beside this file.
package top
