package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
)

func serviceView() view[client.ServiceSummary] {
	number := func(pick func(*client.ServiceSummary) int) func(*client.ServiceSummary) string {
		return func(s *client.ServiceSummary) string { return strconv.Itoa(pick(s)) }
	}
	return view[client.ServiceSummary]{
		name: func(s *client.ServiceSummary) string { return s.Group },
		columns: []column[client.ServiceSummary]{
			{title: "SERVICE", cell: func(s *client.ServiceSummary) string { return s.Group }},
			{title: "PASSING", cell: number(func(s *client.ServiceSummary) int { return s.Passing })},
			{title: "ENDPOINTS", cell: number(func(s *client.ServiceSummary) int { return s.Endpoints })},
			{title: "DRAINING", wide: true, cell: number(func(s *client.ServiceSummary) int { return s.Draining })},
			{title: "LISTENERS", cell: func(s *client.ServiceSummary) string { return dash(listenersOf(s)) }},
			{title: "HOSTS", cell: func(s *client.ServiceSummary) string { return dash(strings.Join(s.Hosts, ",")) }},
			{title: "PATH", wide: true, cell: func(s *client.ServiceSummary) string { return dash(s.PathPrefix) }},
			{title: "INDEX", cell: func(s *client.ServiceSummary) string { return strconv.FormatUint(s.Index, 10) }},
		},
	}
}

func listenersOf(s *client.ServiceSummary) string {
	list := make([]string, len(s.Listeners))
	for i, l := range s.Listeners {
		list[i] = l.Protocol
		if l.Port > 0 {
			list[i] += ":" + strconv.Itoa(l.Port)
		}
	}
	return strings.Join(list, ",")
}

func endpointView() view[client.ServiceEndpoint] {
	return view[client.ServiceEndpoint]{
		name: func(e *client.ServiceEndpoint) string { return e.Address },
		columns: []column[client.ServiceEndpoint]{
			{title: "INSTANCE", cell: func(e *client.ServiceEndpoint) string { return e.Instance }},
			{title: "ADDRESS", cell: func(e *client.ServiceEndpoint) string { return e.Address }},
			{title: "HEALTH", cell: func(e *client.ServiceEndpoint) string { return healthOf(e) }},
			{title: "NODE", cell: func(e *client.ServiceEndpoint) string { return e.Node }},
			{title: "ZONE", cell: func(e *client.ServiceEndpoint) string { return dash(e.Zone) }},
			{title: "WEIGHT", wide: true, cell: func(e *client.ServiceEndpoint) string { return strconv.Itoa(e.Weight) }},
			{title: "INCARNATION", wide: true, cell: func(e *client.ServiceEndpoint) string { return strconv.Itoa(e.Incarnation) }},
		},
	}
}

func healthOf(e *client.ServiceEndpoint) string {
	if e.Draining {
		return "draining"
	}
	return string(e.Health)
}

func serviceCommand(a *app) *cobra.Command {
	return noun("service", "What a group offers: its endpoints", serviceList(a), serviceGet(a), serviceWatch(a))
}

func serviceList(a *app) *cobra.Command {
	var p pageFlags
	var again *bool
	cmd := a.verb("list", "List the services", "paceline service list\npaceline service list -o wide --watch", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			return listing(ctx, a, *again, serviceView(), pages(&p, c.Services))
		})
	p.add(cmd)
	again = watchFlag(cmd)
	return cmd
}

// endpointFlags choose among a service's endpoints.
type endpointFlags struct {
	passing bool
	zone    string
	limit   int
}

func (f *endpointFlags) add(c *cobra.Command) {
	c.Flags().BoolVar(&f.passing, "passing", false, "only endpoints that are healthy and not draining")
	c.Flags().StringVar(&f.zone, "zone", "", "only endpoints in this zone")
	c.Flags().IntVar(&f.limit, "limit", 0, "at most so many, those that pass first")
}

func (f *endpointFlags) options() []client.Option {
	opts := []client.Option{client.WithFilter("zone", f.zone)}
	if f.passing {
		opts = append(opts, client.WithPassing())
	}
	if f.limit > 0 {
		opts = append(opts, client.WithLimit(f.limit))
	}
	return opts
}

func serviceGet(a *app) *cobra.Command {
	var f endpointFlags
	var again *bool
	cmd := a.verb("get NAME", "Show a service's endpoints",
		"paceline service get web\npaceline service get web --passing -o name   # addresses, one a line", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			return a.service(ctx, c, args[0], &f, *again)
		})
	f.add(cmd)
	again = watchFlag(cmd)
	return a.live(cmd, groupNames)
}

func serviceWatch(a *app) *cobra.Command {
	var f endpointFlags
	cmd := a.verb("watch NAME", "Follow a service's endpoints until interrupted", "paceline service watch web\npaceline service watch web --passing -o jsonl", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			return a.service(ctx, c, args[0], &f, true)
		})
	f.add(cmd)
	return a.live(cmd, groupNames)
}

// service shows a service; a watch blocks on the server for that service.
func (a *app) service(ctx context.Context, c *client.Client, name string, f *endpointFlags, again bool) error {
	read := func(ctx context.Context, opts ...client.Option) (*client.ServiceView, error) {
		return c.Service(ctx, name, append(f.options(), opts...)...)
	}
	return watch(ctx, a, again, read, func(w io.Writer, v *client.ServiceView) error {
		switch a.output {
		case "json", "yaml", "jsonl":
			return a.encodeLine(w, v)
		case "name":
			return showRows(a, w, endpointView(), v.Endpoints)
		}
		if _, err := fmt.Fprintf(w, "service    %s\nindex      %d\n\n", v.Group, v.Index); err != nil {
			return err
		}
		return showTable(a, w, endpointView(), v.Endpoints)
	})
}
