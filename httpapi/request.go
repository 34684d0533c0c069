package httpapi

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// requestIDs makes ids that differ between nodes and starts.
type requestIDs struct {
	prefix string
	last   *atomic.Uint64
}

func newRequestIDs() requestIDs {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails
	return requestIDs{prefix: hex.EncodeToString(b[:]) + "-", last: new(atomic.Uint64)}
}

// of returns the caller's own id, when it is a sane one, or the next of ours.
func (g requestIDs) of(h http.Header) string {
	if given := h[client.HeaderRequestID]; len(given) == 1 && len(given[0]) <= maxRequestIDLen && printable(given[0]) {
		return given[0]
	}
	b := make([]byte, 0, 32)
	b = append(b, g.prefix...)
	return string(strconv.AppendUint(b, g.last.Add(1), 36))
}

// printable reports whether s is ASCII without spaces and controls.
func printable(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != ""
}

// Query parameters that many routes share.
var (
	readParams = []param{
		{name: "consistency", kind: "string", enum: []string{"stale", "leader", "strong"}, doc: "How fresh the answer must be; stale (this node's own state) by default."},
		{name: "maxStale", kind: "string", doc: "The greatest age of a stale read, such as 2s; an older state asks the leader instead."},
		{name: "index", kind: "integer", doc: "Block until the state is newer than this index, or until wait is over."},
		{name: "wait", kind: "string", doc: "How long a read with index may block, such as 30s (the default), at most 10m."},
	}
	// serviceParams are readParams with the index of one service.
	serviceParams = []param{
		readParams[0], readParams[1],
		{name: "index", kind: "integer", doc: "Block until this service has changed after this index, or until wait is over."},
		readParams[3],
	}
	pageParams = []param{
		{name: "limit", kind: "integer", doc: "Items in a page: 1 to 1000, 100 by default."},
		{name: "cursor", kind: "string", doc: "The page that the last answer's next names."},
	}
)

// params lists the query parameters of a route.
func (r *route) params() []param {
	list := slices.Clone(r.query)
	if r.paged {
		list = append(list, pageParams...)
	}
	if r.read {
		list = append(list, readParams...)
	}
	if r.service {
		list = append(list, serviceParams...)
	}
	if r.consul {
		list = append(list, consulParams...)
	}
	return list
}

// parseQuery reads the query and refuses parameters that the route does not
// have: a misspelt filter must not look like one that matches everything.
func (c *call) parseQuery() error {
	raw := c.c.Request.URL.RawQuery
	if raw == "" || c.route.path == "unmatched" {
		return nil
	}
	if len(raw) > maxQueryBytes {
		return fsm.Errorf(fsm.TooLarge, "query", "", "has %d bytes, at most %d are allowed", len(raw), maxQueryBytes)
	}
	q, err := url.ParseQuery(raw)
	if err != nil {
		return fsm.Errorf(fsm.Invalid, "query", "", "can not be parsed: %v", err)
	}
	c.query = q
	known := c.route.params()
	bad := &fsm.Error{Kind: fsm.Invalid, Noun: "query", Message: "is not valid"}
	for name, values := range q {
		if message := checkParam(known, name, values); message != "" {
			bad.Fields = append(bad.Fields, fsm.FieldError{Field: name, Message: message})
		}
	}
	if len(bad.Fields) > 0 {
		slices.SortFunc(bad.Fields, func(a, b fsm.FieldError) int { return strings.Compare(a.Field, b.Field) })
		return bad
	}
	return nil
}

func checkParam(known []param, name string, values []string) string {
	at := slices.IndexFunc(known, func(p param) bool { return p.name == name })
	if at < 0 {
		names := make([]string, len(known))
		for i, p := range known {
			names[i] = p.name
		}
		return "is not a known parameter" + didYouMean(name, names)
	}
	p := known[at]
	switch {
	case p.repeated && len(values) <= maxRepeated:
	case len(values) != 1:
		return "is given more than once"
	case len(p.enum) > 0 && !slices.Contains(p.enum, values[0]):
		return "must be one of " + strings.Join(p.enum, ", ")
	case p.kind == "integer":
		if _, err := strconv.ParseUint(values[0], 10, 63); err != nil {
			return "must be a whole number, 0 or more"
		}
	case p.kind == "boolean":
		if _, err := parseBool(values[0]); err != nil {
			return "must be true or false"
		}
	}
	return ""
}

// parseBool takes "" as true, so that ?verbose works as users write it.
func parseBool(s string) (bool, error) {
	if s == "" {
		return true, nil
	}
	return strconv.ParseBool(s)
}

func (c *call) flag(name string) bool {
	v, given := c.query[name]
	if !given {
		return false
	}
	on, err := parseBool(v[0])
	return err == nil && on
}

// number returns an integer parameter that parseQuery has checked.
func (c *call) number(name string, def int) int {
	if v := c.query.Get(name); v != "" {
		if n, err := strconv.Atoi(v); err == nil {
			return n
		}
	}
	return def
}

// span returns a duration parameter.
func (c *call) span(name string, def, limit time.Duration) (time.Duration, error) {
	v := c.query.Get(name)
	if v == "" {
		return def, nil
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > limit {
		return 0, invalidField("query", "", name, "must be a duration such as 30s, at most "+limit.String())
	}
	return d, nil
}

// condition is what If-Match and If-None-Match ask of a write.
type condition struct {
	revision *uint64 // nil for none, 0 for "must not exist"
	exists   bool    // If-Match: *
}

// condition reads the headers of a conditional write.
func (c *call) condition() (condition, error) {
	h := c.c.Request.Header
	match, none := h.Get("If-Match"), h.Get("If-None-Match")
	switch {
	case match == "" && none == "":
		return condition{}, nil
	case match != "" && none != "":
		return condition{}, invalidField("request", "", "If-Match", "can not be given together with If-None-Match")
	case none == "*":
		return condition{revision: new(uint64)}, nil
	case none != "":
		return condition{}, invalidField("request", "", "If-None-Match", "must be * on a write: create only")
	case match == "*":
		return condition{exists: true}, nil
	}
	revision, ok := parseTag(match)
	if !ok || revision == 0 {
		return condition{}, invalidField("request", "", "If-Match", `must be * or one ETag of this resource, such as "42"`)
	}
	return condition{revision: &revision}, nil
}

func parseTag(tag string) (uint64, bool) {
	tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
	if len(tag) < 3 || tag[0] != '"' || tag[len(tag)-1] != '"' {
		return 0, false
	}
	revision, err := strconv.ParseUint(tag[1:len(tag)-1], 10, 64)
	return revision, err == nil
}

// check refuses If-Match: * for a resource that is not there.
func (q condition) check(noun, key string, exists bool) error {
	if q.exists && !exists {
		return fsm.Errorf(fsm.StaleRevision, noun, key, "does not exist").WithHint("drop If-Match to create it")
	}
	return nil
}

// refine makes a refused If-None-Match the failed precondition that it is.
func (q condition) refine(err error) error {
	var e *fsm.Error
	if !errors.As(err, &e) || e.Kind != fsm.Conflict || q.revision == nil || *q.revision != 0 || e.Noun == "request" {
		return err
	}
	refined := *e
	refined.Kind = fsm.StaleRevision
	return &refined
}
