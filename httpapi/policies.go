package httpapi

import (
	"net/http"
	"strings"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func policyRoutes() []*route {
	const tag, all = "policies", "/v1/groups/{group}/policies"
	const one = all + "/{policy}"
	return []*route{
		{id: "list-policies", method: http.MethodGet, path: all, tag: tag, summary: "List a group's policies",
			access: Viewer, read: true, paged: true, answer: client.List[fsm.Policy]{}, handle: listPolicies},
		{id: "get-policy", method: http.MethodGet, path: one, tag: tag, summary: "Read a policy",
			access: Viewer, read: true, answer: fsm.Policy{}, handle: getPolicy},
		{id: "put-policy", method: http.MethodPut, path: one, tag: tag, summary: "Create or replace a policy",
			access: Operator, write: true, conditional: true, body: fsm.Policy{}, answer: fsm.Policy{}, handle: putPolicy},
		{id: "delete-policy", method: http.MethodDelete, path: one, tag: tag, summary: "Remove a policy",
			access: Operator, write: true, conditional: true, status: http.StatusNoContent, handle: deletePolicy},
	}
}

func policies(s *fsm.State) *fsm.Table[fsm.Policy] { return &s.Policies }

func policyRevision(p *fsm.Policy) uint64 { return p.Revision }

func (c *call) policyKey() string { return c.param("group") + "/" + c.param("policy") }

func listPolicies(c *call) error {
	p, s, group, err := c.groupPage()
	if err != nil {
		return err
	}
	skip := func(key string) bool { return key <= p.after }
	return list(c, p, s.Policies.Prefix(group.Name+"/"), skip, nil)
}

// groupPage is what every listing below a group begins with.
func (c *call) groupPage() (page, *fsm.State, *fsm.Group, error) {
	p, err := c.page()
	if err != nil {
		return p, nil, nil, err
	}
	s, err := c.state()
	if err != nil {
		return p, nil, nil, err
	}
	g, err := s.Groups.Lookup(c.param("group"))
	return p, s, g, err
}

func getPolicy(c *call) error {
	find := func(s *fsm.State) (*fsm.Policy, error) {
		if _, err := s.Groups.Lookup(c.param("group")); err != nil {
			return nil, err
		}
		return s.Policies.Lookup(c.policyKey())
	}
	return show(c, find, policyRevision)
}

func putPolicy(c *call) error {
	var p fsm.Policy
	var sent, sentGroup string
	err := c.body(&p, func() {
		sent, sentGroup = p.Name, p.Group
		p.Group, p.Name = c.param("group"), c.param("policy")
		p.Revision, p.LastTriggeredAt = 0, time.Time{}
	})
	err = sameName("policy", "name", c.param("policy"), sent, err)
	if err := sameName("policy", "group", c.param("group"), sentGroup, err); err != nil {
		return err
	}
	cond, err := c.condition()
	if err != nil {
		return err
	}
	cmd := fsm.PutPolicy{Policy: p, IfRevision: cond.revision}
	return save(c, cmd, cond, policies, "policy", c.policyKey(), policyRevision)
}

func deletePolicy(c *call) error {
	cond, err := c.condition()
	if err != nil {
		return err
	}
	cmd := fsm.DeletePolicy{Group: c.param("group"), Policy: c.param("policy"), IfRevision: cond.revision}
	if _, err := c.write(cmd); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

func historyRoutes() []*route {
	const tag = "why"
	return []*route{
		{id: "list-decisions", method: http.MethodGet, path: "/v1/groups/{group}/decisions", tag: tag,
			summary: "Why a group scaled or did not, newest first", access: Viewer, read: true, paged: true,
			query:  []param{{name: "changed", kind: "boolean", doc: "Only decisions that changed the size."}},
			answer: client.List[fsm.Decision]{}, handle: listDecisions},
		{id: "list-activities", method: http.MethodGet, path: "/v1/groups/{group}/activities", tag: tag,
			summary: "What was done to a group, newest first", access: Viewer, read: true, paged: true,
			query:  []param{{name: "type", kind: "string", doc: "Only activities of this type, such as scaled."}},
			answer: client.List[fsm.Activity]{}, handle: listActivities},
	}
}

func listDecisions(c *call) error {
	p, s, g, err := c.groupPage()
	if err != nil {
		return err
	}
	changed := c.flag("changed")
	keep := func(d *fsm.Decision) bool { return !changed || d.From != d.To }
	return list(c, p, s.Decisions.Backward(g.Name+"/"), p.beyond(), keep)
}

func listActivities(c *call) error {
	p, s, g, err := c.groupPage()
	if err != nil {
		return err
	}
	want := c.query.Get("type")
	keep := func(a *fsm.Activity) bool { return want == "" || strings.EqualFold(a.Type, want) }
	return list(c, p, s.Activities.Backward(g.Name+"/"), p.beyond(), keep)
}

// beyond skips the rows of earlier pages of a listing that goes backward.
func (p page) beyond() func(string) bool { return func(key string) bool { return key >= p.after } }
