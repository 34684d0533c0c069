package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// validator is a noun that knows its own rules.
type validator interface{ Validate() error }

// body decodes the request's JSON into v, a pointer to the route's body type.
// prepare, when given, completes v (a name from the path) before v is
// validated. All problems are reported at once, and nothing is kept of a body
// that has one.
func (c *call) body(v any, prepare func()) error {
	if err := c.checkMedia("application/json"); err != nil {
		return err
	}
	b := buffers.Get().(*buffer)
	defer putBuffer(b)
	if err := c.readBody(b); err != nil {
		return err
	}
	raw := bytes.TrimSpace(b.Bytes())
	if len(raw) == 0 {
		if c.route.bodyOptional {
			return nil
		}
		return fsm.Errorf(fsm.Invalid, "body", "", "is empty, JSON is needed")
	}
	return decode(c.route.shape, raw, v, prepare)
}

// checkMedia refuses a body that says it is something else.
func (c *call) checkMedia(allowed ...string) error {
	sent := c.c.Request.Header.Get("Content-Type")
	if sent == "" || sent == allowed[0] {
		return nil
	}
	media, _, err := mime.ParseMediaType(sent)
	if err == nil && slices.Contains(allowed, media) {
		return nil
	}
	return fsm.Errorf(client.CodeUnsupportedMedia, "body", "", "has content type %q, %s is needed", sent, strings.Join(allowed, " or ")).
		WithHint("curl: -H 'Content-Type: %s'", allowed[0])
}

// readBody reads the whole body, up to the limit.
func (c *call) readBody(b *buffer) error {
	r := c.c.Request
	if r.ContentLength > MaxBodyBytes {
		return tooLarge(r.ContentLength)
	}
	n, err := b.ReadFrom(io.LimitReader(r.Body, MaxBodyBytes+1))
	switch {
	case n > MaxBodyBytes:
		return tooLarge(n)
	case err != nil:
		return fsm.Errorf(fsm.Invalid, "body", "", "ended early: %v", err)
	}
	return nil
}

func tooLarge(n int64) error {
	return fsm.Errorf(fsm.TooLarge, "body", "", "has %d bytes or more, at most %d are allowed", n, MaxBodyBytes)
}

// decode is the fast path, for bodies without a fault: one walk over the
// bytes, one decoding, one validation.
func decode(s *shape, raw []byte, v any, prepare func()) error {
	if s.accepts(raw) && json.Unmarshal(raw, v) == nil {
		if prepare != nil {
			prepare()
		}
		if valid, ok := v.(validator); ok {
			return valid.Validate()
		}
		return nil
	}
	return diagnose(s, raw, v, prepare)
}

// diagnose says everything that is wrong with a body: what its shape does not
// allow, and what the rest breaks of the noun's own rules.
func diagnose(s *shape, raw []byte, v any, prepare func()) error {
	if err := syntax(raw); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	var tree any
	if err := d.Decode(&tree); err != nil {
		return fsm.Errorf(fsm.Invalid, "body", "", "is not valid JSON: %v", err)
	}
	f := &faults{}
	tree, _ = f.check(s, tree, "")
	f.list = append(f.list, duplicates(raw)...)
	clean, err := json.Marshal(tree)
	if err == nil && json.Unmarshal(clean, v) == nil {
		if prepare != nil {
			prepare()
		}
		if valid, ok := v.(validator); ok {
			f.merge(valid.Validate())
		}
	}
	if len(f.list) == 0 {
		return nil
	}
	noun := f.noun
	if noun == "" {
		noun = "body"
	}
	return &fsm.Error{Kind: fsm.Invalid, Noun: noun, Key: f.key, Message: "is not valid", Fields: f.list, Hint: f.hint}
}

// syntax reports malformed or too deep JSON.
func syntax(raw []byte) error {
	if depth(raw) > MaxDepth {
		return fsm.Errorf(fsm.Invalid, "body", "", "nests deeper than %d levels", MaxDepth)
	}
	var ignored json.RawMessage
	err := json.Unmarshal(raw, &ignored)
	if err == nil {
		return nil
	}
	e := fsm.Errorf(fsm.Invalid, "body", "", "is not valid JSON: %v", err)
	var at *json.SyntaxError
	if errors.As(err, &at) {
		line := 1 + bytes.Count(raw[:min(int(at.Offset), len(raw))], []byte("\n"))
		e = fsm.Errorf(fsm.Invalid, "body", "", "is not valid JSON: line %d: %v", line, err)
	}
	if bytes.Contains(raw, []byte("NaN")) || bytes.Contains(raw, []byte("Infinity")) {
		return e.WithHint("NaN and Infinity are not numbers of JSON; leave the value out")
	}
	return e
}

// depth is how deep brackets nest, outside of strings.
func depth(raw []byte) int {
	now, most := 0, 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			if _, next, ok := str(raw, i); ok {
				i = next - 1
			}
		case '{', '[':
			now++
			most = max(most, now)
		case '}', ']':
			now--
		}
	}
	return most
}

