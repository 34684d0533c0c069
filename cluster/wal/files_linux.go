package wal

import (
	"errors"
	"os"
	"syscall"
)

// Allocate implements [File].
func (f *file) Allocate(size int64) error {
	err := f.call(func(fd int) error { return syscall.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		return f.grow(size)
	}
	return err
}

// Sync implements [File]. It is fdatasync, which leaves out the time of the
// last change.
func (f *file) Sync() error { return f.call(syscall.Fdatasync) }

// call does a system call on the file until no signal interrupts it.
func (f *file) call(do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if failed = do(int(fd)); failed != syscall.EINTR {
				return
			}
		}
	})
	if err == nil && failed != nil {
		err = &os.PathError{Op: "sync", Path: f.Name(), Err: failed}
	}
	return err
}
