package httpapi

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// kind is what JSON a shape takes.
type kind int

const (
	anything kind = iota
	object        // a struct: known fields only
	dict          // a map: any key
	array
	text
	integer
	number
	boolean
	custom // a type that reads itself, from a string
)

// words says each kind in error messages.
var words = map[kind]string{
	object: "an object", dict: "an object", array: "an array", text: "a string",
	integer: "a whole number", number: "a number", boolean: "true or false", custom: "a string",
}

// shape is what a body must look like, made once from the Go type. encoding/json
// alone takes "MINSIZE" for minSize, keeps the last of two equal keys, and
// stops at the first error; the shape finds these, and all errors at once.
type shape struct {
	kind   kind
	names  []string
	byName map[string]int
	fields []*shape
	needs  uint64 // bit n: field n must be given, and not be null
	elem   *shape // of dict and array
	typ    reflect.Type
}

// shapeOf returns the shape of a value's type.
func shapeOf(v any) *shape { return shapeOfType(reflect.TypeOf(v)) }

func shapeOfType(t reflect.Type) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	s := &shape{typ: t}
	p := reflect.PointerTo(t)
	if p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
		s.kind = custom
		return s
	}
	switch t.Kind() {
	case reflect.Struct:
		s.kind = object
		s.addFields(t)
	case reflect.Map:
		s.kind, s.elem = dict, shapeOfType(t.Elem())
	case reflect.Slice, reflect.Array:
		s.kind, s.elem = array, shapeOfType(t.Elem())
	case reflect.String:
		s.kind = text
	case reflect.Bool:
		s.kind = boolean
	case reflect.Float32, reflect.Float64:
		s.kind = number
	case reflect.Interface:
		s.kind = anything
	default:
		s.kind = integer
	}
	return s
}

func (s *shape) addFields(t reflect.Type) {
	s.byName = map[string]int{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if slices.Contains(notes[t.Name()].required, name) {
			s.needs |= 1 << len(s.names)
		}
		s.byName[name] = len(s.names)
		s.names = append(s.names, name)
		s.fields = append(s.fields, shapeOfType(f.Type))
	}
}

// accepts walks the bytes of a body without decoding them and reports whether
// every key is known and given once, no required one is missing, and the
// nesting is not too deep. It is
// lenient about syntax, which the decoder checks; false only means that the
// slow path must say what is wrong.
func (s *shape) accepts(b []byte) bool {
	_, ok := s.scan(b, 0, 0)
	return ok
}

func (s *shape) scan(b []byte, i, depth int) (int, bool) {
	i = space(b, i)
	if i >= len(b) || depth > MaxDepth {
		return i, false
	}
	switch b[i] {
	case '{':
		return s.scanObject(b, i+1, depth+1)
	case '[':
		return s.scanArray(b, i+1, depth+1)
	case '"':
		_, next, ok := str(b, i)
		return next, ok
	}
	start := i
	for i < len(b) && b[i] != ',' && b[i] != '}' && b[i] != ']' {
		i++
	}
	return i, i > start // no value at all; it must not be looked for again
}

func (s *shape) scanObject(b []byte, i, depth int) (int, bool) {
	var seen uint64
	for {
		i = space(b, i)
		if i < len(b) && b[i] == '}' {
			return i + 1, s.needs&^seen == 0
		}
		key, next, ok := str(b, i)
		if !ok {
			return i, false
		}
		child, bit := s.elem, uint64(0)
		if s.kind == object {
			n, known := s.byName[string(key)] // no allocation: a map index
			if bit = 1 << (n % 64); !known || seen&bit != 0 {
				return i, false
			}
			child = s.fields[n]
		}
		i = space(b, next)
		if i >= len(b) || b[i] != ':' {
			return i, false
		}
		if i = space(b, i+1); i < len(b) && b[i] != 'n' { // null is as good as absent
			seen |= bit
		}
		if i, ok = orAny(child).scan(b, i, depth); !ok {
			return i, false
		}
		i = space(b, i)
		if i < len(b) && b[i] == ',' {
			i++
		}
	}
}

func (s *shape) scanArray(b []byte, i, depth int) (int, bool) {
	for {
		i = space(b, i)
		if i >= len(b) {
			return i, false
		}
		if b[i] == ']' {
			return i + 1, true
		}
		var ok bool
		if i, ok = orAny(s.elem).scan(b, i, depth); !ok {
			return i, false
		}
		i = space(b, i)
		if i < len(b) && b[i] == ',' {
			i++
		}
	}
}

// free is the shape of a value that nothing is known of; it is never changed.
var free = &shape{kind: anything}

func orAny(s *shape) *shape {
	if s == nil {
		return free
	}
	return s
}

func space(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// str returns the content of the string at i. One with an escape in it is not
// compared with names: false for a key, harmless for a value.
func str(b []byte, i int) (content []byte, next int, ok bool) {
	if i >= len(b) || b[i] != '"' {
		return nil, i, false
	}
	for k := i + 1; k < len(b); k++ {
		switch b[k] {
		case '\\':
			k++
		case '"':
			return b[i+1 : k], k + 1, true
		}
	}
	return nil, i, false
}
