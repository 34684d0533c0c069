package wal_test

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"

	"github.com/pacelinehq/paceline/cluster/wal"
)

const sector = 512

// disk is a directory that can lose power. What was not synced is then kept,
// lost or zeroed, sector by sector and name by name, as chance has it.
type disk struct {
	r *rand.Rand
	// lies makes syncs do nothing, as a log that forgets them would.
	lies bool
	// fails is the share of operations that fail, some of them half done.
	fails float64
	// unsynced makes syncs of files fail, and nothing else.
	unsynced bool

	now, durable map[string]*inode
}

type inode struct {
	now, durable []byte
	touched      map[int]bool // sectors changed since the last sync
	cut          int          // the shortest that it was since then
}

func newDisk(r *rand.Rand) *disk {
	return &disk{r: r, now: map[string]*inode{}, durable: map[string]*inode{}}
}

var errDisk = errors.New("the disk has failed")

func (d *disk) fail() bool { return d.fails > 0 && d.r.Float64() < d.fails }

// crash loses power.
func (d *disk) crash() {
	names := maps.Clone(d.durable)
	maps.Copy(names, d.now)
	after := map[string]*inode{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		n := d.now[name]
		if d.now[name] != d.durable[name] && d.r.IntN(2) == 0 {
			n = d.durable[name]
		}
		if n != nil {
			n.crash(d.r)
			after[name] = n
		}
	}
	d.now, d.durable = after, maps.Clone(after)
}

func (n *inode) crash(r *rand.Rand) {
	size := len(n.now)
	if r.IntN(2) == 0 {
		size = len(n.durable)
	}
	b := make([]byte, size)
	for at := 0; at < size; at += sector {
		from := n.durable
		if n.touched[at/sector] {
			switch r.IntN(3) {
			case 0:
				from = n.now
			case 1:
				from = n.durable[:min(len(n.durable), n.cut)] // cut off, and not written since
			}
		}
		if at < len(from) {
			copy(b[at:min(at+sector, size)], from[at:])
		}
	}
	n.now = b
	n.synced()
}

func (n *inode) synced() {
	n.durable, n.touched, n.cut = slices.Clone(n.now), map[int]bool{}, len(n.now)
}

func (d *disk) List() ([]string, error) { return slices.Sorted(maps.Keys(d.now)), nil }

func (d *disk) Open(name string) (wal.File, error) {
	n := d.now[name]
	if n == nil {
		return nil, errDisk
	}
	return &handle{d, n}, nil
}

func (d *disk) Create(name string) (wal.File, error) {
	if d.fail() {
		return nil, errDisk
	}
	d.now[name] = &inode{touched: map[int]bool{}}
	return &handle{d, d.now[name]}, nil
}

func (d *disk) Remove(name string) error {
	if d.fail() {
		return errDisk
	}
	delete(d.now, name)
	return nil
}

func (d *disk) Sync() error {
	switch {
	case d.lies:
		return nil
	case d.fail():
		return errDisk
	}
	d.durable = maps.Clone(d.now)
	return nil
}

type handle struct {
	d *disk
	n *inode
}

func (h *handle) ReadAt(b []byte, at int64) (int, error) {
	if at >= int64(len(h.n.now)) {
		return 0, io.EOF
	}
	n := copy(b, h.n.now[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *handle) WriteAt(b []byte, at int64) (int, error) {
	n := len(b)
	if h.d.fail() {
		// A write stops at the end of a page, if it stops within.
		n = max(0, (int(at)+h.d.r.IntN(n+1))/sector*sector-int(at))
	}
	h.resize(max(len(h.n.now), int(at)+n))
	copy(h.n.now[at:], b[:n])
	h.touch(int(at), int(at)+n)
	if n < len(b) {
		return n, errDisk
	}
	return n, nil
}

func (h *handle) touch(from, to int) {
	for s := from / sector; s*sector < to; s++ {
		h.n.touched[s] = true
	}
}

func (h *handle) resize(size int) {
	was := len(h.n.now)
	h.n.cut = min(h.n.cut, size)
	if size <= was {
		h.n.now = h.n.now[:size]
		h.touch(size, was)
		return
	}
	h.n.now = append(h.n.now[:was:was], make([]byte, size-was)...)
	h.touch(was, size)
}

func (h *handle) Size() (int64, error) { return int64(len(h.n.now)), nil }

func (h *handle) Allocate(size int64) error {
	if h.d.fail() {
		return errDisk
	}
	h.resize(max(len(h.n.now), int(size)))
	return nil
}

func (h *handle) Sync() error {
	switch {
	case h.d.lies:
		return nil
	case h.d.fail() || h.d.unsynced:
		h.some()
		return errDisk
	}
	h.n.synced()
	return nil
}

// Refresh drops what is in memory: after a sync that failed, the system takes
// pages for clean that are not on the disk.
func (h *handle) Refresh() error {
	if err := h.Sync(); err != nil {
		return err
	}
	h.n.now = slices.Clone(h.n.durable)
	return nil
}

// some is what a failed sync leaves: a part of it is on the disk.
func (h *handle) some() {
	n := h.n
	n.durable = append(n.durable[:min(len(n.durable), len(n.now))], make([]byte, max(0, len(n.now)-len(n.durable)))...)
	for at := 0; at < len(n.now); at += sector {
		if n.touched[at/sector] && h.d.r.IntN(2) == 0 {
			copy(n.durable[at:], n.now[at:min(at+sector, len(n.now))])
		}
	}
}

func (h *handle) Close() error { return nil }
