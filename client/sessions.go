package client

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// SessionRoute is where a session is to be served.
type SessionRoute struct {
	Group   string `json:"group"`
	Session string `json:"session"`
	// Key names the session in the replicated state, in hexadecimal digits.
	Key string `json:"key"`
	// Strategy is that of the group's service. Only a sticky session is
	// remembered; the others may get another instance with the next request.
	Strategy    string `json:"strategy"`
	Instance    string `json:"instance"`
	Incarnation int    `json:"incarnation"`
	Node        string `json:"node"`
	Zone        string `json:"zone,omitempty"`
	// Address is host:port.
	Address string `json:"address"`
	// Epoch is how often a sticky session has moved.
	Epoch uint32 `json:"epoch"`
	// Created and Moved say that this request has placed or moved it.
	Created bool `json:"created"`
	Moved   bool `json:"moved"`
}

// Session is a sticky session and where it lives.
type Session struct {
	Group   string `json:"group"`
	Session string `json:"session"`
	Key     string `json:"key"`
	fsm.SessionView
	Node string `json:"node,omitempty"`
	Zone string `json:"zone,omitempty"`
	// Address is host:port; empty when the instance has ended.
	Address string `json:"address,omitempty"`
}

// SessionStats says how many sessions a group has, and where.
type SessionStats struct {
	// Strategy is that of the group's service; empty without one.
	Strategy string `json:"strategy"`
	fsm.SessionStats
	// DataEntries and DataBytes are what shared sessions use of the quota.
	DataEntries int `json:"dataEntries"`
	DataBytes   int `json:"dataBytes"`
}

// SessionDataInfo describes the data of a shared session.
type SessionDataInfo struct {
	Group       string    `json:"group"`
	Session     string    `json:"session"`
	Bytes       int       `json:"bytes"`
	ContentType string    `json:"contentType,omitempty"`
	ExpiresAt   time.Time `json:"expiresAt"`
	UpdatedAt   time.Time `json:"updatedAt"`
	Revision    uint64    `json:"revision"`
}

// SessionData is the data of a shared session.
type SessionData struct {
	Data        []byte
	ContentType string
	ExpiresAt   time.Time
	Revision    uint64
}

// RouteSession tells which instance serves a session, and places one that is
// new. Sending it again changes nothing.
func (c *Client) RouteSession(ctx context.Context, group, session string, opts ...Option) (*SessionRoute, error) {
	return send[SessionRoute](ctx, c, http.MethodPost, path("groups", group, "sessions", session, "route"), nil, opts)
}

// GetSession reads where a sticky session lives.
func (c *Client) GetSession(ctx context.Context, group, session string, opts ...Option) (*Session, error) {
	return get[Session](ctx, c, path("groups", group, "sessions", session), opts)
}

// DeleteSession forgets a sticky session.
func (c *Client) DeleteSession(ctx context.Context, group, session string, opts ...Option) error {
	return c.act(ctx, http.MethodDelete, path("groups", group, "sessions", session), nil, opts)
}

// SessionStats counts a group's sessions.
func (c *Client) SessionStats(ctx context.Context, group string, opts ...Option) (*SessionStats, error) {
	return get[SessionStats](ctx, c, path("groups", group, "sessions"), opts)
}

// GetSessionData reads the data of a shared session.
func (c *Client) GetSessionData(ctx context.Context, group, session string, opts ...Option) (*SessionData, error) {
	r := newRequest(http.MethodGet, path("groups", group, "sessions", session, "data"), opts)
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.blocking)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer drain(resp.Body)
	d := &SessionData{ContentType: resp.Header.Get("Content-Type"), Revision: metaOf(resp).Revision}
	d.ExpiresAt, _ = time.Parse(time.RFC3339Nano, resp.Header.Get(HeaderExpiresAt))
	if d.Data, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes)); err != nil {
		return nil, unreachable(ctx, resp.Request.URL.Host, err)
	}
	return d, nil
}

// PutSessionData writes the data of a shared session, of any type. It is kept
// for ttl, or as long as the service's sessions when ttl is 0.
func (c *Client) PutSessionData(ctx context.Context, group, session string, data []byte, contentType string, ttl time.Duration, opts ...Option) (*SessionDataInfo, error) {
	opts = append([]Option{header("Content-Type", contentType)}, opts...)
	if ttl != 0 {
		opts = append(opts, query("ttl", ttl.String()))
	}
	r := newRequest(http.MethodPut, path("groups", group, "sessions", session, "data"), opts)
	r.body = data
	out := &SessionDataInfo{}
	if err := c.call(ctx, r, nil, out); err != nil {
		return nil, err
	}
	return out, nil
}

// DeleteSessionData removes the data of a shared session.
func (c *Client) DeleteSessionData(ctx context.Context, group, session string, opts ...Option) error {
	return c.act(ctx, http.MethodDelete, path("groups", group, "sessions", session, "data"), nil, opts)
}
