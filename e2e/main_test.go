//go:build linux

package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

// binEnv names the binary under test. When it is not set, TestMain builds one.
const binEnv = "PACELINE_BIN"

// fullEnv runs what is too long for every run.
const fullEnv = "PACELINE_E2E_FULL"

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := build()
	if err != nil {
		fmt.Fprintln(os.Stderr, "the binary can not be built:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if dir != "" {
			_ = os.RemoveAll(dir)
		}
		os.Exit(code)
	}))
}

// build makes the binary as it is released, and names it in the environment.
func build() (dir string, err error) {
	if testing.Short() || os.Getenv(binEnv) != "" {
		return "", nil
	}
	if dir, err = os.MkdirTemp("", "paceline-bin-"); err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "paceline")
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "nomsgpack", "-o", bin, "../cmd/paceline")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return dir, fmt.Errorf("%w\n%s", err, out)
	}
	return dir, os.Setenv(binEnv, bin)
}

// full skips a test that runs on request only.
func full(t testing.TB) {
	t.Helper()
	quick(t)
	if os.Getenv(fullEnv) == "" {
		t.Skipf("runs when %s=1", fullEnv)
	}
}

// isFull reports whether the long form of a test is asked for.
func isFull() bool { return os.Getenv(fullEnv) != "" }

// quick skips a test under -short: every test here runs real processes.
func quick(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("real processes are not run under -short")
	}
}

// needs skips a test for want of root or of a program.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s", p)
		}
	}
}
