package httpapi

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// openAPIConfig is huma without its own pages, which load scripts from the
// network, and without the hooks that add $schema to every answer.
func openAPIConfig() huma.Config {
	cfg := huma.DefaultConfig("Paceline", "v1")
	cfg.DocsPath, cfg.OpenAPIPath, cfg.SchemasPath, cfg.CreateHooks = "", "", "", nil
	cfg.Info.Description = "Any node answers; writes are forwarded to the leader. Every answer says which index of the replicated state it " +
		"reflects (Paceline-Index), who answered (Paceline-Served-By) and how old that state was (Paceline-Stale-Ms)."
	cfg.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"token": {Type: "http", Scheme: "bearer", Description: "A token of the node's token file; not needed when the node has none."},
	}
	cfg.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[fsm.Duration](), reflect.TypeFor[durationText]())
	return cfg
}

// durationText is how a duration looks in JSON.
type durationText struct{}

// Schema implements [huma.SchemaProvider].
func (durationText) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeString, Description: "A Go duration.", Examples: []any{"30s"}}
}

// operation describes a route.
func operation(reg huma.Registry, r *route) *huma.Operation {
	op := &huma.Operation{
		OperationID: r.id, Method: r.method, Path: r.path, Summary: r.summary, Tags: []string{r.tag},
		Responses:  map[string]*huma.Response{},
		Extensions: map[string]any{"x-paceline-role": string(r.access)},
	}
	if r.access != Public {
		op.Security = []map[string][]string{{"token": {}}}
	}
	for _, name := range pathParams(r.path) {
		op.Parameters = append(op.Parameters, &huma.Param{Name: name, In: "path", Required: true, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	for _, p := range r.params() {
		s := &huma.Schema{Type: p.kind}
		for _, e := range p.enum {
			s.Enum = append(s.Enum, e)
		}
		op.Parameters = append(op.Parameters, &huma.Param{Name: p.name, In: "query", Description: p.doc, Schema: s})
	}
	op.Parameters = append(op.Parameters, headerParams(r)...)
	op.RequestBody = requestBody(reg, r)
	describeAnswers(reg, r, op)
	return op
}

func pathParams(path string) []string {
	var names []string
	for part := range strings.SplitSeq(path, "/") {
		if strings.HasPrefix(part, "{") {
			names = append(names, strings.Trim(part, "{}"))
		}
	}
	return names
}

func headerParams(r *route) []*huma.Param {
	add := func(list []*huma.Param, name, doc string) []*huma.Param {
		return append(list, &huma.Param{Name: name, In: "header", Description: doc, Schema: &huma.Schema{Type: huma.TypeString}})
	}
	var list []*huma.Param
	if r.write && !r.stream {
		list = add(list, client.HeaderIdempotencyKey, "Makes a write that is sent again apply once, for 24 hours.")
	}
	if r.conditional {
		list = add(list, "If-Match", "Write only if the resource still has this ETag; * if it exists.")
		list = add(list, "If-None-Match", "* writes only if the resource does not exist.")
	}
	if r.id == "list-events" || r.service {
		list = add(list, "Last-Event-ID", "Resume a stream after this event.")
	}
	return list
}

func requestBody(reg huma.Registry, r *route) *huma.RequestBody {
	media := r.media
	if media == "" {
		media = "application/json"
	}
	switch {
	case media == octets:
		return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{media: {Schema: &huma.Schema{Type: huma.TypeString, Format: "binary"}}}}
	case r.body == nil:
		return nil
	case media == mergePatch:
		// Every field of a patch is optional, and may be null to remove it.
		s := &huma.Schema{Type: huma.TypeObject, Description: "The fields of Group to change; null removes one.", AdditionalProperties: true}
		return &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{media: {Schema: s}}}
	}
	return &huma.RequestBody{Required: !r.bodyOptional, Content: map[string]*huma.MediaType{media: {Schema: reg.Schema(reflect.TypeOf(r.body), true, "")}}}
}

func describeAnswers(reg huma.Registry, r *route, op *huma.Operation) {
	status := r.status
	if status == 0 {
		status = http.StatusOK
	}
	op.Responses[strconv.Itoa(status)] = success(reg, r, status)
	if r.write && r.method == http.MethodPut && r.conditional {
		op.Responses["201"] = success(reg, r, http.StatusCreated)
	}
	if (r.read || r.service) && r.answer != nil && !r.paged {
		op.Responses["304"] = &huma.Response{Description: "It still has the ETag of If-None-Match."}
	}
	problem := &huma.Response{Description: "A problem: its code says which.", Content: map[string]*huma.MediaType{
		client.ProblemType: {Schema: reg.Schema(reflect.TypeFor[client.Problem](), true, "")},
	}}
	op.Responses["default"] = problem
}

func success(reg huma.Registry, r *route, status int) *huma.Response {
	text := map[string]*huma.Param{}
	for _, name := range []string{client.HeaderIndex, client.HeaderServedBy, client.HeaderStale, client.HeaderRequestID} {
		text[name] = &huma.Param{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	resp := &huma.Response{Description: http.StatusText(status), Headers: text, Content: map[string]*huma.MediaType{}}
	if r.produces != "" {
		resp.Content[r.produces] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	if r.answer != nil {
		resp.Content["application/json"] = &huma.MediaType{Schema: reg.Schema(reflect.TypeOf(r.answer), true, "")}
	}
	if r.service {
		text[client.HeaderServiceIndex] = &huma.Param{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	if r.consul {
		text["X-Consul-Index"] = &huma.Param{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	if r.id == "list-events" || r.service {
		resp.Content["text/event-stream"] = &huma.MediaType{Schema: &huma.Schema{Type: huma.TypeString}}
	}
	return resp
}

// notes say of a noun what the Go types do not: what the server sets, what a
// request must have (bodies are checked for it), and which words a field takes.
// They are never changed.
type note struct {
	readOnly, required []string
	enums              map[string][]any
}

var notes = map[string]note{
	"Template": {readOnly: []string{"version", "createdAt", "revision"}, required: []string{"driver"}},
	"Group": {readOnly: []string{"deleting", "lastScaledAt", "wokenAt", "createdAt", "updatedAt", "revision"},
		required: []string{"template", "minSize", "maxSize"}},
	"Policy": {readOnly: []string{"lastTriggeredAt", "revision"}, required: []string{"metric", "operator", "threshold", "direction", "adjustment"},
		enums: map[string][]any{
			"operator":       {"greater", "less", "greater_equal", "less_equal"},
			"direction":      {"up", "down"},
			"adjustmentType": {"absolute", "percentage"},
			"type":           {"step"},
		}},
	"HealthCheck":     {enums: map[string][]any{"type": {"none", "http", "tcp", "exec"}}},
	"Stop":            {enums: map[string][]any{"signal": {"TERM", "INT", "QUIT", "HUP", "KILL"}}},
	"ServiceEndpoint": {enums: map[string][]any{"health": {"unknown", "healthy", "unhealthy"}}},
	"MetricSample":    {required: []string{"metric", "value"}},
	"MetricsRequest":  {required: []string{"samples"}},
	"ScaleRequest":    {required: []string{"desired"}},
	"Node":            {enums: map[string][]any{"state": {"ready", "draining", "down"}}},
	"Instance": {enums: map[string][]any{
		"health": {"unknown", "healthy", "unhealthy"},
		"state":  {"planned", "starting", "running", "draining", "stopping", "stopped", "failed", "lost"},
	}},
}

// document finishes the schemas and renders the document.
func document(doc *huma.OpenAPI) ([]byte, error) {
	for name, s := range doc.Components.Schemas.Map() {
		n, ok := notes[name]
		if !ok {
			continue
		}
		for _, field := range n.readOnly {
			s.Properties[field].ReadOnly = true
		}
		if n.required != nil {
			// Read-only fields are required of answers only, as OpenAPI has it.
			s.Required = slices.Concat(n.required, requiredOf(s, n.readOnly))
			slices.Sort(s.Required)
		}
		for field, words := range n.enums {
			s.Properties[field].Enum = words
		}
	}
	raw, err := json.Marshal(doc)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, raw, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// requiredOf keeps the fields that are always there.
func requiredOf(s *huma.Schema, fields []string) []string {
	var list []string
	for _, f := range fields {
		if slices.Contains(s.Required, f) {
			list = append(list, f)
		}
	}
	return list
}
