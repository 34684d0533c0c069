package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"iter"
	"net/http"
	"strconv"
	"time"

	"github.com/oklog/ulid/v2"
)

// maxEventLine bounds one line of an event stream.
const maxEventLine = 1 << 20

// Events follows the events after the one named by lastID, or the new ones
// when lastID is empty. The stream goes on at another endpoint, at the same
// place, when one fails; it ends with ctx, or with an error that lasts. An
// event of type [EventReset] says that some were missed.
func (c *Client) Events(ctx context.Context, lastID string, opts ...Option) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		last := lastID
		for ctx.Err() == nil {
			r := newRequest(http.MethodGet, path("events"), opts)
			r.header.Set("Accept", "text/event-stream")
			if last != "" {
				r.header.Set("Last-Event-ID", last)
			}
			resp, err := c.send(ctx, r)
			if err != nil {
				if ctx.Err() == nil {
					yield(Event{}, err)
				}
				return
			}
			seen := func(id string) { last = id }
			goOn := readEvents(resp.Body, seen, func(e Event) bool { return yield(e, nil) })
			_ = resp.Body.Close()
			if !goOn || !sleep(ctx, backoffMin) {
				return
			}
		}
	}
}

// readEvents reads a stream until it ends (true) or the consumer has enough
// (false). An id without an event is the place where the stream began.
func readEvents(body io.Reader, seen func(id string), use func(Event) bool) bool {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 4096), maxEventLine)
	for lines.Scan() {
		if id, ok := bytes.CutPrefix(lines.Bytes(), []byte("id: ")); ok {
			seen(string(id))
			continue
		}
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var e Event
		if json.Unmarshal(data, &e) != nil {
			continue
		}
		if !use(e) {
			return false
		}
	}
	return true
}

// LogOptions says which part of an instance's log to read.
type LogOptions struct {
	// Tail is the number of last lines; 0 for the server's default.
	Tail int
	// Offset continues at a place in the log; below 0 means none.
	Offset int64
	// Follow goes on while the instance lives.
	Follow bool
}

// InstanceLogs reads an instance's output. The caller closes it.
func (c *Client) InstanceLogs(ctx context.Context, id string, o LogOptions) (io.ReadCloser, error) {
	r := newRequest(http.MethodGet, path("instances", id, "logs"), nil)
	if o.Tail > 0 {
		r.query.Set("tail", strconv.Itoa(o.Tail))
	}
	if o.Offset > 0 {
		r.query.Set("offset", strconv.FormatInt(o.Offset, 10))
	}
	if o.Follow {
		r.query.Set("follow", "true")
	}
	return c.open(ctx, r)
}

// SaveSnapshot reads a snapshot of the whole state. The caller closes it.
func (c *Client) SaveSnapshot(ctx context.Context) (io.ReadCloser, error) {
	return c.open(ctx, newRequest(http.MethodGet, path("cluster", "snapshot"), nil))
}

// RestoreSnapshot replaces the whole state. The snapshot is read once, so that
// only the present endpoint is tried.
func (c *Client) RestoreSnapshot(ctx context.Context, snapshot io.Reader) (*Done, error) {
	base := c.endpoints[c.current.Load()]
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, base+path("cluster", "snapshot"), snapshot)
	if err != nil {
		return nil, invalid("%v", err)
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	req.Header.Set(HeaderIdempotencyKey, ulid.Make().String())
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(ctx, req.URL.Host, err)
	}
	defer drain(resp.Body)
	if resp.StatusCode >= 400 {
		return nil, problemOf(resp)
	}
	done := &Done{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswerBytes)).Decode(done); err != nil {
		return nil, unreachable(ctx, req.URL.Host, err)
	}
	return done, nil
}

func (c *Client) open(ctx context.Context, r *request) (io.ReadCloser, error) {
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Answer is the answer to a raw request.
type Answer struct {
	Meta
	ContentType string
	Body        []byte
}

// Raw sends any request: path begins with "/", body may be nil.
func (c *Client) Raw(ctx context.Context, method, path string, body []byte, opts ...Option) (*Answer, error) {
	r := newRequest(method, path, opts)
	r.body = body
	if len(body) > 0 && r.header.Get("Content-Type") == "" {
		r.header.Set("Content-Type", "application/json")
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.blocking)
	defer cancel()
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer drain(resp.Body)
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return nil, unreachable(ctx, resp.Request.URL.Host, err)
	}
	return &Answer{Meta: metaOf(resp), ContentType: resp.Header.Get("Content-Type"), Body: data}, nil
}

// WaitFor reads again and again, blocking on the server between the reads,
// until done says so. The first read sees a state that has at least the given
// index (0 for any), and each later read one that is newer than the last.
func WaitFor[T any](ctx context.Context, index uint64, read func(context.Context, ...Option) (*T, error), done func(*T) bool) (*T, error) {
	const each = 5 * time.Second
	var meta Meta
	opts := []Option{Capture(&meta)}
	if index > 0 {
		opts = append(opts, WithIndex(index-1, each))
	}
	for {
		v, err := read(ctx, opts...)
		if err != nil {
			return v, err
		}
		if done(v) {
			return v, nil
		}
		if ctx.Err() != nil {
			return v, unreachable(ctx, "the cluster", ctx.Err())
		}
		opts = []Option{Capture(&meta), WithIndex(meta.Index, each)}
	}
}
