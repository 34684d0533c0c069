package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func groupView(a *app) view[fsm.Group] {
	number := func(pick func(*fsm.Group) int) func(*fsm.Group) string {
		return func(g *fsm.Group) string { return strconv.Itoa(pick(g)) }
	}
	return view[fsm.Group]{
		name: func(g *fsm.Group) string { return g.Name },
		columns: []column[fsm.Group]{
			{title: "NAME", cell: func(g *fsm.Group) string { return g.Name }},
			{title: "TEMPLATE", cell: func(g *fsm.Group) string { return fmt.Sprintf("%s v%d", g.Template, g.Version) }},
			{title: "DESIRED", cell: number(func(g *fsm.Group) int { return g.Desired })},
			{title: "MIN", cell: number(func(g *fsm.Group) int { return g.MinSize })},
			{title: "MAX", cell: number(func(g *fsm.Group) int { return g.MaxSize })},
			{title: "ROUTES", cell: func(g *fsm.Group) string { return dash(routes(g.Service)) }},
			{title: "BALANCER", wide: true, cell: func(g *fsm.Group) string { return dash(manner(g.Service)) }},
			{title: "ZONES", wide: true, cell: func(g *fsm.Group) string { return dash(strings.Join(g.Zones, ",")) }},
			{title: "SCALED", cell: func(g *fsm.Group) string { return a.age(g.LastScaledAt) }},
			{title: "AGE", cell: func(g *fsm.Group) string { return a.age(g.CreatedAt) }},
			{title: "REVISION", wide: true, cell: func(g *fsm.Group) string { return strconv.FormatUint(g.Revision, 10) }},
		},
	}
}

func groupCommand(a *app) *cobra.Command {
	return noun("group", "Instances of a template, kept at a size",
		groupStatus(a), groupCreate(a), groupUpdate(a), groupGet(a), groupList(a), groupDelete(a), groupScale(a),
		groupDecisions(a), groupActivities(a), groupWatch(a))
}

func groupPath(name string) string { return "/v1/groups/" + url.PathEscape(name) }

// groupFields are the flags of create and update.
func groupFields(cmd *cobra.Command) *fields {
	f := &fields{}
	f.text(cmd, "template", "template", "the template that its instances are of")
	f.integer(cmd, "version", "version", "version of the template; the current one by default")
	f.integer(cmd, "min", "minSize", "least number of instances")
	f.integer(cmd, "max", "maxSize", "greatest number of instances")
	f.integer(cmd, "desired", "desired", "number of instances now")
	f.list(cmd, "zone", "zones", "a zone to place instances in; may be repeated")
	f.pairs(cmd, "label", "labels", "label")
	serviceFields(cmd, f)
	_ = cmd.RegisterFlagCompletionFunc("template", cobra.NoFileCompletions)
	return f
}

func groupCreate(a *app) *cobra.Command {
	var file string
	var w writeFlags
	var wait *string
	var f *fields
	var cmd *cobra.Command
	cmd = a.verb("create [NAME]", "Create a group, or replace one as a whole",
		"paceline group create web --template web --min 2 --max 6 --wait\n"+
			"paceline group create web --template web --min 2 --max 6 --route --host shop.example.org --sticky sticky\n"+
			"paceline group create -f web-group.yaml --create-only",
		checked(cobra.MaximumNArgs(1)),
		func(ctx context.Context, c *client.Client, args []string) error {
			d, err := a.readDocument(file)
			if err != nil {
				return err
			}
			if err := f.fill(cmd, d); err != nil {
				return err
			}
			name, err := d.named(args, 0, "name")
			if err != nil {
				return err
			}
			if min, ok := d["minSize"]; ok && d["desired"] == nil {
				d.set("desired", min)
			}
			g, index, err := submit[fsm.Group](ctx, c, http.MethodPut, groupPath(name), d, w.options()...)
			if err != nil {
				return err
			}
			return a.settled(ctx, c, g, *wait, index)
		})
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML or JSON file, - for standard input; flags win over it")
	f = groupFields(cmd)
	w.addCreate(cmd)
	wait = waitFlag(cmd, "every instance is healthy")
	return a.live(cmd, groupNames)
}

// settled waits for a group, when asked to, and shows it.
func (a *app) settled(ctx context.Context, c *client.Client, g *fsm.Group, wait string, index uint64) error {
	if err := a.awaitGroup(ctx, c, g.Name, wait, index); err != nil {
		return err
	}
	return showOne(a, a.Out, groupView(a), g)
}

func groupUpdate(a *app) *cobra.Command {
	var file string
	var w writeFlags
	var wait *string
	var f *fields
	var cmd *cobra.Command
	cmd = a.verb("update NAME", "Change some fields of a group",
		"paceline group update web --max 10\npaceline group update web --template web --wait   # move to the template's current version\n"+
			"paceline group update web --balancer least_requests", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			if file == "" && !f.given(cmd) {
				return &usageError{text: "nothing to change was given", hint: "see: paceline group update --help"}
			}
			d, err := a.readDocument(file)
			if err != nil {
				return err
			}
			if err := f.fill(cmd, d); err != nil {
				return err
			}
			g, index, err := submit[fsm.Group](ctx, c, http.MethodPatch, groupPath(args[0]), d, w.options()...)
			if err != nil {
				return err
			}
			return a.settled(ctx, c, g, *wait, index)
		})
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML or JSON merge patch, - for standard input; flags win over it")
	f = groupFields(cmd)
	w.add(cmd)
	wait = waitFlag(cmd, "every instance is healthy")
	return a.live(cmd, groupNames)
}

