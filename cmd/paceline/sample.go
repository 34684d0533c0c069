package main

import (
	"os"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/internal/sample"
)

func sampleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "sample",
		Short: "Run the sample application, which templates name @sample",
		Long: `Run the sample application: an HTTP server on $PORT with /healthz, /work?ms=,
/sleep?ms=, /whoami and /metrics. Nodes run it for templates whose command is
"@sample"; run it by hand to look at it.`,
		Example: "  PORT=8080 paceline sample",
		RunE: func(cmd *cobra.Command, args []string) error {
			if code := sample.Main(cmd.Context(), args, os.Getenv, cmd.OutOrStdout()); code != 0 {
				os.Exit(code)
			}
			return nil
		},
	}
}
