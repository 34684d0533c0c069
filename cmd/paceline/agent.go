package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/internal/node"
)

// stopTimeout bounds an orderly end; after it the process just ends, which is
// safe as well.
const stopTimeout = 20 * time.Second

func agentCommand(version string) *cobra.Command {
	cfg := node.Config{Version: version}
	var file string
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run a node",
		Long: `Run a node of the cluster until SIGTERM or SIGINT.

Every node of a cluster gets the same --bootstrap-expect and --join; there is
no special first one. Stopping is not leaving: a node that stops hands
leadership over, leaves its instances running, and finds them again when it
comes back. "paceline node leave" removes it for good.

Each flag can also be set by an environment variable (--data-dir is
PACELINE_DATA_DIR) or by a key of the same name in the YAML file of --config.
The command line wins over the environment, the environment over the file.
SIGHUP reads the token file again.`,
		Example: `  # three nodes on one machine, in three terminals
  paceline agent --name n1 --data-dir d1 --bootstrap-expect 3 --join 127.0.0.1:7702,127.0.0.1:7712,127.0.0.1:7722
  paceline agent --name n2 --data-dir d2 --api-addr 127.0.0.1:7710 --peer-addr 127.0.0.1:7711 --gossip-addr 127.0.0.1:7712 \
      --bootstrap-expect 3 --join 127.0.0.1:7702,127.0.0.1:7712,127.0.0.1:7722
  paceline agent --config /etc/paceline/agent.yaml`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file = os.Getenv(node.EnvName("config"))
			}
			if _, err := node.Resolve(cmd.Flags(), os.LookupEnv, file); err != nil {
				return err
			}
			return runAgent(cmd.Context(), cfg)
		},
	}
	cfg.Flags(cmd.Flags())
	cmd.Flags().StringVar(&file, "config", "", "YAML file with the same keys as the flags")
	return cmd
}

// runAgent runs one node until a signal, ctx or a failure ends it.
func runAgent(ctx context.Context, cfg node.Config) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGTERM, os.Interrupt)
	defer cancel()
	n, err := node.New(cfg, node.Environment{})
	if err != nil {
		return err
	}
	go tuneGC(ctx)
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	if err := n.Start(ctx); err != nil {
		return err
	}
	notify("READY=1")
	for {
		select {
		case <-hup:
			if err := n.Reload(); err != nil {
				fmt.Fprintln(os.Stderr, "paceline: the tokens were not read again, the old ones stay:", err)
			}
		case err := <-n.Failed():
			return withStop(n, err)
		case <-ctx.Done():
			cancel() // a second signal ends the process at once
			notify("STOPPING=1")
			return withStop(n, nil)
		}
	}
}

// withStop ends the node in order and returns the first error.
func withStop(n *node.Node, err error) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if stopErr := n.Stop(ctx); err == nil {
		err = stopErr
	}
	return err
}
