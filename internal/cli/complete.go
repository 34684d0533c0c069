package cli

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// namer lists names for the shell's completion.
type namer func(ctx context.Context, c *client.Client, args []string) ([]string, error)

// live completes the n-th argument with names that exist now; a nil namer
// completes nothing.
func (a *app) live(c *cobra.Command, namers ...namer) *cobra.Command {
	c.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) >= len(namers) || namers[len(args)] == nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return a.names(cmd.Context(), namers[len(args)], args), cobra.ShellCompDirectiveNoFileComp
	}
	return c
}

// names asks the cluster, briefly: completion must never hang a shell.
func (a *app) names(ctx context.Context, list namer, args []string) []string {
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	cl, err := a.client()
	if err != nil {
		return nil
	}
	defer cl.Close()
	names, err := list(ctx, cl, args)
	if err != nil {
		return nil
	}
	return names
}

func namesOf[T any](l *client.List[T], err error, name func(*T) string) ([]string, error) {
	if err != nil {
		return nil, err
	}
	out := make([]string, len(l.Items))
	for i := range l.Items {
		out[i] = name(&l.Items[i])
	}
	return out, nil
}

func templateNames(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
	l, err := c.ListTemplates(ctx, client.WithLimit(completionLimit))
	return namesOf(l, err, func(t *fsm.Template) string { return t.Name })
}

func groupNames(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
	l, err := c.ListGroups(ctx, client.WithLimit(completionLimit))
	return namesOf(l, err, func(g *fsm.Group) string { return g.Name })
}

func policyNames(ctx context.Context, c *client.Client, args []string) ([]string, error) {
	l, err := c.ListPolicies(ctx, args[0])
	return namesOf(l, err, func(p *fsm.Policy) string { return p.Name })
}

func instanceIDs(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
	l, err := c.ListInstances(ctx, client.WithLimit(completionLimit))
	return namesOf(l, err, func(i *fsm.Instance) string { return i.ID })
}

func nodeNames(ctx context.Context, c *client.Client, _ []string) ([]string, error) {
	l, err := c.ListNodes(ctx, client.WithLimit(completionLimit))
	return namesOf(l, err, func(n *fsm.Node) string { return n.Name })
}
