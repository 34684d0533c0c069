package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func eventRoutes() []*route {
	return []*route{{
		id: "list-events", method: http.MethodGet, path: "/v1/events", tag: "events", access: Viewer, stream: true, paged: true,
		summary: "What happened, newest first; a live stream with Accept: text/event-stream",
		query: []param{
			{name: "type", kind: "string", doc: "Only events of this type (group.scaled) or noun (group); several with commas."},
			{name: "group", kind: "string", doc: "Only events of this group."},
			{name: "instance", kind: "string", doc: "Only events of this instance."},
			{name: "node", kind: "string", doc: "Only events of this node."},
		},
		answer: client.List[client.Event]{}, handle: events,
	}}
}

func events(c *call) error {
	if c.wantsStream() {
		return c.stream(c.followEvents)
	}
	p, err := c.page()
	if err != nil {
		return err
	}
	sets, keep := c.s.hub.recent(), c.keepEvent()
	newestFirst := func(yield func(string, *client.Event) bool) {
		for _, set := range slices.Backward(sets) {
			for _, e := range slices.Backward(eventsOf(set)) {
				if !yield(e.ID, &e) {
					return
				}
			}
		}
	}
	seen, _ := placeOf(p.after)
	skip := func(id string) bool {
		at, _ := placeOf(id)
		return !at.before(seen)
	}
	return list(c, p, newestFirst, skip, keep)
}

const typeEvents = "text/event-stream"

// wantsStream reports whether the client asks for an answer that goes on. One
// that asks for a head only would wait for ever for its end.
func (c *call) wantsStream() bool {
	return strings.Contains(c.c.Request.Header.Get("Accept"), typeEvents) && !wasHead(c.c.Request)
}

// keepEvent makes the filter of the request.
func (c *call) keepEvent() func(*client.Event) bool {
	group, instance, node := c.query.Get("group"), c.query.Get("instance"), c.query.Get("node")
	var types []string
	if v := c.query.Get("type"); v != "" {
		types = strings.Split(v, ",")
	}
	return func(e *client.Event) bool {
		if e.Type == client.EventReset {
			return true
		}
		ofType := func(t string) bool { return e.Type == t || strings.HasPrefix(e.Type, t+".") }
		return (group == "" || e.Group == group) && (instance == "" || e.Instance == instance) &&
			(node == "" || e.Node == node) && (len(types) == 0 || slices.ContainsFunc(types, ofType))
	}
}

// followEvents sends the events after Last-Event-ID, or the new ones, for as
// long as the client listens.
func (c *call) followEvents(out *stream) error {
	at := c.s.hub.end()
	if id := c.c.Request.Header.Get("Last-Event-ID"); id != "" {
		last, ok := placeOf(id)
		if !ok {
			return invalidField("request", "", "Last-Event-ID", "is not the id of an event, such as 42.1")
		}
		at = last
	}
	out.open(typeEvents)
	// The first id lets a client that has seen no event resume where it began.
	head := fmt.Sprintf("retry: %d\nid: %s\n\n", eventRetry.Milliseconds(), eventID(at.index, at.n))
	if err := out.write([]byte(head)); err != nil {
		return io.EOF
	}
	keep := c.keepEvent()
	for {
		sets, hole, news := c.s.hub.after(at)
		if hole {
			at = c.s.hub.end()
			if err := out.event(lagged(at)); err != nil {
				return io.EOF
			}
			continue
		}
		next, err := c.sendEvents(out, sets, at, keep)
		if err != nil {
			return io.EOF
		}
		if next != at {
			at = next
			continue
		}
		if !c.awaitNews(out, news) {
			return io.EOF
		}
	}
}

// sendEvents sends what is new in the sets and returns the reader's place
// after it.
func (c *call) sendEvents(out *stream, sets []fsm.ChangeSet, at place, keep func(*client.Event) bool) (place, error) {
	for _, set := range sets {
		for _, e := range eventsOf(set) {
			here, _ := placeOf(e.ID)
			if !at.before(here) {
				continue
			}
			at = here
			if !keep(&e) {
				continue
			}
			if err := out.event(e); err != nil {
				return at, err
			}
		}
		if at.index < set.Index { // none of its changes is an event
			at = place{index: set.Index}
		}
	}
	return at, out.flush()
}

// signOfLife is a comment, which clients leave out.
var signOfLife = []byte(": still here\n\n")

// awaitNews waits for more, with a sign of life now and then.
func (c *call) awaitNews(out *stream, news <-chan struct{}) bool {
	t := time.NewTimer(heartbeat)
	defer t.Stop()
	select {
	case <-news:
		return true
	case <-t.C:
		return out.write(signOfLife) == nil
	case <-out.ctx.Done():
		return false
	}
}

// stream is an answer that goes on.
type stream struct {
	c     *call
	ctx   context.Context // ends with the client, or with the server
	rc    *http.ResponseController
	begun bool
}

// stream runs an answer that goes on until run returns. io.EOF, and any error
// after the first byte, just end it.
func (c *call) stream(run func(*stream) error) error {
	m := c.s.metrics
	if m.openStreams.Add(1) > MaxStreams {
		m.openStreams.Add(-1)
		return fsm.Errorf(fsm.Exhausted, "node", c.s.cfg.Node, "has %d open streams, the most that are allowed", MaxStreams)
	}
	m.streams.Inc()
	defer func() { m.openStreams.Add(-1); m.streams.Dec() }()
	return c.follow(run)
}

// follow runs a stream that is counted already.
func (c *call) follow(run func(*stream) error) error {
	c.unhurried()
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	defer context.AfterFunc(c.s.open, cancel)()
	out := &stream{c: c, ctx: ctx, rc: http.NewResponseController(c.c.Writer)}
	err := run(out)
	if errors.Is(err, io.EOF) || out.begun {
		return nil
	}
	return err
}

// open sends the head, once.
func (s *stream) open(mediaType string) {
	if s.begun {
		return
	}
	s.begun = true
	s.c.streamHeaders(s.c.c.Writer.Header(), mediaType)
	s.c.c.Writer.WriteHeader(http.StatusOK)
	_ = s.flush()
}

// streamHeaders sets what the head of an answer says that goes on.
func (c *call) streamHeaders(h http.Header, mediaType string) {
	c.headers(h)
	h.Set("Content-Type", mediaType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies must not hold events back
}

// event writes one event; flush sends it.
func (s *stream) event(e client.Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_ = s.rc.SetWriteDeadline(time.Now().Add(streamTimeout))
	_, err = fmt.Fprintf(s.c.c.Writer, "id: %s\nevent: %s\ndata: %s\n\n", e.ID, e.Type, data)
	return err
}

// write sends bytes at once. A client that does not take them in time is cut
// off: it can resume.
func (s *stream) write(b []byte) error {
	_ = s.rc.SetWriteDeadline(time.Now().Add(streamTimeout))
	if _, err := s.c.c.Writer.Write(b); err != nil {
		return err
	}
	return s.flush()
}

func (s *stream) flush() error { return s.rc.Flush() }
