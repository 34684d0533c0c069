package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
)

func metricsCommand(a *app) *cobra.Command {
	var instance, file string
	push := a.verb("push GROUP [METRIC=VALUE]...", "Hand values to a group's policies",
		"paceline metrics push web queue_depth=31\npaceline metrics push web cpu=85 --instance 01J8…\npaceline metrics push web -f samples.json", atLeast(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			req, err := a.samples(file, args[1:], instance)
			if err != nil {
				return err
			}
			done, err := c.PushMetrics(ctx, args[0], *req)
			if err != nil {
				return err
			}
			return a.said("group %s: %d taken", args[0], done.Accepted)
		})
	push.Flags().StringVar(&instance, "instance", "", "the instance that the values are of")
	push.Flags().StringVarP(&file, "file", "f", "", "YAML or JSON file with samples, - for standard input")
	return noun("metrics", "Values that policies look at", a.live(push, groupNames))
}

func (a *app) samples(file string, args []string, instance string) (*client.MetricsRequest, error) {
	req := &client.MetricsRequest{}
	if file != "" {
		d, err := a.readDocument(file)
		if err != nil {
			return nil, err
		}
		raw, err := d.json()
		if err != nil {
			return nil, err
		}
		strict := json.NewDecoder(bytes.NewReader(raw))
		strict.DisallowUnknownFields()
		if err := strict.Decode(req); err != nil {
			return nil, usagef("%s: %v", file, err)
		}
	}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		value, err := strconv.ParseFloat(text, 64)
		if !ok || err != nil {
			return nil, usagef("%q is not METRIC=VALUE with a number", arg)
		}
		if value-value != 0 { // NaN and the infinities, which JSON can not carry
			return nil, usagef("%q is not a finite number", arg)
		}
		req.Samples = append(req.Samples, client.MetricSample{Metric: name, Value: value, Instance: instance})
	}
	if len(req.Samples) == 0 {
		return nil, usagef("no values were given")
	}
	return req, nil
}

func eventView(a *app) view[client.Event] {
	return view[client.Event]{
		name: func(e *client.Event) string { return e.ID },
		columns: []column[client.Event]{
			{title: "TIME", cell: func(e *client.Event) string { return a.stamp(e.At) }},
			{title: "TYPE", cell: func(e *client.Event) string { return e.Type }},
			{title: "WHAT", cell: func(e *client.Event) string { return e.Message }},
			{title: "ID", wide: true, cell: func(e *client.Event) string { return e.ID }},
			{title: "BY", wide: true, cell: func(e *client.Event) string { return dash(e.Actor) }},
		},
	}
}

func eventsCommand(a *app) *cobra.Command {
	var p pageFlags
	var follow bool
	var since string
	filters := map[string]*string{}
	cmd := a.verb("events", "What happened, and what happens",
		"paceline events\npaceline events -f --group web\npaceline events -f --type instance,node.down -o jsonl\npaceline events -f --since 4711.1   # resume after this event", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			var opts []client.Option
			for name, v := range filters {
				opts = append(opts, client.WithFilter(name, *v))
			}
			if follow || since != "" {
				return a.follow(ctx, c.Events(ctx, since, opts...))
			}
			read := func(ctx context.Context, more ...client.Option) (*client.List[client.Event], error) {
				return c.ListEvents(ctx, append(opts, more...)...)
			}
			return listing(ctx, a, false, eventView(a), pages(&p, read))
		})
	cmd.GroupID = groupTools
	p.add(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until interrupted")
	cmd.Flags().StringVar(&since, "since", "", "follow from after the event with this id")
	for name, help := range map[string]string{
		"type": "only these types or nouns, with commas", "group": "only events of this group",
		"instance": "only events of this instance", "node": "only events of this node",
	} {
		filters[name] = cmd.Flags().String(name, "", help)
	}
	return cmd
}

