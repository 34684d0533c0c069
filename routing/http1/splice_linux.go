package http1

import (
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// splice moves n bytes from one socket to another through a pipe, without
// bringing them into the process. The standard library can do that too, but
// does not say which of the sockets has failed, nor how far it has come.
func splice(dst, src *net.TCPConn, n int64, s *sink) (done bool, err error) {
	from, err := src.SyscallConn()
	if err != nil {
		return false, nil
	}
	to, err := dst.SyscallConn()
	if err != nil {
		return false, nil
	}
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return false, nil
	}
	p := pipe{r: ends[0], w: ends[1]}
	defer p.close()
	// Without the larger size it only takes more steps.
	_, _ = unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	for moved := false; n > 0; moved = true {
		got, err := p.fill(from, min(n, pipeSize))
		switch {
		case err == syscall.EINVAL && !moved:
			return false, nil
		case err != nil:
			return true, readError(err)
		case got == 0:
			return true, readError(io.ErrUnexpectedEOF)
		}
		n -= got
		for got > 0 {
			s.started = true
			sent, err := p.empty(to, got)
			if err != nil {
				return true, &WriteError{Err: err}
			}
			got -= sent
			if err := s.wrote(sent); err != nil {
				return true, err
			}
		}
	}
	return true, nil
}

// pipe is a kernel buffer between two sockets.
type pipe struct{ r, w int }

func (p pipe) close() {
	_ = unix.Close(p.r)
	_ = unix.Close(p.w)
}

func (p pipe) fill(c syscall.RawConn, n int64) (int64, error) {
	return move(c.Read, n, func(fd int, n int64) (int64, error) {
		return unix.Splice(fd, nil, p.w, nil, int(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	})
}

func (p pipe) empty(c syscall.RawConn, n int64) (int64, error) {
	return move(c.Write, n, func(fd int, n int64) (int64, error) {
		return unix.Splice(p.r, nil, fd, nil, int(n), unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	})
}

// move does one step as soon as the socket is ready for it.
func move(wait func(func(uintptr) bool) error, n int64, step func(fd int, n int64) (int64, error)) (int64, error) {
	var moved int64
	var failed error
	err := wait(func(fd uintptr) bool {
		for {
			moved, failed = step(int(fd), n)
			if failed != syscall.EINTR {
				return failed != syscall.EAGAIN
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case failed == syscall.EINVAL:
		return 0, failed
	case failed != nil:
		return 0, os.NewSyscallError("splice", failed)
	}
	return moved, nil
}
