//go:build linux

package process

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/fsm"
)

// Exec implements [driver.Driver]: the command runs beside the instance, with
// its environment and as its user, and is killed with its children when ctx
// ends. It must be on the allow-list.
func (d *Driver) Exec(ctx context.Context, id string, argv []string) error {
	i, err := d.get(id)
	if err != nil {
		return err
	}
	if i.over() {
		return fsm.Errorf(fsm.Conflict, "instance", id, "has ended")
	}
	if len(argv) == 0 {
		return fsm.Errorf(fsm.Invalid, "instance", id, "was given no command to execute")
	}
	file, err := d.allow.resolve(argv[0])
	if err != nil {
		return err
	}
	out := &capped{limit: maxExecOutput}
	cmd := exec.CommandContext(ctx, file)
	cmd.Args, cmd.Env, cmd.Dir = argv, i.environ(), filepath.Join(i.dir, workDir)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: d.credential()}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return execError(ctx, argv[0], err, out)
	}
	return nil
}

func execError(ctx context.Context, command string, err error, out *capped) error {
	if ctx.Err() != nil {
		return fsm.Errorf(fsm.Unavailable, "command", command, "did not end in time")
	}
	text := err.Error()
	if line := strings.TrimSpace(out.String()); line != "" {
		text += ": " + line
	}
	return fsm.Errorf(fsm.Unavailable, "command", command, "failed: %s", text)
}

// environ is the environment that the instance was started with. It is not on
// disk, since it may hold secrets; an adopted process tells it.
func (i *instance) environ() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.env != nil {
		return i.env
	}
	b, err := os.ReadFile("/proc/" + strconv.Itoa(i.rec.PID) + "/environ")
	if err != nil {
		return marks(i.dir, i.id)
	}
	return strings.Split(string(bytes.TrimRight(b, "\x00")), "\x00")
}

// capped keeps the first bytes that are written to it.
type capped struct {
	bytes.Buffer
	limit int
}

// Write takes everything and keeps what fits.
func (c *capped) Write(b []byte) (int, error) {
	if room := c.limit - c.Len(); room > 0 {
		_, _ = c.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}