// follow writes events as they come, one line each.
func (a *app) follow(ctx context.Context, events func(func(client.Event, error) bool)) error {
	for e, err := range events {
		if err != nil {
			return err
		}
		switch a.output {
		case "json", "jsonl":
			line, _ := json.Marshal(e)
			_, err = fmt.Fprintf(a.Out, "%s\n", line)
		case "yaml":
			_, _ = io.WriteString(a.Out, "---\n")
			err = a.encode(a.Out, e)
		case "name":
			_, err = fmt.Fprintln(a.Out, e.ID)
		default:
			_, err = fmt.Fprintf(a.Out, "%s  %-20s  %s\n", a.stamp(e.At), e.Type, clean(e.Message))
		}
		if err != nil || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

func healthCommand(a *app) *cobra.Command {
	var ready bool
	cmd := &cobra.Command{
		Use: "health", Short: "Ask one node whether it lives, or is ready; for container health checks", GroupID: groupTools, Args: exactly(0),
		Example: "  paceline health\n  paceline health --ready\n  paceline health --ready -e 10.0.0.1:7700",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(a.endpoints) == 0 && a.Env("PACELINE_ENDPOINTS") == "" {
				a.endpoints = ownEndpoint(a.Env("PACELINE_API_ADDR"))
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, cancel := context.WithTimeout(cmd.Context(), healthTime)
			defer cancel()
			path := "/livez"
			if ready {
				path = "/readyz"
			}
			if _, err := c.Raw(ctx, http.MethodGet, path, nil, client.Once()); err != nil {
				return err
			}
			return a.said("ok")
		},
	}
	cmd.Flags().BoolVar(&ready, "ready", false, "also ask whether it is ready to serve")
	return cmd
}

// ownEndpoint is where the node of the same container listens: its own
// address, or loopback when it listens on all.
func ownEndpoint(addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); host == "" || (ip != nil && ip.IsUnspecified()) {
		host = "127.0.0.1"
	}
	return []string{net.JoinHostPort(host, port)}
}

func apiCommand(a *app) *cobra.Command {
	var data string
	var headers []string
	var include bool
	cmd := a.verb("api METHOD PATH", "Send any request to the API",
		"paceline api GET /v1/cluster\npaceline api POST /v1/groups/web/scale -d '{\"desired\":3}'\npaceline api PUT /v1/templates/web -d @web.json -i", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			if !strings.HasPrefix(args[1], "/") {
				return usagef("PATH %q does not begin with /", args[1])
			}
			var opts []client.Option
			for _, h := range headers {
				name, value, ok := strings.Cut(h, ":")
				if !ok {
					return usagef("--header %q is not Name: value", h)
				}
				opts = append(opts, client.WithHeader(strings.TrimSpace(name), strings.TrimSpace(value)))
			}
			body := []byte(data)
			if file, ok := strings.CutPrefix(data, "@"); ok {
				var err error
				if body, err = a.readFile(file); err != nil {
					return err
				}
			}
			answer, err := c.Raw(ctx, strings.ToUpper(args[0]), args[1], body, opts...)
			if err != nil {
				return err
			}
			return a.answer(answer, include)
		})
	cmd.GroupID = groupTools
	cmd.Flags().StringVarP(&data, "data", "d", "", "body; @file reads a file, @- standard input")
	cmd.Flags().StringArrayVarP(&headers, "header", "H", nil, "a header, Name: value; may be repeated")
	cmd.Flags().BoolVarP(&include, "include", "i", false, "also tell status, index, node and age")
	return cmd
}

func (a *app) answer(r *client.Answer, include bool) error {
	if include {
		_, _ = fmt.Fprintf(a.Err, "status %d, index %d, served by %s, %s old, revision %d\n", r.Status, r.Index, r.ServedBy, r.Stale, r.Revision)
	}
	if a.output == "yaml" || strings.Contains(r.ContentType, "json") {
		if len(r.Body) == 0 {
			return nil
		}
		return a.encodeRaw(a.Out, r.Body)
	}
	_, err := a.Out.Write(r.Body)
	return err
}

// build is what `paceline version` tells.
type build struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func versionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Tell the version of this binary", GroupID: groupTools, Args: exactly(0),
		Example: "  paceline version\n  paceline version -o json",
		RunE: func(*cobra.Command, []string) error {
			if err := a.checkOutput(); err != nil {
				return err
			}
			b := build{a.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			switch a.output {
			case "json", "yaml", "jsonl":
				return a.encodeLine(a.Out, b)
			}
			_, err := fmt.Fprintf(a.Out, "paceline %s (%s, %s)\n", b.Version, b.Go, b.Platform)
			return err
		},
	}
}
