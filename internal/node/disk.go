package node

import (
	"fmt"

	"github.com/shirou/gopsutil/v4/disk"
)

// minFree is the space below which a node says that its disk is full: what the
// log's file grows by in one step.
const minFree = 16 << 20

// fullDisk says that the data directory has no space left, "" when it has. A
// follower whose disk is full still hears the leader, so nothing else shows it.
func (n *Node) fullDisk() string {
	if n.env.Storage != nil {
		return "" // the data is not on this machine's disk
	}
	u, err := disk.Usage(n.cfg.DataDir)
	if err != nil || u.Free >= minFree {
		return ""
	}
	return fmt.Sprintf("the disk is full: %d MiB of space are left for %s, at least %d are needed", u.Free>>20, n.cfg.DataDir, minFree>>20)
}
