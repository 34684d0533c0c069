//go:build unix

package http1

import (
	"io"
	"net"
	"os"
	"syscall"
)

// waiter reads from a socket and borrows the buffer only for the moment in which
// there is something to read. It costs no system call more than a plain read.
type waiter struct {
	raw   syscall.RawConn
	tried bool

	// What one read asks for and what it has found. The function is kept
	// because making it anew would allocate.
	step func(fd uintptr) bool
	size int
	buf  *buffer
	n    int
	err  error
}

func (w *waiter) reset() { w.raw, w.tried = nil, false }

// open reports whether the source is a socket. Other sources that have a file
// descriptor may do more in their Read than the system does.
func (w *waiter) open(src io.Reader) bool {
	if w.tried {
		return w.raw != nil
	}
	w.tried = true
	var c syscall.Conn
	switch s := src.(type) {
	case *net.TCPConn:
		c = s
	case *net.UnixConn:
		c = s
	default:
		return false
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	w.raw = raw
	if w.step == nil {
		w.step = w.try
	}
	return true
}

func (w *waiter) try(fd uintptr) bool {
	b := getBuffer(w.size)
	for {
		w.n, w.err = syscall.Read(int(fd), b.b)
		if w.err != syscall.EINTR {
			break
		}
	}
	if w.err == nil && w.n > 0 {
		w.buf = b
		return true
	}
	putBuffer(b)
	return w.err != syscall.EAGAIN
}

func (w *waiter) read(size int) (*buffer, int, error) {
	w.size, w.buf, w.n, w.err = size, nil, 0, nil
	err := w.raw.Read(w.step)
	b := w.buf
	w.buf = nil
	switch {
	case err != nil:
		putBuffer(b)
		return nil, 0, err
	case w.err != nil:
		return nil, 0, os.NewSyscallError("read", w.err)
	case b == nil:
		return nil, 0, io.EOF
	}
	return b, w.n, nil
}