func groupGet(a *app) *cobra.Command {
	cmd := a.verb("get NAME", "Show a group", "paceline group get web -o yaml", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.GetGroup(ctx, args[0])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, groupView(a), g)
		})
	return a.live(cmd, groupNames)
}

func groupList(a *app) *cobra.Command {
	var p pageFlags
	var template string
	var again *bool
	cmd := a.verb("list", "List the groups", "paceline group list\npaceline group list --template web -o wide", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			read := pages(&p, func(ctx context.Context, opts ...client.Option) (*client.List[fsm.Group], error) {
				return c.ListGroups(ctx, append(opts, client.WithFilter("template", template))...)
			})
			return listing(ctx, a, *again, groupView(a), read)
		})
	p.add(cmd)
	cmd.Flags().StringVar(&template, "template", "", "only groups of this template")
	again = watchFlag(cmd)
	return cmd
}

func groupDelete(a *app) *cobra.Command {
	var w writeFlags
	var wait *string
	cmd := a.verb("delete NAME", "Drain a group's instances, then remove it", "paceline group delete web --wait", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			var meta client.Meta
			if _, err := c.DeleteGroup(ctx, args[0], append(w.options(), client.Capture(&meta))...); err != nil {
				return err
			}
			read := func(ctx context.Context, opts ...client.Option) (*fsm.Group, error) {
				return c.GetGroup(ctx, args[0], opts...)
			}
			if err := awaitGone(ctx, a, *wait, "group "+args[0], meta.Index, read); err != nil {
				return err
			}
			if *wait != "" {
				return a.said("group %s was deleted", args[0])
			}
			return a.said("group %s is being deleted: its instances are drained first", args[0])
		})
	w.add(cmd)
	wait = waitFlag(cmd, "the group is gone")
	return a.live(cmd, groupNames)
}

func groupScale(a *app) *cobra.Command {
	var reason, key string
	var from int
	var wait *string
	var cmd *cobra.Command
	cmd = a.verb("scale NAME SIZE", "Set a group's desired size",
		"paceline group scale web 5 --wait\npaceline group scale web 5 --from 3 --reason 'launch day'", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			size, err := strconv.Atoi(args[1])
			if err != nil {
				return usagef("SIZE %q is not a whole number", args[1])
			}
			req := client.ScaleRequest{Desired: size, Reason: reason}
			if cmd.Flags().Changed("from") {
				req.From = &from
			}
			var meta client.Meta
			g, err := c.ScaleGroup(ctx, args[0], req, client.WithIdempotencyKey(key), client.Capture(&meta))
			if err != nil {
				return err
			}
			return a.settled(ctx, c, g, *wait, meta.Index)
		})
	cmd.Flags().StringVar(&reason, "reason", "", "why; shown in the group's activities")
	cmd.Flags().IntVar(&from, "from", 0, "only if the desired size is this now")
	cmd.Flags().StringVar(&key, "idempotency-key", "", "makes a repeated command apply once, for 24 hours")
	wait = waitFlag(cmd, "every instance is healthy")
	return a.live(cmd, groupNames)
}

func groupStatus(a *app) *cobra.Command {
	var again *bool
	cmd := a.verb("status NAME", "What a group wants and has, and why", "paceline group status web\npaceline group status web --watch", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			return a.status(ctx, c, args[0], *again)
		})
	again = watchFlag(cmd)
	return a.live(cmd, groupNames)
}

func groupWatch(a *app) *cobra.Command {
	cmd := a.verb("watch NAME", "Follow a group's status until interrupted", "paceline group watch web\npaceline group watch web -o jsonl", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			return a.status(ctx, c, args[0], true)
		})
	return a.live(cmd, groupNames)
}

// statusOf is a group's status, with its service for those who look at it.
type statusOf struct {
	*client.GroupStatus
	service *fsm.Service
}

func (a *app) status(ctx context.Context, c *client.Client, name string, again bool) error {
	read := func(ctx context.Context, opts ...client.Option) (*statusOf, error) {
		st, err := c.GroupStatus(ctx, name, opts...)
		if err != nil || !a.human() {
			return &statusOf{st, nil}, err
		}
		g, err := c.GetGroup(ctx, name)
		if err != nil {
			return nil, err
		}
		return &statusOf{st, g.Service}, nil
	}
	return watch(ctx, a, again, read, func(w io.Writer, st *statusOf) error {
		switch a.output {
		case "json", "yaml", "jsonl":
			return a.encodeLine(w, st.GroupStatus)
		case "name":
			_, err := fmt.Fprintln(w, st.Group)
			return err
		}
		_, err := fmt.Fprintf(w, "group      %s (template %s v%d)\nsize       desired %d, between %d and %d\nnow        %d current, %d running, %d healthy\n",
			st.Group, st.Template, st.Version, st.Desired, st.MinSize, st.MaxSize, st.Current, st.Running, st.Healthy)
		if st.service != nil {
			_, _ = fmt.Fprintf(w, "routes     %s (%s)\n", clean(routes(st.service)), clean(manner(st.service)))
		}
		_, _ = fmt.Fprintf(w, "why        %s\n", clean(st.Explanation))
		if err != nil || len(st.Instances) == 0 {
			return err
		}
		_, _ = fmt.Fprintln(w)
		return showTable(a, w, instanceView(a), st.Instances)
	})
}
