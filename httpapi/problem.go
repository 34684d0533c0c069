package httpapi

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// statusOf is the one place that maps kinds of errors to HTTP.
var statusOf = map[fsm.Kind]int{
	fsm.Invalid:                 http.StatusUnprocessableEntity,
	fsm.NotFound:                http.StatusNotFound,
	fsm.Conflict:                http.StatusConflict,
	fsm.StaleRevision:           http.StatusPreconditionFailed,
	fsm.Exhausted:               http.StatusTooManyRequests,
	fsm.TooLarge:                http.StatusRequestEntityTooLarge,
	fsm.NoLeader:                http.StatusServiceUnavailable,
	fsm.Unavailable:             http.StatusServiceUnavailable,
	fsm.UnknownOutcome:          http.StatusGatewayTimeout,
	fsm.Unauthorized:            http.StatusUnauthorized,
	fsm.Forbidden:               http.StatusForbidden,
	fsm.Internal:                http.StatusInternalServerError,
	client.CodeMethodNotAllowed: http.StatusMethodNotAllowed,
	client.CodeUnsupportedMedia: http.StatusUnsupportedMediaType,
}

// titles are the short, stable names of the kinds.
var titles = map[fsm.Kind]string{
	fsm.Invalid:                 "Invalid input",
	fsm.NotFound:                "Not found",
	fsm.Conflict:                "Conflict",
	fsm.StaleRevision:           "Revision has moved on",
	fsm.Exhausted:               "Limit reached",
	fsm.TooLarge:                "Too large",
	fsm.NoLeader:                "No leader",
	fsm.Unavailable:             "Unavailable",
	fsm.UnknownOutcome:          "Outcome unknown",
	fsm.Unauthorized:            "Not authenticated",
	fsm.Forbidden:               "Not allowed",
	fsm.Internal:                "Internal error",
	client.CodeMethodNotAllowed: "Method not allowed",
	client.CodeUnsupportedMedia: "Unsupported media type",
}

// hints are what to do when the error itself does not say.
var hints = map[fsm.Kind]string{
	fsm.NoLeader:       "no quorum answered in time; see which members are alive: paceline cluster status",
	fsm.Unavailable:    "ask another node, or try again shortly",
	fsm.UnknownOutcome: "send it again with the same Idempotency-Key, or read the resource to see",
	fsm.Unauthorized:   "send a token of the node's token file: Authorization: Bearer <token>",
}

// problem makes the problem document of an error.
func (c *call) problem(err error) *client.Problem {
	e := asError(err, c.route)
	status, ok := statusOf[e.Kind]
	if !ok {
		e.Kind, status = fsm.Internal, http.StatusInternalServerError
	}
	p := &client.Problem{
		Type: "urn:paceline:problem:" + string(e.Kind), Title: titles[e.Kind], Status: status,
		Code: e.Kind, Hint: e.Hint, RequestID: c.requestID, Errors: e.Fields,
	}
	e.Fields, e.Hint = nil, ""
	p.Detail = e.Error()
	if len(p.Errors) > MaxFieldErrors {
		p.Errors = p.Errors[:MaxFieldErrors]
	}
	if p.Hint == "" {
		p.Hint = hints[e.Kind]
	}
	switch e.Kind {
	case fsm.Exhausted, fsm.NoLeader, fsm.Unavailable:
		p.RetryAfterMs = defaultRetryAfter.Milliseconds()
		p.Leader = c.s.cfg.Status().Leader
	case fsm.Internal:
		c.s.log.Error("request failed", "requestId", c.requestID, "route", c.route.id, "error", err)
		if p.Hint == "" {
			p.Hint = "look in the log of node " + c.s.cfg.Node + " for requestId " + c.requestID
		}
	}
	return p
}

// asError gives any error its kind. A deadline that the cluster did not turn
// into an error of its own leaves the outcome of a write unknown.
func asError(err error, r *route) fsm.Error {
	var e *fsm.Error
	var p *client.Problem
	switch {
	case errors.As(err, &e):
		return *e
	case errors.As(err, &p):
		return fsm.Error{Kind: p.Code, Message: p.Detail, Hint: p.Hint, Fields: p.Errors}
	case errors.Is(err, context.DeadlineExceeded) && r.write:
		return fsm.Error{Kind: fsm.UnknownOutcome, Message: "the write was not confirmed in time"}
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return fsm.Error{Kind: fsm.Unavailable, Message: "the request was not finished in time"}
	}
	text := strings.TrimSpace(err.Error())
	return fsm.Error{Kind: fsm.Internal, Message: "the node failed to do this: " + text}
}

// unavailable is the error for a part that this node does not run.
func unavailable(what string) error {
	return fsm.Errorf(fsm.Unavailable, "node", "", "%s", what)
}

// invalidField is an [fsm.Invalid] error about one field or parameter.
func invalidField(noun, key, field, message string) *fsm.Error {
	return &fsm.Error{
		Kind: fsm.Invalid, Noun: noun, Key: key, Message: "is not valid",
		Fields: []fsm.FieldError{{Field: field, Message: message}},
	}
}