// duplicates finds keys that an object has twice.
func duplicates(raw []byte) []fsm.FieldError {
	type level struct {
		keys map[string]bool // nil in an array
		name string
		key  bool // a key comes next
	}
	var out []fsm.FieldError
	var stack []level
	d := json.NewDecoder(bytes.NewReader(raw))
	for len(out) < MaxFieldErrors {
		t, err := d.Token()
		if err != nil {
			return out
		}
		top := len(stack) - 1
		if delim, ok := t.(json.Delim); ok {
			switch delim {
			case '{':
				stack = append(stack, level{keys: map[string]bool{}, key: true})
				continue
			case '[':
				stack = append(stack, level{})
				continue
			}
			stack = stack[:top]
			top--
		} else if top >= 0 && stack[top].key {
			name, _ := t.(string)
			if stack[top].keys[name] {
				var path []string
				for _, l := range stack[:top] {
					path = append(path, l.name)
				}
				out = append(out, fsm.FieldError{Field: strings.Join(append(path, name), "."), Message: "is given twice"})
			}
			stack[top].keys[name], stack[top].name, stack[top].key = true, name, false
			continue
		}
		if top >= 0 && stack[top].keys != nil {
			stack[top].key = true
		}
	}
	return out
}

// faults collects what is wrong with a body.
type faults struct {
	list      []fsm.FieldError
	noun, key string
	hint      string
}

func (f *faults) add(field, format string, args ...any) {
	if field == "" {
		field = "body"
	}
	f.list = append(f.list, fsm.FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

// merge adds the noun's own complaints, except about fields that are known to
// be wrong already.
func (f *faults) merge(err error) {
	var e *fsm.Error
	if !errors.As(err, &e) {
		return
	}
	f.noun, f.key, f.hint = e.Noun, e.Key, e.Hint
	bad := map[string]bool{}
	for _, x := range f.list {
		bad[x.Field] = true
	}
	for _, x := range e.Fields {
		if !bad[x.Field] {
			f.list = append(f.list, x)
		}
	}
}

// check compares a decoded value with a shape and returns it without its
// faulty parts; false when nothing is left of it.
func (f *faults) check(s *shape, v any, at string) (any, bool) {
	if v == nil {
		return nil, true
	}
	switch s.kind {
	case object, dict:
		if m, ok := v.(map[string]any); ok {
			return f.checkFields(s, m, at), true
		}
	case array:
		if list, ok := v.([]any); ok {
			return f.checkItems(s, list, at), true
		}
	default:
		return f.checkScalar(s, v, at)
	}
	f.add(at, "must be %s, not %s", words[s.kind], describe(v))
	return nil, false
}

func (f *faults) checkFields(s *shape, m map[string]any, at string) map[string]any {
	out := make(map[string]any, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		field := name
		if at != "" {
			field = at + "." + name
		}
		child := s.elem
		if s.kind == object {
			n, known := s.byName[name]
			if !known {
				f.add(field, "is not a known field%s", didYouMean(name, s.names))
				continue
			}
			child = s.fields[n]
		}
		if v, ok := f.check(orAny(child), m[name], field); ok {
			out[name] = v
		}
	}
	f.checkMissing(s, m, at)
	return out
}

func (f *faults) checkMissing(s *shape, m map[string]any, at string) {
	for n, name := range s.names {
		if s.needs&(1<<n) != 0 && m[name] == nil {
			f.add(strings.TrimPrefix(at+"."+name, "."), "is required")
		}
	}
}

func (f *faults) checkItems(s *shape, list []any, at string) []any {
	out := make([]any, 0, len(list))
	for i, item := range list {
		if v, ok := f.check(s.elem, item, fmt.Sprintf("%s[%d]", at, i)); ok {
			out = append(out, v)
		}
	}
	return out
}

// checkScalar lets the Go type itself try the value.
func (f *faults) checkScalar(s *shape, v any, at string) (any, bool) {
	if s.kind == anything {
		return v, true
	}
	raw, err := json.Marshal(v)
	if err == nil {
		if err = tryDecode(s, raw); err == nil {
			return v, true
		}
	}
	var wrong *json.UnmarshalTypeError
	switch n, isNumber := v.(json.Number); {
	case s.kind == custom && !errors.As(err, &wrong):
		f.add(at, "is not valid: %v", err)
	case isNumber && (s.kind == integer || s.kind == number):
		f.add(at, "is %s, which is not %s in range", n, words[s.kind])
	default:
		f.add(at, "must be %s, not %s", words[s.kind], describe(v))
	}
	return nil, false
}

// describe says what a decoded value is.
func describe(v any) string {
	switch v := v.(type) {
	case string:
		if len(v) > 40 {
			v = v[:40] + "…"
		}
		return fmt.Sprintf("the string %q", v)
	case json.Number:
		return "the number " + v.String()
	case bool:
		return fmt.Sprint(v)
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return "null"
}

// notFoundPath and methodNotAllowed are what the router itself answers.
func notFoundPath(path string) error {
	return fsm.Errorf(fsm.NotFound, "path", path, "does not exist").WithHint("GET / lists the resources, GET /openapi.json describes them")
}

func methodNotAllowed(method, path, allow string) error {
	if allow == "" {
		allow = http.MethodGet
	}
	return fsm.Errorf(client.CodeMethodNotAllowed, "path", path, "has no %s", method).WithHint("it has: %s", allow)
}
