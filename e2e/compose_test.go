//go:build linux

package e2e_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// composed is the cluster of docker-compose.yml under a project of its own.
type composed struct {
	*fleet
	argv []string // of compose
	env  []string
}

// compose starts the cluster as containers on free ports.
func compose(t *testing.T) *composed {
	t.Helper()
	quick(t)
	c := &composed{fleet: &fleet{t: t, dir: t.TempDir(), expect: 3}}
	if exec.Command("docker", "version").Run() != nil {
		t.Skip("no Docker engine answers")
	}
	switch {
	case exec.Command("docker", "compose", "version").Run() == nil:
		c.argv = []string{"docker", "compose"}
	case exec.Command("docker-compose", "version").Run() == nil:
		c.argv = []string{"docker-compose"}
	default:
		t.Skip("there is neither docker compose nor docker-compose")
	}
	project, image := fmt.Sprintf("paceline-e2e-%d", os.Getpid()), fmt.Sprintf("paceline:e2e-%d", os.Getpid())
	c.argv = append(c.argv, "-p", project, "-f", "../docker-compose.yml")
	c.env = append(environment(), "PACELINE_IMAGE="+image)
	for i := range 3 {
		addr := freePort(t)
		_, port, _ := net.SplitHostPort(addr)
		_, traffic, _ := net.SplitHostPort(freePort(t))
		c.env = append(c.env, fmt.Sprintf("PACELINE_PORT_%d=%s", i+1, port), fmt.Sprintf("PACELINE_TRAFFIC_%d=%s", i+1, traffic))
		n := &node{f: c.fleet, name: fmt.Sprintf("n%d", i+1), public: addr, dir: filepath.Join(c.dir, "none")}
		must(t, n.connect())
		c.nodes = append(c.nodes, n)
	}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.http.CloseIdleConnections()
		}
		if t.Failed() {
			out, _ := c.run("logs", "--tail", "8")
			t.Logf("%s", out)
		}
		if out, err := c.run("down", "-v", "-t", "5"); err != nil {
			t.Errorf("down: %v: %s", err, out)
		}
		_ = exec.Command("docker", "image", "rm", image).Run()
	})
	c.image(image)
	c.up()
	return c
}

func freePort(t testing.TB) string {
	t.Helper()
	for range addressTries {
		// Below the ports that the system gives to outgoing connections, one
		// of which could take it meanwhile.
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10_000+rand.N(10_000)))
		if err == nil {
			defer l.Close() //nolint:errcheck // it was never used
			return l.Addr().String()
		}
	}
	t.Fatal("no free port")
	return ""
}

// image builds the container image of the binary under test, from the same
// Dockerfile as "make image" and like it without a registry.
func (c *composed) image(name string) {
	c.t.Helper()
	for _, dir := range []string{"rootfs/data/tmp", "rootfs/etc/ssl/certs"} {
		must(c.t, os.MkdirAll(filepath.Join(c.dir, "build", dir), 0o755))
	}
	for to, from := range map[string]string{"build/paceline": os.Getenv(binEnv), "Dockerfile": "../Dockerfile"} {
		must(c.t, copyFile(filepath.Join(c.dir, to), from))
	}
	cmd := exec.Command("docker", "build", "-q", "--target", "local", "-t", name, c.dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("docker build: %v: %s", err, out)
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// run runs compose with a command.
func (c *composed) run(args ...string) (string, error) {
	cmd := exec.Command(c.argv[0], append(c.argv[1:len(c.argv):len(c.argv)], args...)...)
	cmd.Env = c.env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// up does "up -d" with further arguments and waits for a whole cluster.
func (c *composed) up(args ...string) {
	c.t.Helper()
	if out, err := c.run(append([]string{"up", "-d", "--no-build"}, args...)...); err != nil {
		c.t.Fatalf("up: %v: %s", err, out)
	}
	begun := time.Now()
	eventually(c.t, time.Minute, "three ready nodes", func() error {
		for _, n := range c.nodes {
			if err := n.ready(); err != nil {
				return fmt.Errorf("%s: %w", n.name, err)
			}
			st, err := n.status()
			if err != nil || st.Quorum.Healthy != 3 {
				return fmt.Errorf("%s sees %+v: %w", n.name, st, err)
			}
		}
		return nil
	})
	c.leaderAmong(c.nodes...)
	c.t.Logf("whole %s after compose returned", time.Since(begun).Round(time.Millisecond))
}

// container is the id of a node's container.
func (c *composed) container(n *node) string {
	c.t.Helper()
	out, err := c.run("ps", "-q", n.name)
	must(c.t, err)
	return strings.TrimSpace(out)
}

// TestCompose runs the cluster as containers: it becomes healthy, survives the
// loss of its leader's container, and heals when every container is created
// again, with other addresses, each time by itself.
func TestCompose(t *testing.T) {
	c := compose(t)
	eventually(t, time.Minute, "healthy containers", func() error {
		for _, n := range c.nodes {
			out, err := exec.Command("docker", "inspect", "-f", "{{.State.Health.Status}}", c.container(n)).Output()
			if status := strings.TrimSpace(string(out)); err != nil || status != "healthy" {
				return fmt.Errorf("%s is %s: %w", n.name, status, err)
			}
		}
		return nil
	})
	s := &series{kind: "docker kill"}
	for i := range rounds(1, 30) {
		leader := c.leaderAmong(c.nodes...)
		id := c.container(leader)
		r := &trial{nodes: c.nodes, target: leader, name: fmt.Sprintf("docker-%d", i)}
		r.run(func() {
			if out, err := exec.Command("docker", "kill", id).CombinedOutput(); err != nil {
				t.Errorf("docker kill: %v: %s", err, out)
			}
		})
		c.up()
		s.add(t, r, c.client(c.others(leader)...))
	}
	table(t, s)
	if s.errs+s.hung > 0 {
		t.Errorf("clients of living nodes saw %d errors and %d hung requests", s.errs, s.hung)
	}
	group(t, c.fleet, "web", 3, 6, sample())
	c.runs("web")
	l := begin(t, c.fleet)
	for range rounds(1, 20) {
		l.goesOn(20)
		for _, n := range c.nodes {
			l.hit(n)
		}
		c.up("--force-recreate")
		for _, n := range c.nodes {
			l.heal(n)
		}
	}
	l.goesOn(20)
	l.finish(false)
	c.runs("web")
}

// runs waits until a group has what it wants, and the containers run as many
// processes of it as the state says.
func (c *composed) runs(name string) {
	c.t.Helper()
	eventually(c.t, 2*settleDeadline, "processes as the state says", func() error {
		st, err := c.any().GroupStatus(c.t.Context(), name)
		if err != nil || !st.Converged {
			return fmt.Errorf("%+v: %w", st, err)
		}
		there := 0
		for _, n := range c.nodes {
			out, err := exec.Command("docker", "top", c.container(n), "-o", "pid,args").Output()
			if err != nil {
				return err
			}
			there += strings.Count(string(out), " sample")
		}
		if there != st.Desired {
			return fmt.Errorf("%d processes, the state says %d", there, st.Desired)
		}
		return nil
	})
}
