//go:build linux

package e2e_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// process is one of this machine, with its environment.
type process struct {
	pid int
	env map[string]string
}

// processes lists the living processes of this machine that have settings of
// Paceline.
func processes(t testing.TB) (list []process) {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	for _, dir := range dirs {
		raw, err := os.ReadFile(filepath.Join(dir, "environ"))
		if err != nil || !strings.Contains(string(raw), "PACELINE_INSTANCE=") {
			continue
		}
		p := process{env: map[string]string{}}
		p.pid, _ = strconv.Atoi(filepath.Base(dir))
		for kv := range strings.SplitSeq(string(raw), "\x00") {
			if k, v, ok := strings.Cut(kv, "="); ok {
				p.env[k] = v
			}
		}
		list = append(list, p)
	}
	return list
}

// owns reports whether an instance is one of this fleet's nodes.
func (f *fleet) owns(id string) bool {
	for _, n := range f.nodes {
		if _, err := os.Stat(filepath.Join(n.dir, "instances", id)); err == nil {
			return true
		}
	}
	return false
}
