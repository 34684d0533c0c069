package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// wrkResult is what wrk prints.
type wrkResult struct {
	requests int
	window   time.Duration
	p50, p99 time.Duration
	// failed are answers that are not a success, and sockets that broke.
	failed int
}

var (
	wrkTotal    = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([\d.]+(?:us|ms|s|m|h)),`)
	wrkQuantile = regexp.MustCompile(`(?m)^\s*(50|99)%\s+([\d.]+(?:us|ms|s|m|h))\s*$`)
	wrkSocket   = regexp.MustCompile(`(?m)^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkStatus   = regexp.MustCompile(`(?m)^\s*Non-2xx or 3xx responses: (\d+)`)
)

// parseWrk reads the output of "wrk --latency".
func parseWrk(text string) (*wrkResult, error) {
	total := wrkTotal.FindStringSubmatch(text)
	quantiles := wrkQuantile.FindAllStringSubmatch(text, -1)
	if total == nil || len(quantiles) != 2 {
		return nil, fmt.Errorf("this is not the output of wrk --latency:\n%s", text)
	}
	r := &wrkResult{}
	var err error
	if r.requests, err = strconv.Atoi(total[1]); err != nil {
		return nil, err
	}
	if r.window, err = time.ParseDuration(total[2]); err != nil {
		return nil, err
	}
	if r.p50, err = time.ParseDuration(quantiles[0][2]); err != nil {
		return nil, err
	}
	if r.p99, err = time.ParseDuration(quantiles[1][2]); err != nil {
		return nil, err
	}
	for _, pattern := range []*regexp.Regexp{wrkSocket, wrkStatus} {
		found := pattern.FindStringSubmatch(text)
		for i := 1; i < len(found); i++ {
			n, err := strconv.Atoi(found[i])
			if err != nil {
				return nil, err
			}
			r.failed += n
		}
	}
	return r, nil
}

// runWrk loads an address from one thread.
func runWrk(ctx context.Context, addr, path string, conns int, window time.Duration, script string) (*wrkResult, error) {
	seconds := max(int(window/time.Second), 1) // wrk knows whole seconds only
	args := []string{"-t1", fmt.Sprintf("-c%d", conns), fmt.Sprintf("-d%ds", seconds), "--latency", "--timeout", "5s"}
	if script != "" {
		args = append(args, "-s", script)
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(seconds)*time.Second+attemptDeadline)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "wrk", append(args, "http://"+addr+path)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("wrk: %w %s", err, bytes.TrimSpace(stderr.Bytes()))
	}
	return parseWrk(string(out))
}

// cookieScript writes a script that lets wrk send the cookies in turn. wrk has
// filled in the Host header when it calls init.
func cookieScript(dir string, cookies []string) (string, error) {
	var b strings.Builder
	b.WriteString("local cookies = {\n")
	for _, c := range cookies {
		fmt.Fprintf(&b, "  %q,\n", c)
	}
	b.WriteString(`}
local requests = {}
local n = 0

function init(args)
  for i, cookie in ipairs(cookies) do
    requests[i] = wrk.format("GET", nil, {["Host"] = wrk.headers["Host"], ["Cookie"] = cookie})
  end
end

function request()
  n = n % #requests + 1
  return requests[n]
end
`)
	name := filepath.Join(dir, "sticky.lua")
	return name, os.WriteFile(name, []byte(b.String()), 0o600)
}
