//go:build linux

package process

import "github.com/pacelinehq/paceline/fsm"

// PollExit is how exits are noticed where the kernel has no pidfd.
var PollExit = pollExit

// CgroupDirs finds a process's own groups.
var CgroupDirs = cgroupDirs

// ReapRound is one round of the reaper of orphans.
func (d *Driver) ReapRound(last map[int]uint64) map[int]uint64 { return d.reapRound(last) }

// LimitUnified makes the group of an instance below a group of version 2.
func LimitUnified(base, id string, r fsm.Resources) ([]string, string) {
	return findCgroups(base).create(id, r)
}

// StatFields reads the state, parent and start from a line of /proc/<pid>/stat.
func StatFields(line string) (state byte, ppid int, start uint64, err error) {
	p, err := parseStat(1, []byte(line))
	return p.state, p.ppid, p.start, err
}
