package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/pacelinehq/paceline/fsm"
)

const mergePatch = "application/merge-patch+json"

// patchGroup merges a patch into the group as it is and puts the result on
// the condition that the group is still that one; when it is not, it starts
// again from the newer one.
func patchGroup(c *call) error {
	name := c.param("group")
	patch, err := c.mergePatch()
	if err != nil {
		return err
	}
	cond, err := c.condition()
	if err != nil {
		return err
	}
	key := fsm.RequestIDFrom(c.ctx)
	for attempt := range patchAttempts {
		id := key
		if key != "" && attempt > 0 {
			id = fmt.Sprintf("%s#%d", key, attempt) // a refused attempt is remembered under its id
		}
		g, err := c.patchOnce(name, patch, cond, id)
		var e *fsm.Error
		if errors.As(err, &e) && e.Kind == fsm.StaleRevision && cond.revision == nil {
			continue
		}
		if err != nil {
			return err
		}
		c.etag(g.Revision)
		return c.json(http.StatusOK, g)
	}
	return fsm.Errorf(fsm.Conflict, "group", name, "changed %d times while it was being patched", patchAttempts).
		WithHint("send the patch again")
}

// patchOnce is one attempt, under its own request id.
func (c *call) patchOnce(name string, patch map[string]any, cond condition, id string) (*fsm.Group, error) {
	s := c.s.cfg.Cluster.State()
	old, err := s.Groups.Lookup(name)
	if err != nil {
		return nil, err
	}
	if done, err := answeredPatch(s, id); done {
		if err != nil {
			return nil, err
		}
		c.reflects(s, 0)
		return old, nil
	}
	g, err := mergeGroup(c.route.shape, old, patch)
	if err != nil {
		return nil, err
	}
	revision := &old.Revision
	if cond.revision != nil {
		revision = cond.revision
	}
	ctx := c.ctx
	defer func() { c.ctx = ctx }()
	c.ctx = fsm.WithRequestID(ctx, id)
	row, err := written(c, fsm.PutGroup{Group: *g, IfRevision: revision}, groups, name)
	var e *fsm.Error
	if errors.As(err, &e) && e.Kind == fsm.Conflict && e.Noun == "request" {
		// The id was used, which this node's state did not show yet.
		if s, err = c.s.cfg.Cluster.StrongState(ctx); err != nil {
			return nil, err
		}
		if _, err := answeredPatch(s, id); err != nil {
			return nil, err
		}
		return s.Groups.Lookup(name)
	}
	return row, err
}

// answeredPatch says whether a patch with this request id was answered
// before. The merged group depends on when it was merged, so that a patch that
// is sent again can not be recognised by its bytes.
func answeredPatch(s *fsm.State, id string) (bool, error) {
	if id == "" {
		return false, nil
	}
	r, ok := s.Requests.Get(id)
	if !ok {
		return false, nil
	}
	if r.Command != (fsm.PutGroup{}).Name() {
		return true, fsm.Errorf(fsm.Conflict, "request", id, "was used for another write").
			WithHint("give each write its own Idempotency-Key")
	}
	if r.Err != nil {
		return true, r.Err
	}
	return true, nil
}

// mergePatch reads the patch as an object.
func (c *call) mergePatch() (map[string]any, error) {
	if err := c.checkMedia(mergePatch, "application/json"); err != nil {
		return nil, err
	}
	b := buffers.Get().(*buffer)
	defer putBuffer(b)
	if err := c.readBody(b); err != nil {
		return nil, err
	}
	raw := b.Bytes()
	if err := syntax(raw); err != nil {
		return nil, err
	}
	if twice := duplicates(raw); len(twice) > 0 {
		return nil, &fsm.Error{Kind: fsm.Invalid, Noun: "patch", Message: "is not valid", Fields: twice}
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var patch map[string]any
	if err := d.Decode(&patch); err != nil || patch == nil {
		return nil, fsm.Errorf(fsm.Invalid, "patch", "", "must be a JSON object with the fields to change")
	}
	return patch, nil
}

// mergeGroup returns the group with the patch merged in, checked as a whole.
func mergeGroup(s *shape, old *fsm.Group, patch map[string]any) (*fsm.Group, error) {
	raw, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	if _, named := patch["template"]; named {
		delete(doc, "version") // that of another template means nothing here
	}
	if raw, err = json.Marshal(merge(doc, patch)); err != nil {
		return nil, err
	}
	g := &fsm.Group{}
	var sent string
	err = decode(s, raw, g, func() {
		sent, g.Name = g.Name, old.Name
		clearGroup(g)
	})
	return g, sameName("group", "name", old.Name, sent, err)
}

// merge applies a JSON merge patch (RFC 7396): null removes, objects merge,
// everything else replaces.
func merge(doc, patch map[string]any) map[string]any {
	if doc == nil {
		doc = map[string]any{}
	}
	for key, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(doc, key)
		case map[string]any:
			inner, _ := doc[key].(map[string]any)
			doc[key] = merge(inner, v)
		default:
			doc[key] = v
		}
	}
	return doc
}
