package wal

import (
	"errors"
	"os"
	"syscall"
)

// Allocate implements [File].
func (f *file) Allocate(size int64) error {
	err := f.call("fallocate", func(fd int) error { return syscall.Fallocate(fd, 0, 0, size) })
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS) {
		return f.grow(size)
	}
	return err
}

// Sync implements [File]. It is fdatasync, which leaves out the time of the
// last change.
func (f *file) Sync() error { return f.call("fdatasync", syscall.Fdatasync) }

// dontNeed is POSIX_FADV_DONTNEED.
const dontNeed = 4

// Refresh implements [File]. The system takes the second half as advice.
func (f *file) Refresh() error {
	if err := f.Sync(); err != nil {
		return err
	}
	return f.call("fadvise", func(fd int) error {
		_, _, err := syscall.Syscall6(syscall.SYS_FADVISE64, uintptr(fd), 0, 0, dontNeed, 0, 0)
		if err != 0 && err != syscall.ENOSYS && err != syscall.EINVAL {
			return err
		}
		return nil
	})
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
			if failed = do(int(fd)); failed != syscall.EINTR {
				return
			}
		}
	})
	if err == nil && failed != nil {
		err = &os.PathError{Op: name, Path: f.Name(), Err: failed}
	}
	return err
}
