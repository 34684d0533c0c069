package cluster

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"

	"github.com/pacelinehq/paceline/fsm"
)

// What is read of a bbolt file before it is opened: each of its first two
// pages describes the file, the valid one with the higher transaction counts.
const (
	boltMagic    = 0xED0CDAED
	boltMetaSize = 80
	boltPageAt   = 24 // the page size, from the start of a page
	boltEndAt    = 56 // the number of pages that the file has to have
)

// checkBolt refuses a log file that was cut off. bbolt itself would panic in a
// goroutine of its own, where nobody can tell the user what to do.
func checkBolt(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer closeQuietly(f)
	info, err := f.Stat()
	if err != nil || info.Size() == 0 { // an empty file is a new one
		return err
	}
	page := make([]byte, boltMetaSize)
	need := int64(0)
	for at := int64(0); at <= int64(os.Getpagesize()); at += int64(os.Getpagesize()) {
		if _, err := f.ReadAt(page, at); err != nil || binary.NativeEndian.Uint32(page[16:]) != boltMagic {
			continue
		}
		size, pages := binary.NativeEndian.Uint32(page[boltPageAt:]), binary.NativeEndian.Uint64(page[boltEndAt:])
		if end := int64(pages) * int64(size); need == 0 || (end > 0 && end < need) {
			need = end
		}
	}
	if info.Size() >= need {
		return nil
	}
	return fsm.Errorf(fsm.Unavailable, "Raft log", path, "is cut off: it has %d bytes and should have at least %d", info.Size(), need).
		WithHint("restore the file from a backup; or remove this node from the cluster, empty its data directory, and let it join again")
}
