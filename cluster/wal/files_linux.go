package wal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Allocate implements [File].
func (f *file) Allocate(size int64) error {
	err := f.call("fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.ENOSYS) {
		return f.grow(size)
	}
	return err
}

// Sync implements [File]. It is fdatasync, which leaves out the time of the
// last change.
func (f *file) Sync() error { return f.call("fdatasync", unix.Fdatasync) }

// Refresh implements [File]. The system takes the second half as advice.
func (f *file) Refresh() error {
	if err := f.Sync(); err != nil {
		return err
	}
	err := f.call("fadvise", func(fd int) error { return unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) })
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return nil // a file system without such memory
	}
	return err
}

// call does a system call on the file until no signal interrupts it.
func (f *file) call(name string, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			if failed = do(int(fd)); failed != unix.EINTR {
				return
			}
		}
	})
	if err == nil && failed != nil {
		err = &os.PathError{Op: name, Path: f.Name(), Err: failed}
	}
	return err
}
