package node

import (
	"path/filepath"

	"github.com/pacelinehq/paceline/cluster"
)

// raftDir is the part of the data directory that belongs to the cluster.
func raftDir(dataDir string) string { return filepath.Join(dataDir, "raft") }

// Recover makes a stopped node the only voter of its cluster, after the
// quorum was lost for good. Without force it only reports.
func Recover(name, dataDir string, force bool) (cluster.RecoverReport, error) {
	return cluster.Recover(raftDir(dataDir), cluster.RecoverOptions{Name: name, DryRun: !force})
}
