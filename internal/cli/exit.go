package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// The exit codes.
const (
	// ExitOK is success.
	ExitOK = 0
	// ExitError is any error without a code of its own.
	ExitError = 1
	// ExitUsage is a mistake in the command line, or input that can not be valid.
	ExitUsage = 2
	// ExitTimeout is --wait or --timeout that was over first.
	ExitTimeout = 3
	// ExitNotFound is a resource that does not exist.
	ExitNotFound = 4
	// ExitConflict is a state that does not allow it, or a revision that has moved on.
	ExitConflict = 5
	// ExitNoLeader is a cluster without a quorum, or without a node that answers.
	ExitNoLeader = 6
	// ExitDenied is a missing token, or one without the role.
	ExitDenied = 7
)

const exitHelp = "Exit codes: 0 ok, 1 error, 2 usage, 3 timeout, 4 not found, 5 conflict, 6 no leader, 7 denied."

// usageError is a mistake in the command line.
type usageError struct{ text, hint string }

// Error implements error.
func (e *usageError) Error() string { return e.text }

func usagef(format string, args ...any) *usageError {
	return &usageError{text: fmt.Sprintf(format, args...)}
}

func usage(c *cobra.Command, err error) error {
	return &usageError{text: err.Error(), hint: "see: " + c.CommandPath() + " --help"}
}

// codeOf is the one place that maps errors to exit codes.
func codeOf(err error) int {
	var u *usageError
	if errors.As(err, &u) {
		return ExitUsage
	}
	kind := client.CodeOf(err)
	var f *fsm.Error
	if errors.As(err, &f) {
		kind = f.Kind
	}
	switch kind {
	case fsm.Invalid, fsm.TooLarge, client.CodeMethodNotAllowed, client.CodeUnsupportedMedia:
		return ExitUsage
	case client.CodeTimeout, fsm.UnknownOutcome:
		return ExitTimeout
	case fsm.NotFound:
		return ExitNotFound
	case fsm.Conflict, fsm.StaleRevision:
		return ExitConflict
	case fsm.NoLeader, fsm.Unavailable, client.CodeUnreachable:
		return ExitNoLeader
	case fsm.Unauthorized, fsm.Forbidden:
		return ExitDenied
	}
	return ExitError
}

// tell writes an error as a human reads it: what, which fields, what to do.
func tell(w io.Writer, err error) {
	text, hint, request := err.Error(), "", ""
	var fields []fsm.FieldError
	var p *client.Problem
	var u *usageError
	var f *fsm.Error
	switch {
	case errors.As(err, &p):
		text, hint, fields = p.Detail, p.Hint, p.Errors
		if p.Code == fsm.Internal {
			request = p.RequestID
		}
	case errors.As(err, &u):
		text, hint = u.text, u.hint
	case errors.As(err, &f):
		plain := *f
		plain.Fields = nil
		text, hint, fields = plain.Error(), f.Hint, f.Fields
	}
	var b strings.Builder
	fmt.Fprintf(&b, "paceline: %s\n", text)
	for _, x := range fields {
		fmt.Fprintf(&b, "  %s %s\n", x.Field, x.Message)
	}
	if hint != "" {
		fmt.Fprintf(&b, "hint: %s\n", hint)
	}
	if request != "" {
		fmt.Fprintf(&b, "request: %s\n", request)
	}
	_, _ = io.WriteString(w, b.String())
}
