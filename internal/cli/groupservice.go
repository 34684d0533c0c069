package cli

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/fsm"
)

// serviceFields are the flags of a group's service. The rest of a service,
// which few need, is set by a file.
func serviceFields(cmd *cobra.Command, f *fields) {
	cmd.Flags().Bool("no-service", false, "route nothing to the group")
	cmd.Flags().Bool("route", false, "route requests to the group that reach the nodes' shared listener")
	*f = append(*f,
		field{"no-service", "service", func(c *cobra.Command) (any, error) { return nil, alone(c) }},
		// A listing of listeners that is empty means the shared one.
		field{"route", "service.listeners", func(c *cobra.Command) (any, error) { return []any{}, isTrue(c, "route") }})
	cmd.Flags().StringArray("listen", nil, "a port of the service's own on every node, PORT or PORT/tcp; may be repeated; with --route also the shared one")
	*f = append(*f, field{"listen", "service.listeners", func(c *cobra.Command) (any, error) { return listeners(c) }})
	f.list(cmd, "host", "service.hosts", "a host name that requests must ask for, or *.name; any by default; may be repeated")
	f.text(cmd, "path-prefix", "service.pathPrefix", "what paths must begin with")
	f.text(cmd, "balancer", "service.balancer.policy", "how an instance is chosen: "+strings.Join(fsm.BalancerPolicies(), ", "))
	f.text(cmd, "hash-on", "service.balancer.hashOn", "what the hash balancer looks at: header:NAME, cookie:NAME or query:NAME")
	f.text(cmd, "sticky", "service.stickiness.strategy", "how clients keep to an instance: "+strings.Join(fsm.StickyStrategies(), ", "))
	f.span(cmd, "session-ttl", "service.stickiness.ttl", "how long an unused session is remembered")
	for flag, values := range map[string][]string{"balancer": fsm.BalancerPolicies(), "sticky": fsm.StickyStrategies()} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
	for _, flag := range []string{"listen", "host", "path-prefix", "hash-on", "session-ttl"} {
		_ = cmd.RegisterFlagCompletionFunc(flag, cobra.NoFileCompletions)
	}
}

// alone checks that --no-service is not given with what makes a service.
func alone(c *cobra.Command) error {
	for _, flag := range []string{"route", "listen", "host", "path-prefix", "balancer", "hash-on", "sticky", "session-ttl"} {
		if c.Flags().Changed(flag) {
			return fmt.Errorf("--no-service can not be given with --%s", flag)
		}
	}
	return isTrue(c, "no-service")
}

// isTrue refuses --flag=false, of which nobody could say what it means.
func isTrue(c *cobra.Command, flag string) error {
	if on, err := c.Flags().GetBool(flag); err != nil || !on {
		return errors.Join(err, fmt.Errorf("--%s can only be given as it is", flag))
	}
	return nil
}

// listeners reads --listen, and adds the shared listener when --route is given
// as well.
func listeners(c *cobra.Command) ([]any, error) {
	texts, err := c.Flags().GetStringArray("listen")
	if err != nil {
		return nil, err
	}
	out := []any{}
	if c.Flags().Changed("route") {
		out = append(out, map[string]any{})
	}
	for _, text := range texts {
		port, protocol, named := strings.Cut(text, "/")
		n, err := strconv.Atoi(port)
		if err != nil || named && protocol == "" {
			return nil, fmt.Errorf("--listen %q is not PORT or PORT/tcp", text)
		}
		l := map[string]any{"port": n}
		if named {
			l["protocol"] = protocol
		}
		out = append(out, l)
	}
	return out, nil
}

// routes tells briefly which requests a service takes.
func routes(s *fsm.Service) string {
	if s == nil {
		return ""
	}
	full := s.WithDefaults()
	tcp, http, shared := []string{}, []string{}, false
	for _, l := range full.Listeners {
		switch {
		case l.Protocol == fsm.ProtocolTCP:
			tcp = append(tcp, fmt.Sprintf(":%d/tcp", l.Port))
		case l.Port == 0:
			shared = true
		default:
			http = append(http, fmt.Sprintf(":%d", l.Port))
		}
	}
	if shared && len(http) > 0 {
		http = append([]string{"shared"}, http...)
	}
	if !shared && len(http) == 0 {
		return strings.Join(tcp, ",")
	}
	text := "any host"
	if len(full.Hosts) > 0 {
		text = strings.Join(full.Hosts, ",")
	}
	if full.PathPrefix != "" {
		text += " " + full.PathPrefix
	}
	if on := append(http, tcp...); len(on) > 0 {
		text += " on " + strings.Join(on, ",")
	}
	return text
}

// manner tells how a service chooses an instance.
func manner(s *fsm.Service) string {
	if s == nil {
		return ""
	}
	full := s.WithDefaults()
	text := full.Balancer.Policy
	if full.Balancer.HashOn != "" {
		text += " on " + full.Balancer.HashOn
	}
	if full.Stickiness.Strategy != fsm.StickyStateless {
		text += ", sessions " + full.Stickiness.Strategy
	}
	return text
}
