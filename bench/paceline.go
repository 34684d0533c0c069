package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// The names of the systems: Paceline with the log store that it has by
// default, with the other one, and the peer.
const (
	ours    = "paceline"
	oursWAL = "paceline-wal"
	peer    = "etcd"
)

// paceline is the system of this repository, over HTTP and JSON.
type paceline struct {
	system, path string
	// args are added to each node's command line.
	args []string
}

func (p *paceline) name() string   { return p.system }
func (p *paceline) binary() string { return p.path }

func (p *paceline) procs(dir string) ([]*proc, []string, error) {
	ports, err := freePorts(3 * nodes)
	if err != nil {
		return nil, nil, err
	}
	addr := func(node, k int) string { return fmt.Sprintf("127.0.0.1:%d", ports[3*node+k]) }
	var join, endpoints []string
	for i := range nodes {
		join = append(join, addr(i, 2))
		endpoints = append(endpoints, addr(i, 0))
	}
	var procs []*proc
	for i := range nodes {
		name := fmt.Sprintf("n%d", i+1)
		procs = append(procs, &proc{binary: p.path, log: filepath.Join(dir, name+".log"), args: append([]string{
			"agent", "--name", name, "--zone", string(rune('a' + i)), "--data-dir", filepath.Join(dir, name),
			"--api-addr", addr(i, 0), "--peer-addr", addr(i, 1), "--gossip-addr", addr(i, 2), "--traffic-addr", "off",
			"--bootstrap-expect", fmt.Sprint(nodes), "--join", strings.Join(join, ","),
		}, p.args...)})
	}
	return procs, endpoints, nil
}

func (p *paceline) ready(endpoint string) bool {
	name, err := leaderName(endpoint)
	return err == nil && name != ""
}

func (p *paceline) leader(_ context.Context, endpoints []string) (int, error) {
	for _, e := range endpoints {
		name, err := leaderName(e)
		if err != nil {
			continue
		}
		for i := range nodes {
			if name == fmt.Sprintf("n%d", i+1) {
				return i, nil
			}
		}
	}
	return 0, errors.New("paceline: no node knows a leader")
}

// leaderName asks one node who leads.
func leaderName(endpoint string) (string, error) {
	cli := http.Client{Timeout: 500 * time.Millisecond, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := cli.Get("http://" + endpoint + "/v1/cluster")
	if err != nil {
		return "", err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("GET /v1/cluster: %s", res.Status)
	}
	var c struct {
		Leader string `json:"leader"`
	}
	return c.Leader, json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&c)
}

func (p *paceline) dial(endpoint string, clients int) (conn, error) {
	return &paceConn{base: "http://" + endpoint, http: &fasthttp.HostClient{
		Addr: endpoint, MaxConns: max(clients, maxInFlight),
		// Retries would hide errors that are to be counted.
		MaxIdemponentCallAttempts: 1, RetryIfErr: neverRetry,
		MaxConnWaitTimeout: attemptDeadline, NoDefaultUserAgentHeader: true, DisablePathNormalizing: true,
	}}, nil
}

func neverRetry(*fasthttp.Request, int, error) (resetTimeout, retry bool) { return false, false }

// paceConn is the HTTP connections to one node.
type paceConn struct {
	base string
	http *fasthttp.HostClient
}

// statusError is an answer that is not a success.
type statusError struct {
	status int
	body   string
}

// Error gives the status and the start of the body.
func (e *statusError) Error() string { return fmt.Sprintf("status %d: %s", e.status, e.body) }

func (c *paceConn) put(_ int, key, value, requestID string, timeout time.Duration) error {
	req := fasthttp.AcquireRequest()
	defer fasthttp.ReleaseRequest(req)
	req.Header.SetMethod(fasthttp.MethodPut)
	req.Header.SetContentType("application/json")
	req.SetRequestURI(c.base + "/v1/templates/" + key)
	if requestID != "" {
		req.Header.Set("Idempotency-Key", requestID)
	}
	req.AppendBodyString(`{"driver":"process","command":"@sample","labels":{"note":"`)
	req.AppendBodyString(value)
	req.AppendBodyString(`"}}`)
	return c.do(req, timeout)
}

func (c *paceConn) get(_ int, key string, strong bool, timeout time.Duration) error {
	req := fasthttp.AcquireRequest()
	defer fasthttp.ReleaseRequest(req)
	consistency := "stale"
	if strong {
		consistency = "strong"
	}
	req.SetRequestURI(c.base + "/v1/templates/" + key + "?consistency=" + consistency)
	return c.do(req, timeout)
}

func (c *paceConn) do(req *fasthttp.Request, timeout time.Duration) error {
	res := fasthttp.AcquireResponse()
	defer fasthttp.ReleaseResponse(res)
	if err := c.http.DoTimeout(req, res, timeout); err != nil {
		return err
	}
	switch status := res.StatusCode(); {
	case status == fasthttp.StatusNotFound:
		return errNotFound
	case status >= 300:
		body := res.Body()
		return &statusError{status, string(body[:min(len(body), 200)])}
	}
	return nil
}

func (c *paceConn) close() { c.http.CloseIdleConnections() }
