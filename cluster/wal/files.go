package wal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Files is the directory that holds the segments. Tests have one that forgets
// what was not synced.
type Files interface {
	// List returns the names of the files.
	List() ([]string, error)
	// Open opens a file, Create makes a new one or empties an old one.
	Open(name string) (File, error)
	Create(name string) (File, error)
	Remove(name string) error
	// Sync makes what was created and removed durable.
	Sync() error
}

// File is one segment.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Allocate reserves the disk space up to a size; what was not written
	// before reads as zeros.
	Allocate(size int64) error
	// Sync makes the content durable, and as much of the metadata as it takes
	// to read it.
	Sync() error
	// Refresh syncs and then forgets what the system has in memory, so that
	// reads see what is on the disk: after a sync that failed, memory may hold
	// what the disk does not.
	Refresh() error
}

// NewDir returns the files of a directory, which is made when it is not there.
func NewDir(path string) (Files, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return dir(path), nil
}

type dir string

// List implements [Files].
func (d dir) List() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Open implements [Files].
func (d dir) Open(name string) (File, error) { return d.open(name, os.O_RDWR) }

// Create implements [Files].
func (d dir) Create(name string) (File, error) { return d.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC) }

func (d dir) open(name string, flag int) (File, error) {
	f, err := os.OpenFile(filepath.Join(string(d), name), flag, 0o600)
	if err != nil {
		return nil, err
	}
	return &file{f}, nil
}

// Remove implements [Files].
func (d dir) Remove(name string) error {
	err := os.Remove(filepath.Join(string(d), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sync implements [Files].
func (d dir) Sync() error {
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// file is a segment on the disk; the rest of its methods depend on the system.
type file struct{ *os.File }

// Size implements [File].
func (f *file) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// grow makes a file larger without reserving the space.
func (f *file) grow(size int64) error {
	have, err := f.Size()
	if err != nil || have >= size {
		return err
	}
	return f.Truncate(size)
}
