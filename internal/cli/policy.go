package cli

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func policyView(a *app) view[fsm.Policy] {
	return view[fsm.Policy]{
		name: func(p *fsm.Policy) string { return p.Name },
		columns: []column[fsm.Policy]{
			{title: "GROUP", wide: true, cell: func(p *fsm.Policy) string { return p.Group }},
			{title: "NAME", cell: func(p *fsm.Policy) string { return p.Name }},
			{title: "WHEN", cell: func(p *fsm.Policy) string {
				return fmt.Sprintf("%s %s %s, %d in a row", p.Metric, sign(p.Operator), plain(p.Threshold), p.EvaluationPeriods)
			}},
			{title: "THEN", cell: func(p *fsm.Policy) string {
				unit := ""
				if p.AdjustmentType == fsm.Percentage {
					unit = "%"
				}
				return fmt.Sprintf("%s by %d%s", p.Direction, p.Adjustment, unit)
			}},
			{title: "COOLDOWN", cell: func(p *fsm.Policy) string { return p.Cooldown.String() }},
			{title: "ENABLED", cell: func(p *fsm.Policy) string { return strconv.FormatBool(p.On()) }},
			{title: "TRIGGERED", cell: func(p *fsm.Policy) string { return a.age(p.LastTriggeredAt) }},
			{title: "REVISION", wide: true, cell: func(p *fsm.Policy) string { return strconv.FormatUint(p.Revision, 10) }},
		},
	}
}

func sign(o fsm.Operator) string {
	switch o {
	case fsm.Greater:
		return ">"
	case fsm.Less:
		return "<"
	case fsm.GreaterEqual:
		return "≥"
	case fsm.LessEqual:
		return "≤"
	}
	return string(o)
}

func policyCommand(a *app) *cobra.Command {
	return noun("policy", "Rules that scale a group", policyPut(a), policyGet(a), policyList(a), policyDelete(a))
}

func policyPut(a *app) *cobra.Command {
	var file string
	var w writeFlags
	var f fields
	var cmd *cobra.Command
	cmd = a.verb("put GROUP [NAME]", "Create or replace a policy of a group",
		"paceline policy put web busy --metric cpu --operator greater --threshold 70 \\\n    --periods 2 --direction up --adjustment 1 --cooldown 1m\n"+
			"paceline policy put web -f busy.yaml",
		checked(cobra.RangeArgs(1, 2)),
		func(ctx context.Context, c *client.Client, args []string) error {
			d, err := a.readDocument(file)
			if err != nil {
				return err
			}
			if err := f.fill(cmd, d); err != nil {
				return err
			}
			name, err := d.named(args, 1, "name")
			if err != nil {
				return err
			}
			p, _, err := submit[fsm.Policy](ctx, c, http.MethodPut, groupPath(args[0])+"/policies/"+url.PathEscape(name), d, w.options()...)
			if err != nil {
				return err
			}
			return showOne(a, a.Out, policyView(a), p)
		})
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML or JSON file, - for standard input; flags win over it")
	f.text(cmd, "metric", "metric", "cpu, memory, or the name of a pushed metric")
	f.text(cmd, "operator", "operator", "greater, less, greater_equal or less_equal")
	f.number(cmd, "threshold", "threshold", "what the metric is compared with")
	f.integer(cmd, "periods", "evaluationPeriods", "evaluations in a row that must be beyond it")
	f.text(cmd, "direction", "direction", "up or down")
	f.integer(cmd, "adjustment", "adjustment", "by how much to change the size")
	f.text(cmd, "adjustment-type", "adjustmentType", "absolute or percentage")
	f.span(cmd, "cooldown", "cooldown", "least time since the size last changed")
	f.boolean(cmd, "enabled", "enabled", "false switches it off")
	words := map[string][]string{
		"operator": {"greater", "less", "greater_equal", "less_equal"}, "direction": {"up", "down"},
		"adjustment-type": {"absolute", "percentage"}, "metric": {"cpu", "memory"},
	}
	for flag, list := range words {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
	}
	w.addCreate(cmd)
	return a.live(cmd, groupNames, policyNames)
}

func policyGet(a *app) *cobra.Command {
	cmd := a.verb("get GROUP NAME", "Show a policy", "paceline policy get web busy -o yaml", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			p, err := c.GetPolicy(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, policyView(a), p)
		})
	return a.live(cmd, groupNames, policyNames)
}

func policyList(a *app) *cobra.Command {
	var p pageFlags
	var again *bool
	cmd := a.verb("list GROUP", "List a group's policies", "paceline policy list web", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			read := pages(&p, func(ctx context.Context, opts ...client.Option) (*client.List[fsm.Policy], error) {
				return c.ListPolicies(ctx, args[0], opts...)
			})
			return listing(ctx, a, *again, policyView(a), read)
		})
	p.add(cmd)
	again = watchFlag(cmd)
	return a.live(cmd, groupNames)
}

func policyDelete(a *app) *cobra.Command {
	var w writeFlags
	cmd := a.verb("delete GROUP NAME", "Remove a policy", "paceline policy delete web busy", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeletePolicy(ctx, args[0], args[1], w.options()...); err != nil {
				return err
			}
			return a.said("policy %s of group %s was deleted", args[1], args[0])
		})
	w.add(cmd)
	return a.live(cmd, groupNames, policyNames)
}
