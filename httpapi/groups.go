package httpapi

import (
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func groupRoutes() []*route {
	const tag, one = "groups", "/v1/groups/{group}"
	return []*route{
		{id: "list-groups", method: http.MethodGet, path: "/v1/groups", tag: tag, summary: "List the groups",
			access: Viewer, read: true, paged: true, answer: client.List[fsm.Group]{}, handle: listGroups,
			query: []param{{name: "template", kind: "string", doc: "Only groups of this template."}}},
		{id: "get-group", method: http.MethodGet, path: one, tag: tag, summary: "Read a group",
			access: Viewer, read: true, answer: fsm.Group{}, handle: getGroup},
		{id: "put-group", method: http.MethodPut, path: one, tag: tag, summary: "Create or replace a group",
			access: Operator, write: true, conditional: true, body: fsm.Group{}, answer: fsm.Group{}, handle: putGroup},
		{id: "patch-group", method: http.MethodPatch, path: one, tag: tag, summary: "Change some fields of a group (JSON merge patch)",
			access: Operator, write: true, conditional: true, body: fsm.Group{}, media: mergePatch, answer: fsm.Group{}, handle: patchGroup},
		{id: "delete-group", method: http.MethodDelete, path: one, tag: tag, summary: "Drain a group's instances, then remove it",
			access: Operator, write: true, conditional: true, answer: fsm.Group{}, status: http.StatusAccepted, handle: deleteGroup},
		{id: "scale-group", method: http.MethodPost, path: one + "/scale", tag: tag, summary: "Set a group's desired size",
			access: Operator, write: true, body: client.ScaleRequest{}, answer: fsm.Group{}, handle: scaleGroup},
		{id: "get-group-status", method: http.MethodGet, path: one + "/status", tag: tag, summary: "What a group wants and has, and why",
			access: Viewer, read: true, answer: client.GroupStatus{}, handle: groupStatus},
	}
}

func groups(s *fsm.State) *fsm.Table[fsm.Group] { return &s.Groups }

func groupRevision(g *fsm.Group) uint64 { return g.Revision }

func listGroups(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	s, err := c.state()
	if err != nil {
		return err
	}
	template := c.query.Get("template")
	keep := func(g *fsm.Group) bool { return template == "" || g.Template == template }
	return list(c, p, s.Groups.From(p.from()), nil, keep)
}

func getGroup(c *call) error {
	find := func(s *fsm.State) (*fsm.Group, error) { return s.Groups.Lookup(c.param("group")) }
	return show(c, find, groupRevision)
}

// clearGroup drops what the server sets, so that a row that was read can be
// edited and put back.
func clearGroup(g *fsm.Group) {
	g.Revision, g.Deleting = 0, false
	g.CreatedAt, g.UpdatedAt, g.LastScaledAt, g.WokenAt = time.Time{}, time.Time{}, time.Time{}, time.Time{}
}

func putGroup(c *call) error {
	const absent = math.MinInt
	g := fsm.Group{Desired: absent}
	var sent string
	keep := false
	name := c.param("group")
	err := c.body(&g, func() {
		sent, g.Name = g.Name, name
		// A description without a size leaves the size to the policies and to
		// whoever scales; applying it again must not undo what they did.
		if keep = g.Desired == absent; keep {
			g.Desired = g.MinSize
		}
		clearGroup(&g)
	})
	if err := sameName("group", "name", name, sent, err); err != nil {
		return err
	}
	cond, err := c.condition()
	if err != nil {
		return err
	}
	return save(c, fsm.PutGroup{Group: g, IfRevision: cond.revision, KeepDesired: keep}, cond, groups, "group", name, groupRevision)
}

func deleteGroup(c *call) error {
	cond, err := c.condition()
	if err != nil {
		return err
	}
	name := c.param("group")
	res, err := c.write(fsm.DeleteGroup{Group: name, IfRevision: cond.revision})
	if err != nil {
		return err
	}
	g, ok := res.Value.(*fsm.Group)
	if !ok { // answered before; the group may be gone meanwhile
		if g, ok = c.s.cfg.Cluster.State().Groups.Get(name); !ok {
			return c.empty(http.StatusNoContent)
		}
	}
	c.etag(g.Revision)
	return c.json(http.StatusAccepted, g)
}

func scaleGroup(c *call) error {
	var req client.ScaleRequest
	if err := c.body(&req, nil); err != nil {
		return err
	}
	name := c.param("group")
	cmd := fsm.SetDesired{Group: name, From: req.From, To: req.Desired, Reason: req.Reason}
	g, err := written(c, cmd, groups, name)
	if err != nil {
		return err
	}
	c.etag(g.Revision)
	return c.json(http.StatusOK, g)
}

func groupStatus(c *call) error {
	s, err := c.state()
	if err != nil {
		return err
	}
	g, err := s.Groups.Lookup(c.param("group"))
	if err != nil {
		return err
	}
	st := statusOfGroup(s, g)
	if c.s.cfg.Explain != nil {
		st.Explanation = c.s.cfg.Explain(g.Name)
	}
	if st.Explanation == "" {
		st.Explanation = explain(&st)
	}
	c.etag(g.Revision)
	return c.json(http.StatusOK, st)
}

// statusOfGroup counts a group's instances.
func statusOfGroup(s *fsm.State, g *fsm.Group) client.GroupStatus {
	st := client.GroupStatus{
		Group: g.Name, Template: g.Template, Version: g.Version, Deleting: g.Deleting,
		Desired: g.Desired, MinSize: g.MinSize, MaxSize: g.MaxSize,
		States: map[fsm.InstanceState]int{}, Instances: []fsm.Instance{},
	}
	living, old := 0, 0
	for _, i := range s.InstancesOf(g.Name) {
		st.States[i.State]++
		if i.State.Active() {
			st.Current++
		}
		if !i.State.Terminal() {
			living++
			if i.Version != g.Version || i.Template != g.Template {
				old++
			}
		}
		if i.State == fsm.Running {
			st.Running++
			if i.Health == fsm.Healthy {
				st.Healthy++
			}
		}
		st.Instances = append(st.Instances, *i)
	}
	if n := len(st.Instances) - statusInstances; n > 0 { // the oldest go first
		st.Instances, st.Truncated = slices.Clone(st.Instances[n:]), true
	}
	st.Converged = st.Healthy == g.Desired && living == g.Desired && old == 0
	return st
}

// explain is the plain account of a group, for nodes that have no better one.
func explain(st *client.GroupStatus) string {
	parts := []string{fmt.Sprintf("%d of %d running, %d healthy", st.Running, st.Desired, st.Healthy)}
	for _, state := range []fsm.InstanceState{fsm.Planned, fsm.Starting, fsm.Draining, fsm.Stopping, fsm.Failed, fsm.Lost} {
		if n := st.States[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, state))
		}
	}
	if st.Deleting {
		parts = append(parts, "the group is being deleted")
	}
	return strings.Join(parts, ", ")
}
