package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func sessionCommand(a *app) *cobra.Command {
	return noun("session", "A client's affinity to an instance",
		sessionStats(a), sessionRoute(a), sessionGet(a), sessionDelete(a), sessionData(a))
}

func slotView() view[fsm.SlotStats] {
	return view[fsm.SlotStats]{
		name: func(s *fsm.SlotStats) string { return s.Instance },
		columns: []column[fsm.SlotStats]{
			{title: "INSTANCE", cell: func(s *fsm.SlotStats) string { return s.Instance }},
			{title: "INCARNATION", wide: true, cell: func(s *fsm.SlotStats) string { return strconv.Itoa(s.Incarnation) }},
			{title: "SESSIONS", cell: func(s *fsm.SlotStats) string { return strconv.Itoa(s.Sessions) }},
			{title: "SERVES", cell: func(s *fsm.SlotStats) string { return strconv.FormatBool(s.Lives) }},
			{title: "SLOT", wide: true, cell: func(s *fsm.SlotStats) string { return strconv.FormatUint(uint64(s.Slot), 10) }},
		},
	}
}

func sessionStats(a *app) *cobra.Command {
	var consistency string
	cmd := a.verb("stats GROUP", "Count a group's sessions by instance", "paceline session stats web\npaceline session stats web -o json", exactly(1),
		func(ctx context.Context, c *client.Client, args []string) error {
			s, err := c.SessionStats(ctx, args[0], client.WithConsistency(client.Consistency(consistency)))
			if err != nil {
				return err
			}
			switch a.output {
			case "json", "yaml", "jsonl":
				return a.encodeLine(a.Out, s)
			case "name":
			default:
				_, _ = fmt.Fprintf(a.Out, "strategy %s: %d sessions (%d homeless), %d assigned, %d moved, %d expired, %d deleted\n",
					dash(s.Strategy), s.Sessions, s.Homeless, s.Assigned, s.Moved, s.Expired, s.Deleted)
				if s.DataEntries > 0 || s.Strategy == fsm.StickyShared {
					_, _ = fmt.Fprintf(a.Out, "data: entries %d, bytes %d\n", s.DataEntries, s.DataBytes)
				}
				if len(s.Slots) == 0 {
					return nil
				}
			}
			return showRows(a, a.Out, slotView(), s.Slots)
		})
	consistencyFlag(cmd, &consistency)
	return a.live(cmd, groupNames)
}

func consistencyFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "consistency", "", "stale (the default), leader or strong")
	_ = cmd.RegisterFlagCompletionFunc("consistency", cobra.FixedCompletions([]string{"stale", "leader", "strong"}, cobra.ShellCompDirectiveNoFileComp))
}

func routeView() view[client.SessionRoute] {
	return view[client.SessionRoute]{
		name: func(r *client.SessionRoute) string { return r.Instance },
		columns: []column[client.SessionRoute]{
			{title: "SESSION", cell: func(r *client.SessionRoute) string { return r.Session }},
			{title: "INSTANCE", cell: func(r *client.SessionRoute) string { return r.Instance }},
			{title: "ADDRESS", cell: func(r *client.SessionRoute) string { return r.Address }},
			{title: "NODE", cell: func(r *client.SessionRoute) string { return r.Node }},
			{title: "ZONE", wide: true, cell: func(r *client.SessionRoute) string { return dash(r.Zone) }},
			{title: "STRATEGY", cell: func(r *client.SessionRoute) string { return r.Strategy }},
			{title: "EPOCH", wide: true, cell: func(r *client.SessionRoute) string { return strconv.FormatUint(uint64(r.Epoch), 10) }},
			{title: "KEY", wide: true, cell: func(r *client.SessionRoute) string { return r.Key }},
			{title: "NEW", cell: func(r *client.SessionRoute) string {
				switch {
				case r.Created:
					return "created"
				case r.Moved:
					return "moved"
				}
				return "-"
			}},
		},
	}
}

func sessionRoute(a *app) *cobra.Command {
	cmd := a.verb("route GROUP SESSION", "Tell which instance serves a session; a new one is placed",
		"paceline session route web anna\npaceline session route web anna -o json", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.RouteSession(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			return showOne(a, a.Out, routeView(), r)
		})
	return a.live(cmd, groupNames)
}

func sessionView(a *app) view[client.Session] {
	return view[client.Session]{
		name: func(s *client.Session) string { return s.Session },
		columns: []column[client.Session]{
			{title: "SESSION", cell: func(s *client.Session) string { return s.Session }},
			{title: "INSTANCE", cell: func(s *client.Session) string { return s.Instance }},
			{title: "ADDRESS", cell: func(s *client.Session) string { return dash(s.Address) }},
			{title: "NODE", cell: func(s *client.Session) string { return dash(s.Node) }},
			{title: "ZONE", wide: true, cell: func(s *client.Session) string { return dash(s.Zone) }},
			{title: "SERVES", cell: func(s *client.Session) string { return strconv.FormatBool(s.Lives) }},
			{title: "MOVES", cell: func(s *client.Session) string { return strconv.FormatUint(uint64(s.Epoch), 10) }},
			{title: "SEEN", cell: func(s *client.Session) string { return a.age(s.Seen) }},
			{title: "KEY", wide: true, cell: func(s *client.Session) string { return s.Key }},
		},
	}
}

