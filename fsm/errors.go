package fsm

import (
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an [Error]. One place in httpapi maps kinds to HTTP status
// codes, one place in the CLI maps them to exit codes.
type Kind string

// The kinds of error. Their text is the `code` of a problem document.
const (
	// Invalid is input that can never succeed as it is.
	Invalid Kind = "invalid"
	// NotFound names a noun that does not exist.
	NotFound Kind = "not_found"
	// Conflict is input that does not fit the present state: a taken name, an
	// illegal lifecycle step, a noun that is still in use.
	Conflict Kind = "conflict"
	// StaleRevision is a conditional write whose revision has moved on.
	StaleRevision Kind = "stale_revision"
	// Exhausted is a limit of the cluster that was reached.
	Exhausted Kind = "exhausted"
	// TooLarge is a body or command above its size limit.
	TooLarge Kind = "too_large"
	// NoLeader means that no quorum could be reached before the deadline.
	NoLeader Kind = "no_leader"
	// Unavailable is a node that can not serve this now (starting, overloaded,
	// diverged).
	Unavailable Kind = "unavailable"
	// UnknownOutcome is a write that may or may not have been applied.
	UnknownOutcome Kind = "unknown_outcome"
	// Unauthorized is a missing or wrong credential.
	Unauthorized Kind = "unauthorized"
	// Forbidden is a credential without the role, or a command that the node's
	// allow-list does not hold.
	Forbidden Kind = "forbidden"
	// Internal is a bug; the message says which command and where to look.
	Internal Kind = "internal"
)

// FieldError is one offending field of an [Invalid] input.
type FieldError struct {
	// Field is the JSON path of the field, such as "healthCheck.interval".
	Field string `json:"field"`
	// Message says what is wrong and what would be accepted.
	Message string `json:"message"`
}

// Error is the one error type of the product: kind, operation, noun, and a
// sentence for a human. It is a value: two replicas that fail a command
// produce equal errors.
type Error struct {
	Kind    Kind         `json:"kind"`
	Op      string       `json:"op,omitempty"`
	Noun    string       `json:"noun,omitempty"`
	Key     string       `json:"key,omitempty"`
	Message string       `json:"message"`
	Hint    string       `json:"hint,omitempty"`
	Fields  []FieldError `json:"fields,omitempty"`
}

// Error renders the sentence, with its fields when there are any.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Noun != "" {
		b.WriteString(e.Noun)
		if e.Key != "" {
			fmt.Fprintf(&b, " %q", e.Key)
		}
		b.WriteString(": ")
	}
	b.WriteString(e.Message)
	for i, f := range e.Fields {
		sep := "; "
		if i == 0 {
			sep = ": "
		}
		b.WriteString(sep + f.Field + " " + f.Message)
	}
	return b.String()
}

// WithHint returns a copy of e that tells the user what to do next.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// Errorf makes an error of a kind about a noun; key may be empty.
func Errorf(kind Kind, noun, key, format string, args ...any) *Error {
	return &Error{Kind: kind, Noun: noun, Key: key, Message: fmt.Sprintf(format, args...)}
}

// KindOf returns the kind of err, [Internal] for an error of another type and
// "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// notFound is the error for a noun that does not exist.
func notFound(noun, key string) *Error {
	return Errorf(NotFound, noun, key, "does not exist")
}

// fieldErrors collects every problem of one input, so that a user sees all of
// them at once.
type fieldErrors struct {
	list []FieldError
}

// check records a problem with a field when ok is false.
func (f *fieldErrors) check(ok bool, field, format string, args ...any) {
	if !ok {
		f.add(field, format, args...)
	}
}

// add records a problem with a field.
func (f *fieldErrors) add(field, format string, args ...any) {
	f.list = append(f.list, FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
}

// err returns the collected problems as one error about a noun, or nil.
func (f *fieldErrors) err(noun, key string) error {
	if len(f.list) == 0 {
		return nil
	}
	return &Error{Kind: Invalid, Noun: noun, Key: key, Message: "is not valid", Fields: f.list}
}
