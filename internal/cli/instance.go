package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func instanceView(a *app) view[fsm.Instance] {
	return view[fsm.Instance]{
		name: func(i *fsm.Instance) string { return i.ID },
		columns: []column[fsm.Instance]{
			{title: "INSTANCE", cell: func(i *fsm.Instance) string { return i.ID }},
			{title: "GROUP", cell: func(i *fsm.Instance) string { return i.Group }},
			{title: "NODE", cell: func(i *fsm.Instance) string { return i.Node }},
			{title: "ZONE", wide: true, cell: func(i *fsm.Instance) string { return dash(i.Zone) }},
			{title: "STATE", cell: func(i *fsm.Instance) string { return string(i.State) }},
			{title: "HEALTH", cell: func(i *fsm.Instance) string { return cmp.Or(i.HealthReason, string(i.Health)) }},
			{title: "TEMPLATE", wide: true, cell: func(i *fsm.Instance) string { return fmt.Sprintf("%s v%d", i.Template, i.Version) }},
			{title: "ADDRESS", cell: func(i *fsm.Instance) string { return dash(i.Address) }},
			{title: "PID", wide: true, cell: func(i *fsm.Instance) string { return strconv.Itoa(i.PID) }},
			{title: "SINCE", cell: func(i *fsm.Instance) string { return a.age(i.Since) }},
			{title: "REASON", cell: func(i *fsm.Instance) string { return i.Reason }},
		},
	}
}

func instanceCommand(a *app) *cobra.Command {
	return noun("instance", "One running copy on one node", instanceList(a), instanceGet(a), instanceStop(a), instanceLogs(a), instanceHeartbeat(a))
}

func instanceList(a *app) *cobra.Command {
	var p pageFlags
	var again *bool
	filters := map[string]*string{}
	cmd := a.verb("list", "List the instances", "paceline instance list\npaceline instance list --group web --state running -o wide", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			read := pages(&p, func(ctx context.Context, opts ...client.Option) (*client.List[fsm.Instance], error) {
				for name, v := range filters {
					opts = append(opts, client.WithFilter(name, *v))
				}
				return c.ListInstances(ctx, opts...)
			})
			return listing(ctx, a, *again, instanceView(a), read)
		})
	p.add(cmd)
	for _, name := range []string{"group", "node", "zone", "template", "state", "health"} {
		filters[name] = cmd.Flags().String(name, "", "only instances of this "+name)
	}
	again = watchFlag(cmd)
	return cmd
}

func instanceGet(a *app) *cobra.Command {
	cmd := a.verb("get ID", "Show an instance", "paceline instance get 01J8… -o yaml", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			i, err := c.GetInstance(ctx, args[0])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, instanceView(a), i)
		})
	return a.live(cmd, instanceIDs)
}

func instanceStop(a *app) *cobra.Command {
	var reason string
	var wait *string
	cmd := a.verb("stop ID", "Drain an instance, then end it; its group launches another",
		"paceline instance stop 01J8… --reason 'leaks memory' --wait", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			var meta client.Meta
			i, err := c.StopInstance(ctx, args[0], client.WithReason(reason), client.Capture(&meta))
			if err != nil {
				return err
			}
			span, err := waitTime(*wait)
			if err != nil {
				return err
			}
			if span > 0 {
				read := func(ctx context.Context, opts ...client.Option) (*fsm.Instance, error) {
					return c.GetInstance(ctx, args[0], opts...)
				}
				err := await(ctx, a, span, meta.Index, read, func(now *fsm.Instance) bool { i = now; return now.State.Terminal() },
					func(i *fsm.Instance) string { return fmt.Sprintf("instance %s is %s", i.ID, i.State) })
				if err != nil && client.CodeOf(err) != fsm.NotFound { // it may be forgotten already
					return err
				}
			}
			return showOne(a, a.Out, instanceView(a), i)
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why; shown in the group's activities")
	wait = waitFlag(cmd, "the instance has ended")
	return a.live(cmd, instanceIDs)
}

func instanceHeartbeat(a *app) *cobra.Command {
	var failure string
	cmd := a.verb("heartbeat ID", "Say for an instance with a ttl check that it can serve, or not",
		"paceline instance heartbeat $PACELINE_INSTANCE --endpoints $PACELINE_API\n"+
			"paceline instance heartbeat 01J8… --fail 'the queue is stuck'", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			beat := client.Heartbeat{Status: client.HeartbeatPass}
			if failure != "" {
				beat = client.Heartbeat{Status: client.HeartbeatFail, Output: failure}
			}
			taken, err := c.SendHeartbeat(ctx, args[0], beat)
			if err != nil {
				return err
			}
			return a.said("instance %s: taken; the next one is due within %s", args[0], taken.TTL)
		})
	cmd.Flags().StringVar(&failure, "fail", "", "that it can not serve, and why")
	return a.live(cmd, instanceIDs)
}

func instanceLogs(a *app) *cobra.Command {
	var o client.LogOptions
	cmd := a.verb("logs ID", "Read an instance's output", "paceline instance logs 01J8… --tail 20\npaceline instance logs 01J8… -f", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.InstanceLogs(ctx, args[0], o)
			if err != nil {
				return err
			}
			defer func() { _ = r.Close() }()
			_, err = io.Copy(a.Out, r)
			if ctx.Err() != nil {
				return nil
			}
			return err
		})
	cmd.Flags().IntVar(&o.Tail, "tail", 0, "the number of last lines; 100 by default")
	cmd.Flags().BoolVarP(&o.Follow, "follow", "f", false, "go on while the instance lives")
	return a.live(cmd, instanceIDs)
}
