package httpapi

import (
	"net/http"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func templateRoutes() []*route {
	const tag = "templates"
	return []*route{
		{id: "list-templates", method: http.MethodGet, path: "/v1/templates", tag: tag, summary: "List the templates",
			access: Viewer, read: true, paged: true, answer: client.List[fsm.Template]{}, handle: listTemplates},
		{id: "get-template", method: http.MethodGet, path: "/v1/templates/{template}", tag: tag, summary: "Read a template's current version",
			access: Viewer, read: true, answer: fsm.Template{}, handle: getTemplate},
		{id: "put-template", method: http.MethodPut, path: "/v1/templates/{template}", tag: tag, summary: "Create a template or make its next version",
			access: Operator, write: true, conditional: true, body: fsm.Template{}, answer: fsm.Template{}, handle: putTemplate},
		{id: "delete-template", method: http.MethodDelete, path: "/v1/templates/{template}", tag: tag, summary: "Remove a template that no group uses",
			access: Operator, write: true, conditional: true, status: http.StatusNoContent, handle: deleteTemplate},
	}
}

func templates(s *fsm.State) *fsm.Table[fsm.Template] { return &s.Templates }

func templateRevision(t *fsm.Template) uint64 { return t.Revision }

func listTemplates(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	s, err := c.state()
	if err != nil {
		return err
	}
	return list(c, p, s.Templates.From(p.from()), nil, nil)
}

func getTemplate(c *call) error {
	find := func(s *fsm.State) (*fsm.Template, error) { return s.Templates.Lookup(c.param("template")) }
	return show(c, find, templateRevision)
}

func putTemplate(c *call) error {
	var t fsm.Template
	name := c.param("template")
	var sent string
	// What the server sets is ignored, so that a row that was read can be
	// edited and put back.
	err := c.body(&t, func() {
		sent, t.Name = t.Name, name
		t.Version, t.Revision, t.CreatedAt = 0, 0, time.Time{}
	})
	if err := sameName("template", "name", name, sent, err); err != nil {
		return err
	}
	cond, err := c.condition()
	if err != nil {
		return err
	}
	cmd := fsm.PutTemplate{Template: t, IfRevision: cond.revision}
	return save(c, cmd, cond, templates, "template", name, templateRevision)
}

func deleteTemplate(c *call) error {
	name := c.param("template")
	cond, err := c.condition()
	if err != nil {
		return err
	}
	if _, err := c.write(fsm.DeleteTemplate{Template: name, IfRevision: cond.revision}); err != nil {
		return err
	}
	return c.empty(http.StatusNoContent)
}

// sameName adds to err, the outcome of decoding a body, that the body names
// another thing than the path.
func sameName(noun, field, inPath, inBody string, err error) error {
	if inBody == "" || inBody == inPath {
		return err
	}
	bad := invalidField(noun, inPath, field, "is \""+inBody+"\", the path says \""+inPath+"\"")
	f := &faults{list: bad.Fields}
	f.merge(err)
	bad.Fields = f.list
	if f.hint != "" {
		bad.Hint = f.hint
	}
	return bad
}
