package httpapi

import (
	"fmt"
	"io"
	"strconv"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// followService sends a service's endpoints, and again all of them at each
// change: a reader that has missed some changes has missed nothing.
func (c *call) followService() error {
	group := c.param("group")
	if err := c.s.cfg.Cluster.Halted(); err != nil {
		return err
	}
	if _, err := c.s.cfg.Cluster.State().Groups.Lookup(group); err != nil {
		return err
	}
	w := &serviceStream{c: c, group: group, filter: c.endpointFilter()}
	if id := c.c.Request.Header.Get("Last-Event-ID"); id != "" {
		sent, err := strconv.ParseUint(id, 10, 63)
		if err != nil {
			return invalidField("request", "", "Last-Event-ID", "is not the id of an event of this stream, such as 42")
		}
		if !c.flag("snapshot") {
			w.sent = sent
		}
	}
	release, err := c.watching()
	if err != nil {
		return err
	}
	defer release()
	c.waited = true
	return c.follow(w.run)
}

// serviceStream is one reader's stream of a service.
type serviceStream struct {
	c      *call
	group  string
	filter endpointFilter
	sent   uint64 // index of what the reader has; 0 for nothing
}

func (w *serviceStream) run(out *stream) error {
	d := w.c.s.directory
	f := d.join(w.group)
	defer d.leave(f)
	out.open("text/event-stream")
	if out.write(fmt.Appendf(nil, "retry: %d\n\n", eventRetry.Milliseconds())) != nil {
		return io.EOF
	}
	for {
		news := d.news(f)
		s := w.c.s.cfg.Cluster.State()
		index := serviceIndex(s, w.group)
		if index == 0 {
			_ = out.write(fmt.Appendf(nil, "event: %s\ndata: {\"group\":%q}\n\n", client.EventServiceRemoved, w.group))
			return io.EOF
		}
		if w.due(s, index) {
			frame, at := w.c.serviceFrame(s, w.group, w.filter)
			if out.write(frame) != nil {
				return io.EOF
			}
			w.sent = at
		}
		if !w.c.awaitNews(out, news) {
			return io.EOF
		}
	}
}

// due says whether the reader is to get the service as it is now. Where it has
// seen more than this node, on another one, it waits for this node to catch up.
// A node that has caught up and still has an older service was restored.
func (w *serviceStream) due(s *fsm.State, index uint64) bool {
	return index > w.sent || index < w.sent && s.Index() >= w.sent
}
