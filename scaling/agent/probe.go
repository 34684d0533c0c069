package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// maxProbeBody is how much of an answer is read.
const maxProbeBody = 64 << 10

// maxProbeHeader is how much of an answer's headers is read.
const maxProbeHeader = 16 << 10

// userAgent is how a check names itself.
const userAgent = "paceline-health-check"

// prober asks instances whether they can serve. A check goes to the address
// that the driver gave the instance and nowhere else: no proxy, no redirect.
type prober struct {
	slots chan struct{}
	// questions are the slots of checks that the leader asks for: instances
	// that hang elsewhere must not hold up the checks of this node's own.
	questions chan struct{}
	client    *http.Client
	h2c       *http.Client
	dialer    net.Dialer
}

func newProber() *prober {
	return &prober{
		slots: make(chan struct{}, maxChecks),
		h2c:   newGRPCClient(), questions: make(chan struct{}, maxQuestions),
		client: &http.Client{
			Transport: &http.Transport{
				Proxy: nil, DisableKeepAlives: true, DisableCompression: true, MaxResponseHeaderBytes: maxProbeHeader,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (p *prober) close() {
	p.client.CloseIdleConnections()
	p.h2c.CloseIdleConnections()
}

// probe returns the check of an instance as a function.
func (p *prober) probe(d driver.Driver, st driver.Status, c fsm.HealthCheck) func(context.Context) error {
	ask := p.check(d, st, c)
	return func(ctx context.Context) error { return inTurn(ctx, p.slots, ask) }
}

// inTurn makes a check when it is one of the few that run at once.
func inTurn(ctx context.Context, slots chan struct{}, ask func(context.Context) error) error {
	select {
	case slots <- struct{}{}:
		defer func() { <-slots }()
	case <-ctx.Done():
		return errors.New("too many health checks wait on this node")
	}
	return ask(ctx)
}

func (p *prober) check(d driver.Driver, st driver.Status, c fsm.HealthCheck) func(context.Context) error {
	if c.Type == fsm.CheckExec {
		return func(ctx context.Context) error { return d.Exec(ctx, st.ID, c.Command) }
	}
	return func(ctx context.Context) error { return p.ask(ctx, st.Address, c) }
}

// ask makes one check that goes over the network.
func (p *prober) ask(ctx context.Context, addr string, c fsm.HealthCheck) error {
	if host, _, err := net.SplitHostPort(addr); err == nil && c.Port != 0 {
		addr = net.JoinHostPort(host, strconv.Itoa(c.Port))
	}
	switch c.Type {
	case fsm.CheckHTTP:
		return p.http(ctx, "http://"+addr+c.Path)
	case fsm.CheckTCP:
		return p.tcp(ctx, addr)
	case fsm.CheckGRPC:
		return p.grpc(ctx, addr, c.Service)
	}
	return fmt.Errorf("a check of type %q does not go over the network", c.Type)
}

func (p *prober) http(ctx context.Context, url string) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	r.Header.Set("User-Agent", userAgent)
	resp, err := p.client.Do(r)
	if err != nil {
		return brief(ctx, err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	_, _ = io.CopyN(io.Discard, resp.Body, maxProbeBody)
	if resp.StatusCode < 200 || resp.StatusCode > 399 {
		return fmt.Errorf("answered %s", resp.Status)
	}
	return nil
}

func (p *prober) tcp(ctx context.Context, addr string) error {
	c, err := p.dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return brief(ctx, err)
	}
	return c.Close()
}

// brief says what is wrong without the layers of a network error.
func brief(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("no answer in time")
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return err
}
