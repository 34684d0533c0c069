package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/node"
)

const (
	maxDevNodes   = 8 // the API of a ninth would stand at the first one's traffic address
	devBasePort   = 7700
	devPortStride = 10
	devTraffic    = 7780
	devDNS        = "127.0.0.1:7753"
	devReady      = 15 * time.Second
)

type devOptions struct {
	nodes   int
	dataDir string
	version string
	allow   []string
	verbose bool
}

func devCommand(version string) *cobra.Command {
	o := devOptions{version: version}
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole local cluster in this process",
		Long: `Run a whole cluster in this process, to play with: the APIs are at
127.0.0.1:7700, 7710, 7720 and so on, the proxies at 7780, 7781, 7782, DNS at 7753. Ctrl-C ends it with all its instances.
Without --data-dir everything is forgotten at the end.`,
		Example: `  paceline dev
  paceline dev --nodes 5 --data-dir ./dev-data
  paceline dev --allow /usr/bin/python3`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.nodes < 1 || o.nodes > maxDevNodes {
				return fsm.Errorf(fsm.Invalid, "number of nodes", "", "--nodes must be between 1 and %d", maxDevNodes)
			}
			ctx, cancel := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, os.Interrupt)
			defer cancel()
			return runDev(ctx, o, cmd.OutOrStdout())
		},
	}
	cmd.Flags().IntVar(&o.nodes, "nodes", 3, "number of nodes")
	cmd.Flags().StringVar(&o.dataDir, "data-dir", "", "directory to keep the data in (default: a temporary one)")
	cmd.Flags().StringSliceVar(&o.allow, "allow", nil, "executable that templates may run; repeatable")
	cmd.Flags().BoolVarP(&o.verbose, "verbose", "v", false, "show the nodes' logs, not only their warnings")
	return cmd
}

func runDev(ctx context.Context, o devOptions, out io.Writer) (err error) {
	dir := o.dataDir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "paceline-dev-"); err != nil {
			return err
		}
		defer os.RemoveAll(dir) //nolint:errcheck // a temporary directory
	}
	began := time.Now()
	nodes, err := startDev(ctx, o, dir)
	defer func() { err = errors.Join(err, stopDev(nodes)) }()
	if err != nil {
		return err
	}
	leader, err := awaitLeader(ctx, nodes)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d nodes, %s leads, ready after %s\n\n", o.nodes, leader, time.Since(began).Round(time.Millisecond))
	fmt.Fprint(out, devHints(nodes[0].API()))
	select {
	case err := <-anyFailure(ctx, nodes):
		return err
	case <-ctx.Done():
		fmt.Fprintln(out, "\nending the cluster and its instances …")
		return nil
	}
}

// anyFailure yields the first failure of a node.
func anyFailure(ctx context.Context, nodes []*node.Node) <-chan error {
	failed := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() {
			select {
			case err := <-n.Failed():
				if err != nil { // a node that left leaves the others alone
					failed <- err
				}
			case <-ctx.Done():
			}
		}()
	}
	return failed
}

func startDev(ctx context.Context, o devOptions, dir string) ([]*node.Node, error) {
	level := slog.LevelWarn
	if o.verbose {
		level = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	addr := func(i, k int) string { return fmt.Sprintf("127.0.0.1:%d", devBasePort+i*devPortStride+k) }
	var joins []string
	for i := range o.nodes {
		joins = append(joins, addr(i, 2))
	}
	var nodes []*node.Node
	for i := range o.nodes {
		cfg := node.Config{
			Name: fmt.Sprintf("n%d", i+1), Zone: string(rune('a' + i%3)),
			DataDir: filepath.Join(dir, fmt.Sprintf("n%d", i+1)),
			APIAddr: addr(i, 0), PeerAddr: addr(i, 1), GossipAddr: addr(i, 2),
			TrafficAddr:     fmt.Sprintf("127.0.0.1:%d", devTraffic+i),
			BootstrapExpect: min(o.nodes, 5), Join: joins, Allow: o.allow,
			InstancePorts: fmt.Sprintf("%d-%d", 20000+i*1000, 20999+i*1000),
			EndInstances:  true, Logger: log, Version: o.version,
		}
		if i == 0 {
			cfg.DNSAddr = devDNS
		}
		n, err := node.New(cfg.WithDefaults(), node.Environment{})
		if err != nil {
			return nodes, err
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		if err := n.Start(ctx); err != nil {
			return nodes, err
		}
	}
	return nodes, nil
}

// stopDev ends the nodes, the leader last: each hand-over would only make
// work.
func stopDev(nodes []*node.Node) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var problems []error
	errs := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() { errs <- n.Stop(ctx) }()
	}
	for range nodes {
		problems = append(problems, <-errs)
	}
	return errors.Join(problems...)
}

func awaitLeader(ctx context.Context, nodes []*node.Node) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, devReady)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		name, _, ok := nodes[0].Cluster().Leader()
		if ok && nodes[0].Cluster().State().Nodes.Len() == len(nodes) {
			return name, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "", fmt.Errorf("no leader within %s; see the log above", devReady)
		}
	}
}

func devHints(api string) string {
	lines := []string{
		"try, in another terminal:",
		"  paceline template put web --command @sample --cpu 0.2 --memory 64 --check-http /healthz",
		"  paceline group create web --template web --min 2 --max 6 --route --wait",
		"  paceline group status web",
		fmt.Sprintf("  curl http://127.0.0.1:%d/whoami   # through a proxy, to any of them", devTraffic),
		"  paceline top",
		"  paceline policy put web busy --metric cpu --operator greater --threshold 60 --direction up --adjustment 1",
		"  paceline events -f",
		"",
		"the API is at http://" + api + " and on every other node; Ctrl-C ends it all",
		"",
	}
	return strings.Join(lines, "\n")
}
