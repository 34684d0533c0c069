package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/pacelinehq/paceline/fsm"
)

// Limits of the client.
const (
	maxEndpoints    = 64
	maxAnswerBytes  = 64 << 20
	maxProblemBytes = 1 << 20
	attemptsEach    = 4 // attempts for each endpoint, at least
	minAttempts     = 6
	backoffMin      = 20 * time.Millisecond
	backoffMax      = time.Second
	maxRetryAfter   = 5 * time.Second
)

// DefaultTimeout bounds one call, with all its attempts, when the context has
// no earlier deadline.
const DefaultTimeout = 15 * time.Second

// DefaultEndpoint is where `paceline dev` and a lone agent listen.
const DefaultEndpoint = "http://127.0.0.1:7700"

// Config is how to reach a cluster. The zero value is usable.
type Config struct {
	// Endpoints are base URLs or host:port of any nodes.
	Endpoints []string
	// Token is the bearer token; empty for none.
	Token string
	// Timeout bounds one call; [DefaultTimeout] when 0.
	Timeout time.Duration
	// UserAgent is sent with every request.
	UserAgent string
	// HTTP is the client to use; nil for one with sensible limits.
	HTTP *http.Client
}

// Client talks to a cluster. It is safe for concurrent use.
type Client struct {
	endpoints []string
	current   atomic.Uint32 // the endpoint that answered last
	token     string
	agent     string
	timeout   time.Duration
	http      *http.Client
}

// New makes a client. It does not connect.
func New(cfg Config) (*Client, error) {
	if len(cfg.Endpoints) == 0 {
		cfg.Endpoints = []string{DefaultEndpoint}
	}
	if len(cfg.Endpoints) > maxEndpoints {
		return nil, invalid("has %d endpoints, at most %d are allowed", len(cfg.Endpoints), maxEndpoints)
	}
	c := &Client{token: cfg.Token, agent: cfg.UserAgent, timeout: cfg.Timeout, http: cfg.HTTP}
	for _, e := range cfg.Endpoints {
		base, err := endpoint(e)
		if err != nil {
			return nil, err
		}
		c.endpoints = append(c.endpoints, base)
	}
	if c.timeout <= 0 {
		c.timeout = DefaultTimeout
	}
	if c.http == nil {
		c.http = &http.Client{Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 2 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     60 * time.Second,
			TLSHandshakeTimeout: 5 * time.Second,
		}}
	}
	return c, nil
}

// Close drops the idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Endpoints returns the base URLs of the client.
func (c *Client) Endpoints() []string { return append([]string(nil), c.endpoints...) }

func endpoint(s string) (string, error) {
	base := strings.TrimSpace(s)
	if !strings.Contains(base, "://") {
		base = "http://" + base
	}
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || strings.Trim(u.Path, "/") != "" {
		return "", invalid("endpoint %q is not host:port or http(s)://host:port", s)
	}
	return u.Scheme + "://" + u.Host, nil
}

func invalid(format string, args ...any) *Problem {
	return &Problem{Title: "Invalid", Code: fsm.Invalid, Detail: fmt.Sprintf(format, args...)}
}

// call sends one request, retries it where that is safe, and decodes the
// answer into out unless out is nil.
func (c *Client) call(ctx context.Context, r *request, in, out any) error {
	if in != nil {
		body, err := json.Marshal(in)
		if err != nil {
			return invalid("the request can not be encoded: %v", err)
		}
		r.body = body
		if r.header.Get("Content-Type") == "" {
			r.header.Set("Content-Type", "application/json")
		}
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.blocking)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer drain(resp.Body)
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return unreachable(ctx, resp.Request.URL.Host, err)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return &Problem{
			Title: "Bad answer", Code: fsm.Internal, Status: resp.StatusCode,
			Detail: fmt.Sprintf("the answer of %s is not what was expected: %v", resp.Request.URL.Host, err),
			Hint:   "is this address the API of a paceline node?", cause: err,
		}
	}
	return nil
}

// send tries the endpoints until one answers with success or with an error
// that another attempt can not change. The caller closes the body.
func (c *Client) send(ctx context.Context, r *request) (*http.Response, error) {
	if r.method != http.MethodGet && r.header.Get(HeaderIdempotencyKey) == "" {
		r.header.Set(HeaderIdempotencyKey, ulid.Make().String())
	}
	at := c.current.Load()
	backoff := backoffMin
	var last *Problem
	for attempt := range max(minAttempts, attemptsEach*len(c.endpoints)) {
		if attempt > 0 {
			// A full round is tried at once; only then is there a reason to wait.
			wait := time.Duration(last.RetryAfterMs) * time.Millisecond
			if attempt%len(c.endpoints) == 0 {
				wait = max(wait, backoff/2+rand.N(backoff))
				backoff = min(2*backoff, backoffMax)
			}
			if !sleep(ctx, min(wait, maxRetryAfter)) {
				break
			}
		}
		n := at % uint32(len(c.endpoints))
		resp, problem := c.once(ctx, c.endpoints[n], r)
		if problem == nil {
			c.current.Store(n)
			return resp, nil
		}
		last = problem
		if r.once || !problem.retryable() || ctx.Err() != nil {
			break
		}
		at = n + 1
	}
	return nil, last
}

// once sends the request to one endpoint.
func (c *Client) once(ctx context.Context, base string, r *request) (*http.Response, *Problem) {
	target := base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, bytes.NewReader(r.body))
	if err != nil {
		return nil, invalid("%v", err)
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if c.agent != "" {
		req.Header.Set("User-Agent", c.agent)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, req.URL.Host, err)
	}
	if r.meta != nil {
		*r.meta = metaOf(resp)
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer drain(resp.Body)
	return nil, problemOf(resp)
}

// problemOf reads the problem document of an answer.
func problemOf(resp *http.Response) *Problem {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxProblemBytes))
	p := &Problem{}
	if json.Unmarshal(body, p) == nil && p.Code != "" {
		p.Status = resp.StatusCode
		return p
	}
	p = &Problem{
		Title: http.StatusText(resp.StatusCode), Status: resp.StatusCode, Code: fsm.Internal,
		Detail: fmt.Sprintf("%s answered %s without a problem document", resp.Request.URL.Host, resp.Status),
		Hint:   "is this address the API of a paceline node?",
	}
	if resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable {
		p.Code = fsm.Unavailable
	}
	return p
}

// unreachable describes a transport error, or the caller's own deadline.
func unreachable(ctx context.Context, host string, err error) *Problem {
	if ctx.Err() != nil {
		return &Problem{
			Title: "Timeout", Code: CodeTimeout, cause: ctx.Err(),
			Detail: fmt.Sprintf("%s did not answer before the deadline", host),
			Hint:   "is the cluster without a leader? see: paceline cluster status",
		}
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	return &Problem{
		Title: "Unreachable", Code: CodeUnreachable, cause: err,
		Detail: fmt.Sprintf("can not reach %s: %v", host, err),
		Hint:   "is a node running there? give other nodes with --endpoint or PACELINE_ENDPOINTS",
	}
}

// drain lets a connection be used again.
func drain(body io.ReadCloser) {
	_, _ = io.Copy(io.Discard, io.LimitReader(body, 64<<10))
	_ = body.Close()
}

// sleep waits, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