func sessionGet(a *app) *cobra.Command {
	var consistency string
	cmd := a.verb("get GROUP SESSION", "Show where a sticky session lives", "paceline session get web anna", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			s, err := c.GetSession(ctx, args[0], args[1], client.WithConsistency(client.Consistency(consistency)))
			if err != nil {
				return err
			}
			return showOne(a, a.Out, sessionView(a), s)
		})
	consistencyFlag(cmd, &consistency)
	return a.live(cmd, groupNames)
}

func sessionDelete(a *app) *cobra.Command {
	var key string
	cmd := a.verb("delete GROUP SESSION", "Forget a sticky session; a client that has its cookie stays where it is until that ends", "paceline session delete web anna", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteSession(ctx, args[0], args[1], client.WithIdempotencyKey(key)); err != nil {
				return err
			}
			return a.said("session %s of group %s was deleted", args[1], args[0])
		})
	cmd.Flags().StringVar(&key, "idempotency-key", "", "makes a repeated command apply once, for 24 hours")
	return a.live(cmd, groupNames)
}

// sessionData is a noun within the noun: what a shared session holds.
func sessionData(a *app) *cobra.Command {
	c := noun("data", "What a shared session holds", dataGet(a), dataPut(a), dataDelete(a))
	c.GroupID = ""
	return c
}

func dataGet(a *app) *cobra.Command {
	cmd := a.verb("get GROUP SESSION", "Write a session's data to standard output, as it is", "paceline session data get web anna > cart.json", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.GetSessionData(ctx, args[0], args[1])
			if err != nil {
				return err
			}
			_, err = a.Out.Write(d.Data)
			return err
		})
	return a.live(cmd, groupNames)
}

func dataInfoView(a *app) view[client.SessionDataInfo] {
	return view[client.SessionDataInfo]{
		name: func(d *client.SessionDataInfo) string { return d.Session },
		columns: []column[client.SessionDataInfo]{
			{title: "SESSION", cell: func(d *client.SessionDataInfo) string { return d.Session }},
			{title: "BYTES", cell: func(d *client.SessionDataInfo) string { return strconv.Itoa(d.Bytes) }},
			{title: "TYPE", cell: func(d *client.SessionDataInfo) string { return dash(d.ContentType) }},
			{title: "EXPIRES", cell: func(d *client.SessionDataInfo) string { return a.stamp(d.ExpiresAt) }},
			{title: "REVISION", cell: func(d *client.SessionDataInfo) string { return strconv.FormatUint(d.Revision, 10) }},
		},
	}
}

func dataPut(a *app) *cobra.Command {
	var w writeFlags
	var file, text, media string
	var ttl time.Duration
	var cmd *cobra.Command
	cmd = a.verb("put GROUP SESSION", "Write a session's data, up to 4 KiB of any type",
		"paceline session data put web anna -d '{\"cart\":[7]}' --type application/json --ttl 30m\npaceline session data put web anna -f cart.bin", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			body := []byte(text)
			switch sent := cmd.Flags().Changed("data"); {
			case sent == (file != ""):
				return usagef("give the data either as --data or as --file")
			case file != "":
				var err error
				if body, err = a.readFile(file); err != nil {
					return err
				}
			}
			d, err := c.PutSessionData(ctx, args[0], args[1], body, media, ttl, w.options()...)
			if err != nil {
				return err
			}
			return showOne(a, a.Out, dataInfoView(a), d)
		})
	cmd.Flags().StringVarP(&file, "file", "f", "", "file to send, - for standard input")
	cmd.Flags().StringVarP(&text, "data", "d", "", "text to send")
	cmd.Flags().StringVar(&media, "type", "", "content type, kept with the data")
	cmd.Flags().DurationVar(&ttl, "ttl", 0, "how long the data is kept; by default as long as the service's sessions")
	w.addCreate(cmd)
	return a.live(cmd, groupNames)
}

func dataDelete(a *app) *cobra.Command {
	var w writeFlags
	cmd := a.verb("delete GROUP SESSION", "Remove a session's data", "paceline session data delete web anna", exactly(2),
		func(ctx context.Context, c *client.Client, args []string) error {
			if err := c.DeleteSessionData(ctx, args[0], args[1], w.options()...); err != nil {
				return err
			}
			return a.said("the data of session %s of group %s was deleted", args[1], args[0])
		})
	w.add(cmd)
	return a.live(cmd, groupNames)
}
