// Command paceline is the one binary of the product: the node, the command
// line, and the sample application.
package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/internal/cli"
	"github.com/pacelinehq/paceline/internal/sample"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx := context.Background()
	// Nodes start many samples: they skip the making of the command tree.
	if len(args) > 0 && args[0] == "sample" && os.Getenv("PACELINE_INSTANCE") != "" {
		return sample.Main(ctx, args[1:], os.Getenv, os.Stdout)
	}
	root := cli.New(cli.Options{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Version: version})
	root.AddGroup(&cobra.Group{ID: groupRun, Title: "Running nodes:"})
	for _, c := range []*cobra.Command{
		agentCommand(version), devCommand(version), demoCommand(), recoverCommand(), sampleCommand(),
	} {
		c.GroupID = groupRun
		root.AddCommand(c)
	}
	return cli.Run(ctx, root, args)
}

const groupRun = "run"
