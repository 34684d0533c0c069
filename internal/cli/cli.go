package cli

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
)

// Limits of the command line.
const (
	maxInput        = 1 << 20  // a file given with -f
	maxTokenFile    = 64 << 10 // the file of PACELINE_TOKEN_FILE
	completionLimit = 200
	completionTime  = 2 * time.Second
	healthTime      = 2 * time.Second
	defaultWait     = "60s"
)

// Options is what the command line runs in.
type Options struct {
	In       io.Reader
	Out, Err io.Writer
	// Env looks up the environment; os.Getenv when nil.
	Env func(string) string
	// Version is shown by `paceline version`.
	Version string
	// Now is the time that ages are told against; time.Now when nil.
	Now func() time.Time
}

// app is what all commands of one run share.
type app struct {
	Options
	endpoints []string
	token     string
	timeout   time.Duration
	output    string
	noColor   bool
}

// New returns the root command with every verb that needs only the API. The
// caller may add commands; [Run] executes it.
func New(o Options) *cobra.Command {
	if o.Env == nil {
		o.Env = os.Getenv
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &app{Options: o}
	root := &cobra.Command{
		Use:   "paceline",
		Short: "Keep groups of instances running and scaled on a fleet of machines",
		Long: "Paceline keeps groups of instances running and scaled on a fleet of machines.\n\n" +
			"Any node answers; give several with --endpoint or PACELINE_ENDPOINTS and the next one\ntakes over when one fails.\n\n" + exitHelp,
		Example:           "  paceline cluster status\n  paceline group status web\n  paceline group decisions web",
		SilenceErrors:     true,
		SilenceUsage:      true,
		Args:              cobra.ArbitraryArgs,
		RunE:              nounOnly,
		DisableAutoGenTag: true,
	}
	root.SetIn(o.In)
	root.SetOut(o.Out)
	root.SetErr(o.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, err) })
	f := root.PersistentFlags()
	f.StringSliceVarP(&a.endpoints, "endpoint", "e", nil, "address of a node, host:port or URL; may be repeated [PACELINE_ENDPOINTS]")
	f.StringVar(&a.token, "token", "", "bearer token; better in a file [PACELINE_TOKEN, PACELINE_TOKEN_FILE]")
	f.DurationVar(&a.timeout, "timeout", client.DefaultTimeout, "how long one call may take, with all its retries")
	f.StringVarP(&a.output, "output", "o", "table", "table, wide, json, yaml, jsonl or name")
	f.BoolVar(&a.noColor, "no-color", false, "no colours [NO_COLOR]")
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(outputs, cobra.ShellCompDirectiveNoFileComp))
	root.AddGroup(&cobra.Group{ID: groupResources, Title: "Resources:"}, &cobra.Group{ID: groupTools, Title: "Tools:"})
	root.AddCommand(
		templateCommand(a), groupCommand(a), policyCommand(a), instanceCommand(a), serviceCommand(a), sessionCommand(a),
		nodeCommand(a), clusterCommand(a), metricsCommand(a), topCommand(a), eventsCommand(a), healthCommand(a), apiCommand(a), versionCommand(a),
	)
	return root
}

const (
	groupResources = "resources"
	groupTools     = "tools"
)

// Run executes the root command and returns the exit code. It tells errors on
// standard error, with their hint.
func Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	tell(root.ErrOrStderr(), err)
	return codeOf(err)
}

// client connects to what flags and environment say.
func (a *app) client() (*client.Client, error) {
	if err := a.checkOutput(); err != nil {
		return nil, err
	}
	endpoints := a.endpoints
	if len(endpoints) == 0 {
		if v := a.Env("PACELINE_ENDPOINTS"); v != "" {
			endpoints = strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' })
		}
	}
	return a.connect(endpoints...)
}

// connect makes a client of endpoints, with what flags and environment say of
// the rest.
func (a *app) connect(endpoints ...string) (*client.Client, error) {
	token, err := a.bearer()
	if err != nil {
		return nil, err
	}
	return client.New(client.Config{
		Endpoints: endpoints, Token: token, Timeout: a.timeout, UserAgent: "paceline-cli/" + a.Version,
	})
}

// bearer finds the token: flag, environment, file.
func (a *app) bearer() (string, error) {
	if a.token != "" {
		return a.token, nil
	}
	if t := a.Env("PACELINE_TOKEN"); t != "" {
		return t, nil
	}
	path := a.Env("PACELINE_TOKEN_FILE")
	if path == "" {
		return "", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", usagef("PACELINE_TOKEN_FILE can not be read: %v", err)
	}
	defer func() { _ = f.Close() }()
	b, err := io.ReadAll(io.LimitReader(f, maxTokenFile))
	return strings.TrimSpace(string(b)), err
}

// noun makes the command that the verbs of a resource stand under.
func noun(name, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: name, Short: short, GroupID: groupResources, Args: cobra.ArbitraryArgs, RunE: nounOnly,
		Example: verbs[0].Example,
	}
	c.AddCommand(verbs...)
	return c
}

// nounOnly answers a noun without a verb by its help, and one with a verb
// that it does not have by an error.
func nounOnly(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	err := usagef("%q is not a command of %q", args[0], c.CommandPath())
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		err.hint = "did you mean: " + c.CommandPath() + " " + strings.Join(near, ", ")
	} else {
		err.hint = "see: " + c.CommandPath() + " --help"
	}
	return err
}

// exactly is cobra.ExactArgs with the error of a usage mistake.
func exactly(n int) cobra.PositionalArgs { return checked(cobra.ExactArgs(n)) }

// atLeast is cobra.MinimumNArgs with the error of a usage mistake.
func atLeast(n int) cobra.PositionalArgs { return checked(cobra.MinimumNArgs(n)) }

func checked(f cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := f(c, args); err != nil {
			return usage(c, err)
		}
		return nil
	}
}

// verb makes a command that needs the client.
func (a *app) verb(use, short, example string, args cobra.PositionalArgs, run func(ctx context.Context, c *client.Client, args []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: indent(example), Args: args,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			defer c.Close()
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return run(ctx, c, args)
		},
	}
}

func indent(text string) string { return "  " + strings.ReplaceAll(text, "\n", "\n  ") }
