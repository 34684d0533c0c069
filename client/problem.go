package client

import (
	"errors"
	"fmt"
	"strings"

	"github.com/pacelinehq/paceline/fsm"
)

// ProblemType is the media type of a [Problem].
const ProblemType = "application/problem+json"

// Codes that the API adds to the kinds of fsm: conditions of HTTP itself.
const (
	// CodeMethodNotAllowed is a known path with a method that it does not have.
	CodeMethodNotAllowed fsm.Kind = "method_not_allowed"
	// CodeUnsupportedMedia is a body that is not JSON.
	CodeUnsupportedMedia fsm.Kind = "unsupported_media_type"
	// CodeUnreachable is made by the client: no endpoint answered.
	CodeUnreachable fsm.Kind = "unreachable"
	// CodeTimeout is made by the client: the caller's deadline passed first.
	CodeTimeout fsm.Kind = "timeout"
)

// Problem is an error of the API (RFC 9457), and the one error type that the
// client returns.
type Problem struct {
	// Type is a stable URI of the kind of problem.
	Type   string `json:"type,omitempty"`
	Title  string `json:"title"`
	Status int    `json:"status,omitempty"`
	// Detail is the sentence for a human.
	Detail string `json:"detail"`
	// Code is a kind of fsm, or one of this package's codes; programs switch on it.
	Code fsm.Kind `json:"code"`
	// Hint says what to do next.
	Hint      string `json:"hint,omitempty"`
	RequestID string `json:"requestId,omitempty"`
	// Errors are all offending fields of an invalid input.
	Errors []fsm.FieldError `json:"errors,omitempty"`
	// Leader is the present leader, when knowing it helps.
	Leader string `json:"leader,omitempty"`
	// RetryAfterMs is when to try again, in milliseconds.
	RetryAfterMs int64 `json:"retryAfterMs,omitempty"`

	cause error
}

// Error renders the sentence with its field errors.
func (p *Problem) Error() string {
	text := p.Detail
	if text == "" {
		text = p.Title
	}
	if len(p.Errors) == 0 {
		return text
	}
	fields := make([]string, len(p.Errors))
	for i, f := range p.Errors {
		fields[i] = f.Field + " " + f.Message
	}
	return fmt.Sprintf("%s: %s", text, strings.Join(fields, "; "))
}

// Unwrap returns the transport error behind an unreachable endpoint.
func (p *Problem) Unwrap() error { return p.cause }

// CodeOf returns the code of an error of this package, fsm.Internal for any
// other error, and "" for nil.
func CodeOf(err error) fsm.Kind {
	if err == nil {
		return ""
	}
	var p *Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return fsm.Internal
}

// retryable reports whether another attempt, perhaps elsewhere, may succeed.
// A write is safe to repeat because it carries its Idempotency-Key.
func (p *Problem) retryable() bool {
	switch p.Code {
	case CodeUnreachable, fsm.NoLeader, fsm.Unavailable, fsm.UnknownOutcome:
		return true
	case fsm.Exhausted:
		return p.RetryAfterMs > 0
	}
	return false
}
