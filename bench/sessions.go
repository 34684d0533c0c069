package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/valyala/fasthttp"
)

const stickyName = "sticky"

// measureSessions compares new sessions, each placed by a request of its own,
// with the writes of the section of that name: in one cluster, by the same
// client, in turns.
func measureSessions(ctx context.Context, o *options, c *cluster, rep int, r *report) error {
	if err := c.makeSticky(ctx); err != nil {
		return err
	}
	for _, n := range o.clients {
		if err := ctx.Err(); err != nil {
			return err
		}
		conns, err := c.connect(n)
		if err != nil {
			return err
		}
		loads := []struct {
			name string
			do   func(client, i int) error
			res  *loadResult
		}{
			{name: "write beside sessions", do: func(client, i int) error {
				name := fmt.Sprintf("w%d-%d", client, i%keysPerClient)
				return conns[client%nodes].put(client, name, valueOf(i, client), "", attemptDeadline)
			}},
			{name: "session", do: func(client, i int) error {
				path := fmt.Sprintf("/v1/groups/%s/sessions/s%d-%d-%d/route", stickyName, rep, client, i)
				_, err := conns[client%nodes].(*paceConn).send(http.MethodPost, path, "", attemptDeadline)
				return err
			}},
		}
		for k := range loads {
			l := &loads[(k+rep)%len(loads)] // the one that begins changes
			l.res = closedLoop(n, o.warm, o.window, l.do)
			record(o, r, c.name(), fmt.Sprintf("%s c=%d", l.name, n), l.res)
		}
		closeAll(conns)
		ratio := loads[1].res.perSecond() / max(loads[0].res.perSecond(), 1)
		r.add(c.name(), key{"session", fmt.Sprintf("sessions to writes c=%d", n), "", median}, ratio)
		o.log("  %s: %.2f sessions a write, %d clients", c.name(), ratio, n)
	}
	return nil
}

// makeSticky makes a group whose service keeps sessions, and waits for its
// instances.
func (c *cluster) makeSticky(ctx context.Context) error {
	conns, err := c.connect(1)
	if err != nil {
		return err
	}
	defer closeAll(conns)
	api, ok := conns[0].(*paceConn)
	if !ok {
		return errors.New("sessions can be measured with paceline only")
	}
	for _, put := range [][2]string{
		{"/v1/templates/" + stickyName, `{"driver":"process","command":"@sample","healthCheck":{"type":"http","path":"/healthz","interval":"1s","fall":10}}`},
		{"/v1/groups/" + stickyName, fmt.Sprintf(`{"template":%q,"minSize":3,"maxSize":3,"desired":3,"service":{"stickiness":{"strategy":"sticky"}}}`, stickyName)},
	} {
		if _, err := api.send(http.MethodPut, put[0], put[1], attemptDeadline); err != nil {
			return err
		}
	}
	ready, cancel := context.WithTimeout(ctx, startDeadline)
	defer cancel()
	err = poll(ready, 50*time.Millisecond, func() bool {
		body, err := api.send(http.MethodGet, "/v1/groups/"+stickyName+"/status", "", attemptDeadline)
		var status struct {
			Healthy int `json:"healthy"`
		}
		return err == nil && json.Unmarshal(body, &status) == nil && status.Healthy == 3
	})
	if err != nil {
		return fmt.Errorf("wait for the instances of %s: %w", stickyName, err)
	}
	return nil
}

// send is one request with a small answer.
func (c *paceConn) send(method, path, body string, timeout time.Duration) ([]byte, error) {
	req := fasthttp.AcquireRequest()
	defer fasthttp.ReleaseRequest(req)
	req.Header.SetMethod(method)
	req.Header.SetContentType("application/json")
	req.SetRequestURI(c.base + path)
	req.AppendBodyString(body)
	res := fasthttp.AcquireResponse()
	defer fasthttp.ReleaseResponse(res)
	if err := c.http.DoTimeout(req, res, timeout); err != nil {
		return nil, err
	}
	answer := append([]byte(nil), res.Body()...)
	if status := res.StatusCode(); status >= 300 {
		return nil, &statusError{status, string(answer[:min(len(answer), 200)])}
	}
	return answer, nil
}
