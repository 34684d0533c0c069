package main

import (
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/internal/demo"
)

func demoCommand() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show a failover, told and measured",
		Long: `Start three nodes as three processes on loopback, declare a group of the
sample application, drive real load at it, kill the leader with SIGKILL, and
show the next leader carry on. Everything printed was measured. The demo ends
by itself within 90 seconds, leaves nothing running, and fails if anything of
what it tells did not happen.`,
		Example: "  paceline demo",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer cancel()
			if o.Binary, err = os.Executable(); err != nil {
				return err
			}
			o.Out = cmd.OutOrStdout()
			return demo.Run(ctx, o)
		},
	}
	cmd.Flags().StringVar(&o.Dir, "dir", "", "directory for the nodes' data and logs, kept afterwards (default: a temporary one)")
	return cmd
}
