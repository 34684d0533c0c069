// Testsum runs go test and says at the end what passed, what failed and what
// was skipped, with the reason that each skipped test gave. A test run that
// left parts out must not look like a complete one.
//
// Usage: testsum [-slow 5] -- arguments of go test
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
)

func main() {
	slow := flag.Int("slow", 5, "how many of the slowest packages to list")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	code, err := run(ctx, *slow, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
	}
	stop()
	os.Exit(code)
}

// run runs go test with the arguments and returns the exit status to end with.
func run(ctx context.Context, slow int, args []string) (int, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := cmd.Start(); err != nil {
		return 1, err
	}
	sum, readErr := Read(out, os.Stdout)
	waitErr := cmd.Wait()
	sum.Print(os.Stdout, slow)
	return verdict(sum, readErr, waitErr)
}

// verdict is the exit status of a run. A run that broke off has no failures
// and still is not a good one.
func verdict(sum *Summary, readErr, waitErr error) (int, error) {
	switch {
	case readErr != nil:
		return 1, readErr
	case waitErr != nil && len(sum.Failed) == 0:
		return 1, fmt.Errorf("go test broke off, not all tests have run: %w", waitErr)
	case !sum.OK() || waitErr != nil:
		return 1, nil
	}
	return 0, nil
}
