package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
)

func recoverCommand() *cobra.Command {
	var name, dir string
	var force bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Make a cluster go on whose quorum is lost for good",
		Long: `Rewrite the Raft configuration in the data directory of a stopped node, so that
it goes on as the only voter. Writes that only the lost voters had are gone.

Run it without --force on every node that is left: it changes nothing and says
up to which index the node has the log. Then run it with --force on the one
with the highest index, start that node, and let the others join it with empty
data directories.`,
		Example: `  paceline recover --name n1 --data-dir /var/lib/paceline
  paceline recover --name n1 --data-dir /var/lib/paceline --force`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if name == "" || dir == "" {
				return fsm.Errorf(fsm.Invalid, "recovery", "", "needs --name and --data-dir of the stopped node")
			}
			report, err := node.Recover(name, dir, force)
			if err != nil {
				return err
			}
			if cmd.Flag("output").Value.String() == "json" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(report)
			}
			w := cmd.OutOrStdout()
			fmt.Fprintf(w, "node        %s of cluster %s\n", report.Name, report.ClusterID)
			fmt.Fprintf(w, "log         up to index %d of term %d, snapshot at %d\n", report.LastIndex, report.LastTerm, report.SnapshotIndex)
			fmt.Fprintf(w, "holds       %d groups, %d instances\n", report.Groups, report.Instances)
			fmt.Fprintf(w, "voters      %s\n", strings.Join(report.OldVoters, ", "))
			fmt.Fprintf(w, "new voters  %s\n\n%s\n", strings.Join(report.NewVoters, ", "), recoveryHint(report.DryRun))
			return nil
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the stopped node")
	cmd.Flags().StringVar(&dir, "data-dir", "", "its data directory")
	cmd.Flags().BoolVar(&force, "force", false, "do it; without this, only say what would be done")
	return cmd
}

func recoveryHint(dryRun bool) string {
	if dryRun {
		return "Nothing was changed. Compare the last index of all nodes that are left, and run\nthis with --force on the node with the highest one."
	}
	return "Done. Start this node; the others join it with empty data directories."
}
