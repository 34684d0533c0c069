package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
)

func clusterCommand(a *app) *cobra.Command {
	c := noun("cluster", "Leader, members, snapshots", clusterStatus(a), clusterTransfer(a))
	snapshot := noun("snapshot", "Save and restore the whole state", snapshotSave(a), snapshotRestore(a))
	snapshot.GroupID = ""
	c.AddCommand(snapshot)
	return c
}

func memberView(leader string) view[client.Member] {
	return view[client.Member]{
		name: func(m *client.Member) string { return m.Name },
		columns: []column[client.Member]{
			{title: "NODE", cell: func(m *client.Member) string { return m.Name }},
			{title: "ROLE", cell: func(m *client.Member) string {
				if m.Name == leader {
					return "leader"
				}
				return m.Role
			}},
			{title: "STATUS", cell: func(m *client.Member) string { return m.Status }},
			{title: "ZONE", cell: func(m *client.Member) string { return dash(m.Zone) }},
			{title: "API", cell: func(m *client.Member) string { return dash(m.API) }},
			{title: "CONTACT", cell: func(m *client.Member) string {
				return (time.Duration(m.LastContactMs) * time.Millisecond).String()
			}},
		},
	}
}

func clusterStatus(a *app) *cobra.Command {
	var again *bool
	cmd := a.verb("status", "Leader, members and how many may fail", "paceline cluster status\npaceline cluster status --watch", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			return watch(ctx, a, *again, c.Cluster, func(w io.Writer, st *client.ClusterStatus) error {
				switch a.output {
				case "json", "yaml", "jsonl":
					return a.encodeLine(w, st)
				case "name":
					_, err := fmt.Fprintln(w, st.Leader)
					return err
				}
				leader := st.Leader
				if leader == "" {
					leader = "none: no quorum of the nodes answers"
				}
				_, err := fmt.Fprintf(w, "cluster    %s\nleader     %s (term %d, index %d)\nquorum     %d of %d voters healthy, %d more may fail\n",
					dash(st.ID), leader, st.Term, st.Index, st.Quorum.Healthy, st.Quorum.Voters, st.Quorum.CanLose)
				if err != nil {
					return err
				}
				if st.Problem != "" {
					_, _ = fmt.Fprintf(w, "problem    %s\n", clean(st.Problem))
				}
				_, _ = fmt.Fprintln(w)
				return showTable(a, w, memberView(st.Leader), st.Members)
			})
		})
	again = watchFlag(cmd)
	return cmd
}

func clusterTransfer(a *app) *cobra.Command {
	cmd := a.verb("transfer-leadership [NODE]", "Hand leadership to another node", "paceline cluster transfer-leadership\npaceline cluster transfer-leadership n2",
		checked(cobra.MaximumNArgs(1)),
		func(ctx context.Context, c *client.Client, args []string) error {
			to := ""
			if len(args) > 0 {
				to = args[0]
			}
			done, err := c.TransferLeadership(ctx, to)
			if err != nil {
				return err
			}
			return a.said("%s", done.Message)
		})
	return a.live(cmd, nodeNames)
}

func snapshotSave(a *app) *cobra.Command {
	cmd := a.verb("save FILE", "Save the whole state to a file", "paceline cluster snapshot save paceline.snapshot", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.SaveSnapshot(ctx)
			if err != nil {
				return err
			}
			defer func() { _ = r.Close() }()
			if args[0] == "-" {
				_, err = io.Copy(a.Out, r)
				return err
			}
			n, err := writeWhole(args[0], r)
			if err != nil {
				return err
			}
			return a.said("%d bytes were saved to %s", n, args[0])
		})
	return cmd
}

// writeWhole makes a file that is whole or is not there.
func writeWhole(path string, r io.Reader) (n int64, err error) {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".part-*")
	if err != nil {
		return 0, usagef("%v", err)
	}
	n, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return 0, fmt.Errorf("the snapshot was not saved: %w", err)
	}
	return n, nil
}

func snapshotRestore(a *app) *cobra.Command {
	var yes bool
	cmd := a.verb("restore FILE", "Replace the whole state by a saved one", "paceline cluster snapshot restore paceline.snapshot --yes", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			if !yes {
				return &usageError{text: "this replaces everything that the cluster knows", hint: "say --yes if that is what you want"}
			}
			f, err := os.Open(args[0])
			if err != nil {
				return usagef("%v", err)
			}
			defer func() { _ = f.Close() }()
			done, err := c.RestoreSnapshot(ctx, f)
			if err != nil {
				return err
			}
			return a.said("%s", done.Message)
		})
	cmd.Flags().BoolVar(&yes, "yes", false, "replace everything that the cluster knows")
	return cmd
}
