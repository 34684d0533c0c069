package sample

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// The limits of heartbeats.
const (
	minHeartbeat  = 100 * time.Millisecond
	beatTimeout   = 5 * time.Second
	maxBeatAnswer = 4 << 10
)

// heart sends heartbeats to a node, for templates with a ttl check.
type heart struct {
	every      time.Duration // 0 for none
	url, token string
	last       string // what the node said last
}

// newHeart reads HEARTBEAT, the time between two heartbeats.
func newHeart(env func(string) string) (*heart, error) {
	text := env("HEARTBEAT")
	if text == "" {
		return &heart{}, nil
	}
	every, err := time.ParseDuration(text)
	if err != nil || every < minHeartbeat {
		return nil, fmt.Errorf("HEARTBEAT is %q; it must be a duration of at least %s, such as 2s", text, minHeartbeat)
	}
	api, id := env("PACELINE_API"), env("PACELINE_INSTANCE")
	if api == "" || id == "" {
		return nil, errors.New("HEARTBEAT is set, and PACELINE_API or PACELINE_INSTANCE is not: there is nobody to send heartbeats to")
	}
	return &heart{every: every, url: api + "/v1/instances/" + url.PathEscape(id) + "/health", token: env("PACELINE_TOKEN")}, nil
}

// run sends heartbeats until ctx ends. What the node says to them is logged
// when it changes.
func (h *heart) run(ctx context.Context, a *app, out io.Writer) {
	if h.every == 0 {
		return
	}
	tick := time.NewTicker(h.every)
	defer tick.Stop()
	for {
		said := h.beat(ctx, a.failing.Load())
		if ctx.Err() != nil {
			return
		}
		if said != h.last {
			h.last = said
			_, _ = fmt.Fprintf(out, "sample: heartbeats: %s\n", said)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (h *heart) beat(ctx context.Context, failing bool) string {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	beat := map[string]string{"status": "pass"}
	if failing {
		beat = map[string]string{"status": "fail", "output": "not serving"}
	}
	body, err := json.Marshal(beat)
	if err != nil {
		return err.Error()
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPut, h.url, bytes.NewReader(body))
	if err != nil {
		return err.Error()
	}
	r.Header.Set("Content-Type", "application/json")
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	_, _ = io.CopyN(io.Discard, resp.Body, maxBeatAnswer)
	return resp.Status
}
