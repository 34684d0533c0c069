package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func nodeView(a *app) view[fsm.Node] {
	return view[fsm.Node]{
		name: func(n *fsm.Node) string { return n.Name },
		columns: []column[fsm.Node]{
			{title: "NODE", cell: func(n *fsm.Node) string { return n.Name }},
			{title: "ZONE", cell: func(n *fsm.Node) string { return dash(n.Zone) }},
			{title: "STATE", cell: func(n *fsm.Node) string { return string(n.State) }},
			{title: "API", cell: func(n *fsm.Node) string { return dash(n.API) }},
			{title: "CPU", cell: func(n *fsm.Node) string { return limit(n.Resources.CPU, "") }},
			{title: "MEMORY", cell: func(n *fsm.Node) string { return limit(float64(n.Resources.MemoryMiB), "MiB") }},
			{title: "DRIVERS", wide: true, cell: func(n *fsm.Node) string { return dash(strings.Join(n.Drivers, ",")) }},
			{title: "VERSION", wide: true, cell: func(n *fsm.Node) string { return dash(n.Version) }},
			{title: "SINCE", cell: func(n *fsm.Node) string { return a.age(n.Since) }},
			{title: "REASON", cell: func(n *fsm.Node) string { return n.Reason }},
		},
	}
}

func nodeCommand(a *app) *cobra.Command {
	return noun("node", "One machine of the fleet", nodeList(a), nodeGet(a), nodeDrain(a), nodeUndrain(a), nodeRemove(a), nodeLeave(a))
}

func nodeList(a *app) *cobra.Command {
	var p pageFlags
	var again *bool
	cmd := a.verb("list", "List the nodes", "paceline node list -o wide", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			return listing(ctx, a, *again, nodeView(a), pages(&p, c.ListNodes))
		})
	p.add(cmd)
	again = watchFlag(cmd)
	return cmd
}

func nodeGet(a *app) *cobra.Command {
	cmd := a.verb("get NAME", "Show a node", "paceline node get n1 -o yaml", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := c.GetNode(ctx, args[0])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, nodeView(a), n)
		})
	return a.live(cmd, nodeNames)
}

func nodeDrain(a *app) *cobra.Command {
	var reason string
	var wait *string
	cmd := a.verb("drain NAME", "Move a node's instances elsewhere and place none there", "paceline node drain n1 --reason 'new kernel' --wait", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			var meta client.Meta
			n, err := c.DrainNode(ctx, args[0], client.DrainRequest{Reason: reason}, client.Capture(&meta))
			if err != nil {
				return err
			}
			if err := a.awaitEmpty(ctx, c, args[0], *wait, meta.Index); err != nil {
				return err
			}
			return showOne(a, a.Out, nodeView(a), n)
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why")
	wait = waitFlag(cmd, "no instance lives on the node")
	return a.live(cmd, nodeNames)
}

// awaitEmpty waits until nothing lives on a node.
func (a *app) awaitEmpty(ctx context.Context, c *client.Client, node, wait string, index uint64) error {
	span, err := waitTime(wait)
	if err != nil || span == 0 {
		return err
	}
	read := func(ctx context.Context, opts ...client.Option) (*client.List[fsm.Instance], error) {
		return c.ListInstances(ctx, append(opts, client.WithFilter("node", node), client.WithLimit(maxPage))...)
	}
	living := func(l *client.List[fsm.Instance]) (n int) {
		for _, i := range l.Items {
			if !i.State.Terminal() {
				n++
			}
		}
		return n
	}
	return await(ctx, a, span, index, read,
		func(l *client.List[fsm.Instance]) bool { return living(l) == 0 && l.Next == "" },
		func(l *client.List[fsm.Instance]) string {
			return fmt.Sprintf("%d instances still live on node %s", living(l), node)
		})
}

func nodeUndrain(a *app) *cobra.Command {
	cmd := a.verb("undrain NAME", "Let a node take instances again", "paceline node undrain n1", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := c.UndrainNode(ctx, args[0])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, nodeView(a), n)
		})
	return a.live(cmd, nodeNames)
}

func nodeRemove(a *app) *cobra.Command {
	var wait *string
	cmd := a.verb("remove NAME", "Forget a node that is gone for good", "paceline node remove n3", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			var meta client.Meta
			if err := c.RemoveNode(ctx, args[0], client.Capture(&meta)); err != nil {
				return err
			}
			read := func(ctx context.Context, opts ...client.Option) (*fsm.Node, error) {
				return c.GetNode(ctx, args[0], opts...)
			}
			if err := awaitGone(ctx, a, *wait, "node "+args[0], meta.Index, read); err != nil {
				return err
			}
			return a.said("node %s was removed", args[0])
		})
	wait = waitFlag(cmd, "the node is gone from the state")
	return a.live(cmd, nodeNames)
}

// nodeLeave asks the node itself, at the address that the cluster knows: it
// has to hand over what it holds.
func nodeLeave(a *app) *cobra.Command {
	cmd := a.verb("leave NAME", "Make a running node hand over and leave the cluster", "paceline node leave n3", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			n, err := c.GetNode(ctx, args[0])
			if err != nil {
				return err
			}
			at := *a
			if n.API != "" {
				at.endpoints = []string{n.API}
			}
			direct, err := at.client()
			if err != nil {
				return err
			}
			defer direct.Close()
			if err := direct.LeaveNode(ctx, args[0]); err != nil {
				return err
			}
			return a.said("node %s has left the cluster", args[0])
		})
	return a.live(cmd, nodeNames)
}
