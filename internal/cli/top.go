package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/internal/top"
	"github.com/pacelinehq/paceline/internal/top/collect"
	"github.com/pacelinehq/paceline/internal/top/screen"
)

// Limits of top.
const (
	minEvery = 200 * time.Millisecond
	maxEvery = time.Hour
	// How long a node that does not answer is waited for. A live view is held
	// up by it.
	topLivePatience = time.Second
	topPatience     = 2 * time.Second
)

func topCommand(a *app) *cobra.Command {
	var every time.Duration
	var once bool
	var cmd *cobra.Command
	cmd = a.verb("top", "Live view of the traffic of all nodes",
		"paceline top\npaceline top --every 5s\npaceline top --once -o json   # the rates of one second", exactly(0),
		func(ctx context.Context, c *client.Client, _ []string) error {
			if every < minEvery || every > maxEvery {
				return usagef("--every must be between %s and %s", minEvery, maxEvery)
			}
			live, patience := !once && terminal(a.Out) && !cmd.Flag("output").Changed, topPatience
			if live {
				patience = topLivePatience
			}
			k := collect.New(collect.Config{
				Endpoints: c.Endpoints(), Within: patience, Now: time.Now,
				Connect: func(endpoint string) (*client.Client, error) { return a.connect(endpoint) },
			})
			defer k.Close()
			if live {
				plain := a.noColor || a.Env("NO_COLOR") != ""
				return screen.Run(ctx, screen.Config{Read: k.Read, Every: every, Plain: plain}, a.In, a.Out)
			}
			t, err := topOnce(ctx, k, every)
			if err != nil {
				return err
			}
			return a.showTop(a.Out, t)
		})
	cmd.GroupID = groupTools
	cmd.Long = `Shows requests, errors, latencies and states for each service and each of its instances, from the metrics
of all nodes. Rates are those of the time between two readings. FAIL/S are attempts at instances that failed,
whether or not another instance answered then. Latencies of single instances are not measured.

Without a terminal, or with --once or --output, it takes two readings and prints the rates between them.`
	cmd.Flags().DurationVar(&every, "every", time.Second, "time between two readings")
	cmd.Flags().BoolVar(&once, "once", false, "print the rates of one interval, and end")
	return cmd
}

// topOnce takes two readings, one interval apart.
func topOnce(ctx context.Context, k *collect.Collector, every time.Duration) (*top.Table, error) {
	before, err := k.Read(ctx)
	if err != nil {
		return nil, err
	}
	t := time.NewTimer(every)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return nil, errors.New("interrupted before the second reading")
	}
	after, err := k.Read(ctx)
	if err != nil {
		return nil, err
	}
	return top.Compare(before, after), nil
}

// topRow is a service, or one of its instances.
type topRow struct {
	service  *top.Service
	instance *top.Instance
	*top.Traffic
}

func topView() view[topRow] {
	figure := func(pick func(*top.Traffic) *float64) func(*topRow) string {
		return func(r *topRow) string { return decimal(pick(r.Traffic)) }
	}
	ofService := func(cell func(*top.Service) string) func(*topRow) string {
		return func(r *topRow) string {
			if r.instance != nil {
				return ""
			}
			return cell(r.service)
		}
	}
	ofInstance := func(cell func(*top.Instance) string) func(*topRow) string {
		return func(r *topRow) string {
			if r.instance == nil {
				return ""
			}
			return cell(r.instance)
		}
	}
	return view[topRow]{
		name: func(r *topRow) string { return r.service.Group },
		columns: []column[topRow]{
			{title: "SERVICE", cell: func(r *topRow) string { return r.service.Group }},
			{title: "INSTANCE", cell: ofInstance(func(i *top.Instance) string { return i.ID })},
			{title: "NODE", cell: ofInstance(func(i *top.Instance) string { return dash(i.Node) })},
			{title: "STATE", cell: topState},
			{title: "REQ/S", cell: figure(func(t *top.Traffic) *float64 { return t.Requests })},
			{title: "ERR/S", cell: figure(func(t *top.Traffic) *float64 { return t.Errors })},
			{title: "FAIL/S", cell: figure(func(t *top.Traffic) *float64 { return t.Failures })},
			{title: "IN FLIGHT", cell: func(r *topRow) string { return strconv.Itoa(r.InFlight) }},
			{title: "P50 MS", cell: figure(func(t *top.Traffic) *float64 { return t.P50 })},
			{title: "P99 MS", cell: figure(func(t *top.Traffic) *float64 { return t.P99 })},
			{title: "SESSIONS", cell: ofService(func(s *top.Service) string {
				if s.Sessions == nil {
					return "-"
				}
				return strconv.Itoa(*s.Sessions)
			})},
		},
	}
}

func topState(r *topRow) string {
	switch {
	case r.instance == nil && r.service.Gone, r.instance != nil && r.instance.State == "":
		return "gone"
	case r.instance == nil:
		return fmt.Sprintf("%d of %d healthy", r.service.Healthy, r.service.Desired)
	case r.instance.Ejected > 0:
		return fmt.Sprintf("ejected by %d of %d", r.instance.Ejected, r.instance.Seen)
	}
	return string(r.instance.State)
}

func decimal(v *float64) string {
	if v == nil {
		return "-"
	}
	return strconv.FormatFloat(*v, 'f', 1, 64)
}

// showTop writes one table in the asked format.
func (a *app) showTop(w io.Writer, t *top.Table) error {
	switch a.output {
	case "json", "yaml", "jsonl":
		return a.encodeLine(w, t)
	case "name":
		for i := range t.Services {
			if _, err := fmt.Fprintln(w, t.Services[i].Group); err != nil {
				return err
			}
		}
		return nil
	}
	var rows []topRow
	for i := range t.Services {
		s := &t.Services[i]
		rows = append(rows, topRow{service: s, Traffic: &s.Traffic})
		for k := range s.Instances {
			rows = append(rows, topRow{service: s, instance: &s.Instances[k], Traffic: &s.Instances[k].Traffic})
		}
	}
	_, err := fmt.Fprintf(w, "leader     %s\ntraffic    %s requests/s, %s errors/s\n", dash(t.Leader), decimal(t.Requests), decimal(t.Errors))
	for i := range t.Nodes {
		n := &t.Nodes[i]
		line := decimal(n.Requests) + " requests/s, " + n.State
		if !n.Answers {
			line = "no answer: " + n.Problem
		}
		_, _ = fmt.Fprintf(w, "node       %s: %s\n", n.Name, clean(line))
	}
	if t.Problem != "" {
		_, _ = fmt.Fprintf(w, "problem    %s\n", clean(t.Problem))
	}
	if err != nil || len(rows) == 0 {
		return err
	}
	_, _ = fmt.Fprintln(w)
	return showTable(a, w, topView(), rows)
}
