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

func templateView(a *app) view[fsm.Template] {
	return view[fsm.Template]{
		name: func(t *fsm.Template) string { return t.Name },
		columns: []column[fsm.Template]{
			{title: "NAME", cell: func(t *fsm.Template) string { return t.Name }},
			{title: "VERSION", cell: func(t *fsm.Template) string { return strconv.Itoa(t.Version) }},
			{title: "DRIVER", cell: func(t *fsm.Template) string { return t.Driver }},
			{title: "RUNS", cell: func(t *fsm.Template) string {
				return dash(strings.TrimSpace(t.Command + t.Image + " " + strings.Join(t.Args, " ")))
			}},
			{title: "CPU", cell: func(t *fsm.Template) string { return limit(t.Resources.CPU, "") }},
			{title: "MEMORY", cell: func(t *fsm.Template) string { return limit(float64(t.Resources.MemoryMiB), "MiB") }},
			{title: "CHECK", wide: true, cell: func(t *fsm.Template) string {
				check := t.CheckOrDefault()
				return strings.TrimSpace(check.Type + " " + check.Path + check.Service)
			}},
			{title: "AGE", cell: func(t *fsm.Template) string { return a.age(t.CreatedAt) }},
			{title: "REVISION", wide: true, cell: func(t *fsm.Template) string { return strconv.FormatUint(t.Revision, 10) }},
		},
	}
}

// limit shows an amount of which 0 means unlimited.
func limit(v float64, unit string) string {
	if v == 0 {
		return "-"
	}
	return strconv.FormatFloat(v, 'g', -1, 64) + unit
}

func templateCommand(a *app) *cobra.Command {
	return noun("template", "What an instance is", templatePut(a), templateGet(a), templateList(a), templateDelete(a))
}

func templatePut(a *app) *cobra.Command {
	var file, check string
	var w writeFlags
	var f fields
	var cmd *cobra.Command
	cmd = a.verb("put [NAME]", "Create a template or make its next version",
		"paceline template put web --command @sample --cpu 0.2 --memory 64 --check-http /healthz\n"+
			"paceline template put cart --command /usr/bin/cart --check grpc --check-service shop.Cart\n"+
			"paceline template put worker --command /usr/bin/worker --check ttl --check-ttl 15s\n"+
			"paceline template put web -f web.yaml\n"+
			"paceline template get web -o yaml | sed s/v1/v2/ | paceline template put -f -",
		checked(cobra.MaximumNArgs(1)),
		func(ctx context.Context, c *client.Client, args []string) error {
			d, err := a.readDocument(file)
			if err != nil {
				return err
			}
			if err := f.fill(cmd, d); err != nil {
				return err
			}
			if check != "" {
				d.set("healthCheck.type", fsm.CheckHTTP)
				d.set("healthCheck.path", check)
			}
			if _, ok := d["driver"]; !ok && file == "" {
				d.set("driver", "process")
			}
			name, err := d.named(args, 0, "name")
			if err != nil {
				return err
			}
			t, _, err := submit[fsm.Template](ctx, c, http.MethodPut, "/v1/templates/"+url.PathEscape(name), d, w.options()...)
			if err != nil {
				return err
			}
			return showOne(a, a.Out, templateView(a), t)
		})
	cmd.Flags().StringVarP(&file, "file", "f", "", "YAML or JSON file, - for standard input; flags win over it")
	cmd.Flags().StringVar(&check, "check-http", "", "path of an HTTP health check; the same as --check http with a path")
	f.text(cmd, "driver", "driver", "what runs it; process by default")
	f.text(cmd, "command", "command", "absolute path of the executable, or @sample")
	f.list(cmd, "arg", "args", "an argument of the command; may be repeated")
	f.text(cmd, "image", "image", "image, for container drivers")
	f.pairs(cmd, "env", "environment", "environment variable")
	f.pairs(cmd, "label", "labels", "label")
	f.number(cmd, "cpu", "resources.cpu", "cores of one instance")
	f.integer(cmd, "memory", "resources.memoryMiB", "MiB of one instance")
	f.integer(cmd, "port", "networking.port", "fixed port; a free one by default")
	f.text(cmd, "check", "healthCheck.type", "type of the health check: http, tcp, grpc, exec, ttl or none")
	f.text(cmd, "check-service", "healthCheck.service", "service that a grpc check asks for; the whole server by default")
	f.list(cmd, "check-command", "healthCheck.command", "path and arguments of an exec check; once for each")
	f.integer(cmd, "check-port", "healthCheck.port", "port to check; the instance's own by default")
	f.span(cmd, "check-ttl", "healthCheck.ttl", "time that a heartbeat of a ttl check counts; 10s by default")
	f.span(cmd, "check-interval", "healthCheck.interval", "time between health checks")
	f.span(cmd, "check-grace", "healthCheck.grace", "time that a new instance has to become healthy")
	f.span(cmd, "stop-grace", "stop.grace", "time between draining and the signal")
	f.number(cmd, "price", "pricePerHour", "price of one instance for an hour")
	w.addCreate(cmd)
	return a.live(cmd, templateNames)
}

func templateGet(a *app) *cobra.Command {
	cmd := a.verb("get NAME", "Show a template", "paceline template get web\npaceline template get web -o yaml", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.GetTemplate(ctx, args[0])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, templateView(a), t)
		})
	return a.live(cmd, templateNames)
}

func templateList(a *app) *cobra.Command {
	var p pageFlags
	var again *bool
	cmd := a.verb("list", "List the templates", "paceline template list\npaceline template list -o name", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			return listing(ctx, a, *again, templateView(a), pages(&p, c.ListTemplates))
		})
	p.add(cmd)
	again = watchFlag(cmd)
	return cmd
}

// listing shows a listing, and again while watched.
func listing[T any](ctx context.Context, a *app, again bool, v view[T], read func(context.Context, ...client.Option) (*client.List[T], error)) error {
	return watch(ctx, a, again, read, func(w io.Writer, l *client.List[T]) error {
		return showList(a, w, v, l.Items, l.Next)
	})
}

func templateDelete(a *app) *cobra.Command {
	var w writeFlags
	cmd := a.verb("delete NAME", "Remove a template that no group uses", "paceline template delete web", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteTemplate(ctx, args[0], w.options()...); err != nil {
				return err
			}
			return a.said("template %s was deleted", args[0])
		})
	w.add(cmd)
	return a.live(cmd, templateNames)
}

// said tells a human what was done; formats for programs get nothing that is
// not of their format.
func (a *app) said(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	switch a.output {
	case "json", "yaml", "jsonl":
		return a.encodeLine(a.Out, client.Done{Message: text})
	case "name":
		return nil
	}
	_, err := fmt.Fprintln(a.Out, text)
	return err
}

// encodeLine writes a value in one of the formats for programs.
func (a *app) encodeLine(w io.Writer, v any) error {
	if a.output == "jsonl" {
		return showRows(a, w, view[any]{}, []any{v})
	}
	return a.encode(w, v)
}
