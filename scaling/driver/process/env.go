package process

import (
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/pacelinehq/paceline/scaling/driver"
)

// marks are the entries by which a process says whose it is: the instance,
// and its directory, which tells two drivers of one machine apart. Children
// inherit them, which is how leftovers are found.
func marks(dir, id string) []string {
	return []string{"PACELINE_INSTANCE=" + id, "PACELINE_DIR=" + filepath.Join(dir, workDir)}
}

// workDir is the working directory of an instance, below its own.
const workDir = "work"

// environment is all that an instance sees of its surroundings: a minimum, the
// template's own, and what only the node knows: api is the base URL of its API.
// Nothing of the node's own
// environment is in it, so that no credential leaks into what users run.
func environment(s driver.Spec, address, home, api string) []string {
	env := map[string]string{
		"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME": home,
		"LANG": "C.UTF-8",
		"TZ":   "UTC",
	}
	if tz := os.Getenv("TZ"); tz != "" {
		env["TZ"] = tz
	}
	maps.Copy(env, s.Environment)
	host, port, _ := net.SplitHostPort(address)
	// These are last: a template that set them would pass for another instance.
	maps.Copy(env, map[string]string{
		"PORT":              port,
		"PACELINE_ADDRESS":  host,
		"PACELINE_INSTANCE": s.ID,
		"PACELINE_GROUP":    s.Group,
		"PACELINE_ZONE":     s.Zone,
		"PACELINE_NODE":     s.Node,
		"PACELINE_DIR":      home,
	})
	if api != "" {
		env["PACELINE_API"] = api
	}
	if s.UserData != "" {
		env["PACELINE_USER_DATA"] = s.UserData
	}
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

func hostPort(host string, port int) string {
	if port == 0 {
		return ""
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
