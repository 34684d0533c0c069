package cli_test

import (
	"io"
	"testing"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/internal/cli"
)

// Every command says what it does with an example, and takes the flags that
// users know from the others.
func TestEveryCommandIsDocumented(t *testing.T) {
	root := cli.New(cli.Options{Out: io.Discard, Err: io.Discard})
	n := 0
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		n++
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s: has no short help or no example", c.CommandPath())
		}
		if c.InheritedFlags().Lookup("output") == nil && c != root {
			t.Errorf("%s: has no --output", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	if n < 40 {
		t.Errorf("only %d commands were found", n)
	}
}

// Each command that starts something which takes time can wait for its end.
func TestSlowCommandsCanWait(t *testing.T) {
	root := cli.New(cli.Options{})
	for _, path := range [][]string{
		{"group", "create"}, {"group", "update"}, {"group", "scale"}, {"group", "delete"},
		{"instance", "stop"}, {"node", "drain"}, {"node", "remove"},
	} {
		c, _, err := root.Find(path)
		if err != nil || c.Flags().Lookup("wait") == nil {
			t.Errorf("%v: no --wait (%v)", path, err)
		}
	}
	for _, path := range [][]string{
		{"group", "list"}, {"group", "status"}, {"group", "decisions"}, {"instance", "list"}, {"node", "list"}, {"cluster", "status"}, {"service", "list"}, {"service", "get"},
	} {
		c, _, err := root.Find(path)
		if err != nil || c.Flags().Lookup("watch") == nil {
			t.Errorf("%v: no --watch (%v)", path, err)
		}
	}
}
