package http1

import (
	"errors"
	"fmt"
)

// ErrShort says that the bytes at hand are the beginning of a head that may
// still become valid.
var ErrShort = errors.New("the head is incomplete")

// Error is a message that is refused.
type Error struct {
	// Status answers a refused request. It is 502 for a refused response.
	Status int
	// Reason says what is wrong, in words that may be shown to the peer.
	Reason string
}

// Error says what is wrong with the message.
func (e *Error) Error() string { return fmt.Sprintf("%d: %s", e.Status, e.Reason) }

// ReadError is a body that could not be read: the source failed, ended too
// early (io.ErrUnexpectedEOF), or sent what is refused (an *Error).
type ReadError struct {
	Err error
	// Started says that something was written already, be it the head only.
	// While it is false, another answer can still be given.
	Started bool
}

// Error describes what happened on the reading side.
func (e *ReadError) Error() string { return "reading a body: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *ReadError) Unwrap() error { return e.Err }

// WriteError is a body that could not be written, wholly or in part.
type WriteError struct{ Err error }

// Error describes what happened on the writing side.
func (e *WriteError) Error() string { return "writing a body: " + e.Err.Error() }

// Unwrap gives the cause.
func (e *WriteError) Unwrap() error { return e.Err }

func refuse(status int, reason string) error { return &Error{Status: status, Reason: reason} }

const (
	statusBadRequest        = 400
	statusTooLarge          = 413
	statusTargetTooLong     = 414
	statusExpectationFailed = 417
	statusHeadTooLarge      = 431
	statusNotImplemented    = 501
	statusBadGateway        = 502
	statusBadVersion        = 505
)
