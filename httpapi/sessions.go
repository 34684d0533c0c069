package httpapi

import (
	"context"
	"encoding/hex"
	"net/http"

	"github.com/zeebo/xxh3"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// Sessions assigns sessions of groups whose strategy is "sticky".
type Sessions interface {
	// Assign returns where a session lives, after having it assigned when it
	// has no place yet or its instance has ended.
	Assign(ctx context.Context, group string, key [16]byte) (fsm.Assignment, error)
}

const (
	sessionTag  = "sessions"
	allSessions = "/v1/groups/{group}/sessions"
	oneSession  = allSessions + "/{session}"
)

// sessionRoutes are what applications ask that do not use our proxy.
func sessionRoutes() []*route {
	return []*route{
		{id: "get-session-stats", method: http.MethodGet, path: allSessions, tag: sessionTag, summary: "Count a group's sessions",
			access: Viewer, read: true, answer: client.SessionStats{}, handle: sessionStats},
		{id: "route-session", method: http.MethodPost, path: oneSession + "/route", tag: sessionTag,
			summary: "Tell which instance serves a session; a new one is placed",
			access:  Operator, write: true, answer: client.SessionRoute{}, handle: routeSession},
		{id: "get-session", method: http.MethodGet, path: oneSession, tag: sessionTag, summary: "Read where a sticky session lives",
			access: Viewer, read: true, answer: client.Session{}, handle: getSession},
		{id: "delete-session", method: http.MethodDelete, path: oneSession, tag: sessionTag, summary: "Forget a sticky session",
			access: Operator, write: true, status: http.StatusNoContent, handle: deleteSession},
	}
}

// sessionDefaults does without what the node does not give.
func (cfg *Config) sessionDefaults() {
	if cfg.Sessions == nil {
		cfg.Sessions = oneByOne{cfg.Cluster}
	}
	if cfg.SessionData == nil {
		cfg.SessionData = replicatedData{cfg.Cluster}
	}
}

// oneByOne assigns each session with a command of its own.
type oneByOne struct{ cluster Cluster }

// Assign implements [Sessions].
func (o oneByOne) Assign(ctx context.Context, group string, key [16]byte) (fsm.Assignment, error) {
	res, err := o.cluster.Propose(ctx, fsm.AssignSessions{Group: group, Keys: key[:]})
	if err != nil {
		return fsm.Assignment{}, err
	}
	if list, ok := res.Value.([]fsm.Assignment); ok && len(list) == 1 {
		return list[0], nil
	}
	v, ok := o.cluster.State().Session(group, key) // the command was answered before
	if !ok {
		return fsm.Assignment{}, fsm.Errorf(fsm.UnknownOutcome, "group", group, "lost the answer to an assignment").WithHint("try again")
	}
	return fsm.Assignment{Slot: v.Slot, Instance: v.Instance, Incarnation: v.Incarnation, Epoch: v.Epoch}, nil
}

// session returns the session that the path names.
func (c *call) session() (string, error) {
	id := c.param("session")
	return id, fsm.CheckSessionID(id)
}

// strategyOf is how a group's service treats sessions.
func strategyOf(g *fsm.Group) (string, error) {
	if g.Service == nil {
		return "", fsm.Errorf(fsm.Conflict, "group", g.Name, "has no service, so it routes no sessions").
			WithHint("give the group a service, such as {\"stickiness\":{\"strategy\":%q}}", fsm.StickyTable)
	}
	return g.Service.WithDefaults().Stickiness.Strategy, nil
}

func routeSession(c *call) error {
	id, err := c.session()
	if err != nil {
		return err
	}
	s := c.s.cfg.Cluster.State()
	g, err := s.Groups.Lookup(c.param("group"))
	if err != nil {
		return err
	}
	strategy, err := strategyOf(g)
	if err != nil {
		return err
	}
	key := fsm.SessionKey(id)
	out := client.SessionRoute{Group: g.Name, Session: id, Key: hex.EncodeToString(key[:]), Strategy: strategy}
	var i *fsm.Instance
	switch strategy {
	case fsm.StickyTable:
		i, err = c.assigned(g.Name, key, &out)
	case fsm.StickyHash:
		i, err = rendezvous(s.SessionTakers(g.Name), key), nil
	default:
		if list := s.SessionTakers(g.Name); len(list) > 0 {
			i = list[(c.s.turn.Add(1)-1)%uint64(len(list))]
		}
	}
	if err != nil {
		return err
	}
	if i == nil {
		return fsm.Errorf(fsm.Unavailable, "group", g.Name, "has no instance that can serve a session").
			WithHint("wait until an instance of the group is running and healthy, then try again")
	}
	out.Instance, out.Incarnation, out.Node, out.Zone, out.Address = i.ID, i.Incarnation, i.Node, i.Zone, i.Address
	return c.json(http.StatusOK, &out)
}

// assigned has the session assigned. An instance that has ended in the moment
// since gives the session up, so that the next attempt moves it.
func (c *call) assigned(group string, key [16]byte, out *client.SessionRoute) (*fsm.Instance, error) {
	for range routeAttempts {
		a, err := c.s.cfg.Sessions.Assign(c.ctx, group, key)
		if err != nil {
			return nil, err
		}
		out.Created, out.Moved, out.Epoch = out.Created || a.Created, out.Moved || a.Moved, a.Epoch
		s := c.s.cfg.Cluster.State()
		c.index, c.stale = s.Index(), 0
		i, _ := s.Instances.Get(a.Instance)
		if e, serves := i.Endpoint(); serves && e.Incarnation == a.Incarnation {
			return i, nil
		}
	}
	return nil, nil
}

// rendezvous returns the instance with the highest hash for a session: every
// node that sees the same instances finds the same one, and an instance that
// ends moves its own sessions only.
func rendezvous(list []*fsm.Instance, key [16]byte) (best *fsm.Instance) {
	var most uint64
	seed := xxh3.Hash(key[:])
	for _, i := range list {
		if h := xxh3.HashStringSeed(i.ID, seed); best == nil || h > most {
			best, most = i, h
		}
	}
	return best
}

func getSession(c *call) error {
	id, err := c.session()
	if err != nil {
		return err
	}
	s, err := c.state()
	if err != nil {
		return err
	}
	g, err := s.Groups.Lookup(c.param("group"))
	if err != nil {
		return err
	}
	key := fsm.SessionKey(id)
	v, ok := s.Session(g.Name, key)
	if !ok {
		return fsm.ErrUnknownSession
	}
	out := client.Session{Group: g.Name, Session: id, Key: hex.EncodeToString(key[:]), SessionView: v}
	if i, ok := s.Instances.Get(v.Instance); ok {
		out.Node, out.Zone = i.Node, i.Zone
		if v.Lives {
			out.Address = i.Address
		}
	}
	return c.json(http.StatusOK, &out)
}

func deleteSession(c *call) error {
	id, err := c.session()
	if err != nil {
		return err
	}
	key := fsm.SessionKey(id)
	if _, err := c.write(fsm.DeleteSessions{Group: c.param("group"), Keys: key[:]}); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func sessionStats(c *call) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	g, err := s.Groups.Lookup(c.param("group"))
	if err != nil {
		return err
	}
	out := client.SessionStats{SessionStats: s.SessionStats(g.Name)}
	if g.Service != nil {
		out.Strategy = g.Service.WithDefaults().Stickiness.Strategy
	}
	if u, ok := s.SessionUsages.Get(g.Name); ok {
		out.DataEntries, out.DataBytes = u.Entries, u.Bytes
	}
	return c.json(http.StatusOK, &out)
}
