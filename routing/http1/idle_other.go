//go:build !unix

package http1

import (
	"errors"
	"io"
)

// waiter is for systems that tell when there is something to read.
type waiter struct{}

func (w *waiter) reset() {}

func (w *waiter) open(io.Reader) bool { return false }

func (w *waiter) read(int) (*buffer, int, error) { return nil, 0, errors.ErrUnsupported }
