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
	w := &serviceStream{s: c.s, group: group, filter: c.endpointFilter()}
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
	d, f := c.s.directory, c.s.directory.join(group) // a parked stream must not keep the call
	w.feed = f
	leave := func() { d.leave(f); release() }
	c.waited = true
	if c.parkStream(w, leave) {
		return nil
	}
	defer leave()
	return c.follow(func(out *stream) error { return c.followHere(w, out) })
}

// followHere is the stream of a connection that stays with net/http.
func (c *call) followHere(w *serviceStream, out *stream) error {
	out.open(typeEvents)
	if out.write(streamBegin()) != nil {
		return io.EOF
	}
	for {
		news := c.s.directory.news(w.feed)
		frame, last := w.next()
		if frame != nil && out.write(frame) != nil || last || !c.awaitNews(out, news) {
			return io.EOF
		}
	}
}

func streamBegin() []byte { return fmt.Appendf(nil, "retry: %d\n\n", eventRetry.Milliseconds()) }

// serviceStream is what one reader has seen of a service.
type serviceStream struct {
	s      *Server
	group  string
	filter endpointFilter
	feed   *feed
	sent   uint64 // index of what the reader has; 0 for nothing
}

// next returns what the reader is to get now, or nil; last says that there will
// be no more.
func (w *serviceStream) next() (frame []byte, last bool) {
	s := w.s.cfg.Cluster.State()
	index := serviceIndex(s, w.group)
	if index == 0 {
		return fmt.Appendf(nil, "event: %s\ndata: {\"group\":%q}\n\n", client.EventServiceRemoved, w.group), true
	}
	if !w.due(s, index) {
		return nil, false
	}
	frame, w.sent = w.s.serviceFrame(s, w.group, w.filter)
	return frame, false
}

// due says whether the reader is to get the service as it is now. Where it has
// seen more than this node, on another one, it waits for this node to catch up.
// A node that has caught up and still has an older service was restored.
func (w *serviceStream) due(s *fsm.State, index uint64) bool {
	return index > w.sent || index < w.sent && s.Index() >= w.sent
}
