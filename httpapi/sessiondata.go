package httpapi

import (
	"context"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// SessionStore keeps the data of groups whose strategy is "shared".
type SessionStore interface {
	// Get returns a session's data, which may have expired. at is the state
	// that the read asks for: the store finds the data there, or where it is.
	Get(ctx context.Context, at *fsm.State, group, session string) (*fsm.SessionData, error)
	// Put writes data and returns it with the index of the write.
	Put(ctx context.Context, c fsm.PutSessionData) (*fsm.SessionData, uint64, error)
	// Delete removes data and returns the index of that.
	Delete(ctx context.Context, c fsm.DeleteSessionData) (uint64, error)
}

// replicatedData is the store in the replicated state.
type replicatedData struct{ cluster Cluster }

// Get implements [SessionStore].
func (replicatedData) Get(_ context.Context, at *fsm.State, group, session string) (*fsm.SessionData, error) {
	d, ok := at.SessionData.Get(group + "/" + session)
	if !ok {
		return nil, unknownData()
	}
	return d, nil
}

// Put implements [SessionStore].
func (r replicatedData) Put(ctx context.Context, c fsm.PutSessionData) (*fsm.SessionData, uint64, error) {
	res, err := r.cluster.Propose(ctx, c)
	if err != nil {
		return nil, 0, err
	}
	if d, ok := res.Value.(*fsm.SessionData); ok {
		return d, res.Index, nil
	}
	d, err := r.Get(ctx, r.cluster.State(), c.Group, c.Session) // it was answered before
	return d, res.Index, err
}

// Delete implements [SessionStore].
func (r replicatedData) Delete(ctx context.Context, c fsm.DeleteSessionData) (uint64, error) {
	res, err := r.cluster.Propose(ctx, c)
	return res.Index, err
}

func sessionDataRoutes() []*route {
	const one = oneSession + "/data"
	return []*route{
		// What a session holds is its client's, and no business of a dashboard.
		{id: "get-session-data", method: http.MethodGet, path: one, tag: sessionTag, summary: "Read the data of a shared session",
			access: Operator, read: true, produces: "*/*", handle: getSessionData},
		{id: "put-session-data", method: http.MethodPut, path: one, tag: sessionTag, summary: "Write the data of a shared session, up to 4 KiB of any type",
			access: Operator, write: true, conditional: true, media: octets, answer: client.SessionDataInfo{}, handle: putSessionData,
			query: []param{{name: "ttl", kind: "string", doc: "How long the data is kept, 1s to 720h; by default that of the service's sessions."}}},
		{id: "delete-session-data", method: http.MethodDelete, path: one, tag: sessionTag, summary: "Remove the data of a shared session",
			access: Operator, write: true, conditional: true, status: http.StatusNoContent, handle: deleteSessionData},
	}
}

func unknownData() error {
	return fsm.Errorf(fsm.NotFound, "session data", "", "does not exist")
}

func dataRevision(d *fsm.SessionData) uint64 { return d.Revision }

// sharedGroup returns the name of the path's group, whose sessions have data.
func (c *call) sharedGroup(s *fsm.State) (string, error) {
	g, err := s.Groups.Lookup(c.param("group"))
	if err != nil {
		return "", err
	}
	if g.Service == nil || g.Service.Stickiness.Strategy != fsm.StickyShared {
		return "", fsm.Errorf(fsm.Conflict, "group", g.Name, "has no service whose sessions are %s", fsm.StickyShared).
			WithHint("set service.stickiness.strategy of the group to %q", fsm.StickyShared)
	}
	return g.Name, nil
}

// data returns the data of the path's session as of a state; what has expired
// is absent, be it removed already or not.
func (c *call) data(s *fsm.State, id string) (*fsm.SessionData, error) {
	group, err := c.sharedGroup(s)
	if err != nil {
		return nil, err
	}
	d, err := c.s.cfg.SessionData.Get(c.ctx, s, group, id)
	if err == nil && d.Expired(time.Now()) {
		return nil, unknownData()
	}
	return d, err
}

func getSessionData(c *call) error {
	id, err := c.session()
	if err != nil {
		return err
	}
	find := func(s *fsm.State) (*fsm.SessionData, error) { return c.data(s, id) }
	return showAs(c, find, dataRevision, func(d *fsm.SessionData) error {
		media := d.ContentType
		if media == "" {
			media = octets
		}
		h := c.c.Writer.Header()
		h.Set(client.HeaderExpiresAt, d.ExpiresAt.UTC().Format(time.RFC3339Nano))
		h.Set("Cache-Control", "no-store")
		// The bytes are anybody's: no browser may take them for a page of ours.
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; sandbox")
		c.send(http.StatusOK, []string{media}, d.Data)
		return nil
	})
}

// ttl returns the time to live that a write asks for; 0 when it does not.
func (c *call) ttl() (fsm.Duration, error) {
	v := c.query.Get("ttl")
	if v == "" && !c.query.Has("ttl") {
		return 0, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < time.Second {
		return 0, invalidField("query", "", "ttl", "must be a duration such as 30m, between 1s and 720h")
	}
	return fsm.Duration(d), nil // its end is checked with the rest
}

func putSessionData(c *call) error {
	cmd := fsm.PutSessionData{ContentType: c.c.Request.Header.Get("Content-Type")}
	var err error
	if cmd.Session, err = c.session(); err != nil {
		return err
	}
	if cmd.Group, err = c.sharedGroup(c.s.cfg.Cluster.State()); err != nil {
		return err
	}
	if cmd.TTL, err = c.ttl(); err != nil {
		return err
	}
	if cmd.Data, err = c.smallBody(fsm.MaxSessionDataBytes); err != nil {
		return err
	}
	if err := cmd.Validate(); err != nil {
		return err
	}
	cond, err := c.condition()
	if err != nil {
		return err
	}
	_, err = c.data(c.s.cfg.Cluster.State(), cmd.Session)
	existed := err == nil
	if err := cond.check("session data", "", existed); err != nil {
		return err
	}
	cmd.IfRevision = cond.revision
	d, index, err := c.s.cfg.SessionData.Put(c.ctx, cmd)
	if err != nil {
		return cond.refine(err)
	}
	c.index, c.stale = index, 0
	c.etag(d.Revision)
	status := http.StatusCreated
	if existed {
		status = http.StatusOK
	}
	return c.json(status, &client.SessionDataInfo{
		Group: d.Group, Session: d.Session, Bytes: len(d.Data), ContentType: d.ContentType,
		ExpiresAt: d.ExpiresAt, UpdatedAt: d.UpdatedAt, Revision: d.Revision,
	})
}

// smallBody reads a body of a few bytes, of any type.
func (c *call) smallBody(most int64) ([]byte, error) {
	r := c.c.Request
	if r.ContentLength > most {
		return nil, dataTooLarge(most)
	}
	if r.Body == nil {
		return nil, nil
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, most+1))
	switch {
	case int64(len(b)) > most:
		return nil, dataTooLarge(most)
	case err != nil && !errors.Is(err, io.EOF):
		return nil, fsm.Errorf(fsm.Invalid, "body", "", "ended early: %v", err)
	}
	return b, nil
}

func dataTooLarge(most int64) error {
	return fsm.Errorf(fsm.TooLarge, "session data", "", "is more than %d bytes", most).
		WithHint("keep large data elsewhere and its address in the session")
}

func deleteSessionData(c *call) error {
	id, err := c.session()
	if err != nil {
		return err
	}
	cond, err := c.condition()
	if err != nil {
		return err
	}
	group, err := c.sharedGroup(c.s.cfg.Cluster.State())
	if err != nil {
		return err
	}
	if c.index, err = c.s.cfg.SessionData.Delete(c.ctx, fsm.DeleteSessionData{Group: group, Session: id, IfRevision: cond.revision}); err != nil {
		return err
	}
	c.stale = 0
	return c.empty(http.StatusNoContent)
}
