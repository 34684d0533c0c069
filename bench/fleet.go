package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// fleet is one paceline node that runs the origins as the instances of a
// group. It is there for every proxy, so that all have the same origins; for
// Paceline it is the proxy as well.
type fleet struct {
	agent   *proc
	api     string
	traffic string // where the node's proxy listens; empty without one
	self    string // this binary, which is the origins' as well
	dir     string
	cpus    cpuLayout
	cli     *http.Client
}

// instance is what is needed of an instance in a group's status.
type instance struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Health  string `json:"health"`
	Address string `json:"address"`
	PID     int    `json:"pid"`
}

const fleetGroup = "origins"

// launchFleet starts the node, and the origins as a group's instances. The
// origins inherit the node's processors, so those are the load's at first.
func launchFleet(ctx context.Context, o *routeOptions, dir string, traffic bool) (*fleet, error) {
	ports, err := freePorts(4)
	if err != nil {
		return nil, err
	}
	addr := func(i int) string { return fmt.Sprintf("127.0.0.1:%d", ports[i]) }
	f := &fleet{
		api: addr(0), self: o.self, dir: filepath.Join(dir, "node"), cpus: o.cpus,
		cli: &http.Client{Timeout: attemptDeadline},
	}
	args := []string{
		"agent", "--name", "n1", "--data-dir", f.dir, "--api-addr", addr(0), "--peer-addr", addr(1),
		"--gossip-addr", addr(2), "--bootstrap-expect", "1", "--allow", f.self, "--log-level", "warn",
	}
	if traffic {
		f.traffic = addr(3)
		args = append(args, "--traffic-addr", f.traffic)
	} else {
		args = append(args, "--traffic-addr", "off")
	}
	f.agent = &proc{
		binary: o.paceline, args: append(args, o.pacelineArgs...), log: filepath.Join(dir, "paceline.log"),
		env: []string{"GOMAXPROCS=1"},
	}
	if err := f.agent.start(); err != nil {
		return nil, err
	}
	if err := f.found(ctx); err != nil {
		f.stop()
		return nil, fmt.Errorf("start the origins: %w\n%s", err, f.agent.lastLog())
	}
	return f, nil
}

// found makes the group and waits for its instances.
func (f *fleet) found(ctx context.Context) error {
	ready, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	err := poll(ready, 5*time.Millisecond, func() bool {
		name, err := leaderName(f.api)
		return !f.agent.running() || err == nil && name != ""
	})
	if err != nil || !f.agent.running() {
		return errors.Join(errors.New("the node does not lead"), err)
	}
	if err := f.call(ctx, http.MethodPut, "/v1/templates/origin", map[string]any{
		"driver": "process", "command": f.self, "args": []string{"origin"},
		// A machine at full load is no reason to replace an origin.
		"healthCheck": map[string]any{"type": "http", "path": "/", "interval": "1s", "fall": 10},
		"stop":        map[string]any{"grace": drainGrace.String(), "timeout": "5s"},
	}, nil); err != nil {
		return err
	}
	if err := f.put(ctx, nil); err != nil {
		return err
	}
	return f.waitFor(ctx, origins)
}

// put describes the group, with the service that Paceline's proxy reads.
func (f *fleet) put(ctx context.Context, service any) error {
	group := map[string]any{"template": "origin", "minSize": 0, "maxSize": maxOrigins, "desired": origins}
	if service != nil {
		group["service"] = service
	}
	return f.call(ctx, http.MethodPut, "/v1/groups/"+fleetGroup, group, nil)
}

// call is one request to the node's API.
func (f *fleet) call(ctx context.Context, method, path string, body, into any) error {
	var text []byte
	var err error
	if body != nil {
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+f.api+path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := f.cli.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode >= 300 {
		return fmt.Errorf("%s %s: status %d: %s", method, path, res.StatusCode, answer[:min(len(answer), 500)])
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// status lists the group's instances, and says whether it has settled: as many
// as desired run, and nothing is on its way in or out.
func (f *fleet) status(ctx context.Context) ([]instance, bool, error) {
	var st struct {
		Converged bool       `json:"converged"`
		Instances []instance `json:"instances"`
	}
	err := f.call(ctx, http.MethodGet, "/v1/groups/"+fleetGroup+"/status", nil, &st)
	return st.Instances, st.Converged, err
}

// running lists the instances that serve.
func (f *fleet) running(ctx context.Context) ([]instance, error) {
	all, _, err := f.status(ctx)
	return slices.DeleteFunc(all, func(i instance) bool { return i.State != "running" || i.Address == "" }), err
}

// waitFor waits until the group has settled at a size, and moves the origins
// away from the proxy's processor.
func (f *fleet) waitFor(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeout(ctx, healDeadline)
	defer cancel()
	var all, list []instance
	var settled bool
	var last error
	err := poll(ctx, 20*time.Millisecond, func() bool {
		var got []instance
		if got, settled, last = f.status(ctx); last != nil {
			return false
		}
		all = got
		list = slices.DeleteFunc(slices.Clone(all), func(i instance) bool { return i.State != "running" || i.Address == "" })
		_ = pin(pidsOf(list), f.cpus.load) // as soon as they are there; one may just have ended
		return settled && len(list) == n
	})
	if err != nil {
		return fmt.Errorf("%d of %d origins run (settled: %v): %w; all: %+v", len(list), n, settled, errors.Join(err, last), all)
	}
	return pin(pidsOf(list), f.cpus.load)
}

func pidsOf(list []instance) []int {
	var pids []int
	for _, i := range list {
		if i.PID > 0 {
			pids = append(pids, i.PID)
		}
	}
	return pids
}

func (f *fleet) scale(ctx context.Context, n int) error {
	return f.call(ctx, http.MethodPost, "/v1/groups/"+fleetGroup+"/scale",
		map[string]any{"desired": n, "reason": "benchmark"}, nil)
}

func (f *fleet) remove(ctx context.Context, id string) error {
	return f.call(ctx, http.MethodDelete, "/v1/instances/"+id, nil, nil)
}

// stop ends the node, and then the origins: a node that stops leaves its
// instances running, and here nobody comes back for them.
func (f *fleet) stop() {
	f.agent.stop()
	for _, pid := range marked("PACELINE_DIR=" + f.dir + "/") {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		_, _ = syscall.Wait4(pid, nil, 0, nil) // ours, see adoptOrphans; or gone
	}
	_ = os.RemoveAll(f.dir)
}
