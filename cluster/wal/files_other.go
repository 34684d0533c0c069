//go:build !linux

package wal

// Allocate implements [File].
func (f *file) Allocate(size int64) error { return f.grow(size) }

// Refresh implements [File]; it can only sync here.
func (f *file) Refresh() error { return f.Sync() }
