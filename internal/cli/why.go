package cli

import (
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// decisionView answers the question why a group scaled, or did not.
func decisionView(a *app) view[fsm.Decision] {
	return view[fsm.Decision]{
		name: func(d *fsm.Decision) string { return strconv.FormatUint(d.ID, 10) },
		columns: []column[fsm.Decision]{
			{title: "TIME", cell: func(d *fsm.Decision) string { return a.stamp(d.At) }},
			{title: "SIZE", cell: func(d *fsm.Decision) string { return change(d.From, d.To) }},
			{title: "WINNER", cell: func(d *fsm.Decision) string { return dash(d.Winner) }},
			{title: "REASON", cell: func(d *fsm.Decision) string { return d.Reason }},
			{title: "METRICS", wide: true, cell: metricsOf},
			{title: "POLICIES", wide: true, cell: proposalsOf},
		},
	}
}

func change(from, to int) string {
	if from == to {
		return strconv.Itoa(from)
	}
	return fmt.Sprintf("%d → %d", from, to)
}

func metricsOf(d *fsm.Decision) string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(d.Metrics)) {
		lines = append(lines, name+"="+plain(math.Round(d.Metrics[name]*100)/100))
	}
	return dash(strings.Join(lines, "\n"))
}

// proposalsOf tells each policy's part, a line for each, then the limits.
func proposalsOf(d *fsm.Decision) string {
	var lines []string
	for _, p := range d.Proposals {
		line := fmt.Sprintf("%s: %s", p.Policy, p.Verdict)
		if p.Size > 0 {
			line += fmt.Sprintf(", proposes %d", p.Size)
		}
		lines = append(lines, line+" ("+p.Reason+")")
	}
	for _, c := range d.Clamps {
		lines = append(lines, fmt.Sprintf("%s: %d held at %d", c.Limit, c.From, c.To))
	}
	return dash(strings.Join(lines, "\n"))
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func groupDecisions(a *app) *cobra.Command {
	var p pageFlags
	var changed bool
	var again *bool
	cmd := a.verb("decisions NAME", "Why a group scaled, or did not",
		"paceline group decisions web\npaceline group decisions web --changed\npaceline group decisions web -o wide   # what each policy proposed", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			only := ""
			if changed {
				only = "true"
			}
			read := pages(&p, func(ctx context.Context, opts ...client.Option) (*client.List[fsm.Decision], error) {
				return c.Decisions(ctx, args[0], append(opts, client.WithFilter("changed", only))...)
			})
			return listing(ctx, a, *again, decisionView(a), read)
		})
	p.add(cmd)
	cmd.Flags().BoolVar(&changed, "changed", false, "only those that changed the size")
	again = watchFlag(cmd)
	return a.live(cmd, groupNames)
}

func groupActivities(a *app) *cobra.Command {
	var p pageFlags
	var typ string
	var again *bool
	v := view[fsm.Activity]{
		name: func(x *fsm.Activity) string { return strconv.FormatUint(x.ID, 10) },
		columns: []column[fsm.Activity]{
			{title: "TIME", cell: func(x *fsm.Activity) string { return a.stamp(x.At) }},
			{title: "WHAT", cell: func(x *fsm.Activity) string { return x.Type }},
			{title: "SIZE", cell: func(x *fsm.Activity) string {
				if x.Type == fsm.ActivityScaled || x.Type == fsm.ActivityCreated {
					return change(x.From, x.To)
				}
				return dash(strings.TrimPrefix(strconv.Itoa(x.Count), "0"))
			}},
			{title: "BY", cell: func(x *fsm.Activity) string { return dash(x.Actor) }},
			{title: "CAUSE", cell: func(x *fsm.Activity) string { return x.Cause }},
			{title: "INSTANCES", wide: true, cell: func(x *fsm.Activity) string { return dash(strings.Join(x.Instances, "\n")) }},
		},
	}
	cmd := a.verb("activities NAME", "What was done to a group", "paceline group activities web\npaceline group activities web --type scaled", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			read := pages(&p, func(ctx context.Context, opts ...client.Option) (*client.List[fsm.Activity], error) {
				return c.Activities(ctx, args[0], append(opts, client.WithFilter("type", typ))...)
			})
			return listing(ctx, a, *again, v, read)
		})
	p.add(cmd)
	cmd.Flags().StringVar(&typ, "type", "", "only this type, such as scaled")
	again = watchFlag(cmd)
	return a.live(cmd, groupNames)
}
