package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/hashicorp/raft"
)

// A segment begins with a header, and records follow without gaps. All numbers
// are little-endian, every CRC is CRC-32C.
//
//	header = magic | before u64, the end of what was acknowledged in the
//	         segment before this one, or startsAnew | size u64 that was
//	         reserved for the file | CRC of these 24 bytes | 4 zeros
//
//	record = size u32 | extensions u32 | index u64 | term u64 | appended i64 |
//	         type u8 | flags u8 | 2 zeros | CRC of the payload | CRC of the
//	         segment's number, the record's offset and these 40 bytes | 4 zeros |
//	         payload: data, then extensions, size bytes in all | zeros up to a
//	         multiple of 8
//
// Each byte of a record is changed by a mask, so that zeros in it are no zeros
// on the disk: those are what reads where nothing was written (see unwritten).
const (
	segmentMagic  = "plwal\x00\x00\x01" // the last byte is the version
	segmentHeader = 32
	segmentSummed = 24
	recordHeader  = 48
	recordSummed  = 40
	alignment     = 8
	mask          = 0xA5

	// startsAnew says that nothing before the segment counts.
	startsAnew = ^uint64(0)

	// typeCut is the type of a record that deletes the entries from its index
	// on. A segment is never cut itself: a crash in the middle of that could
	// not be told from damage.
	typeCut raft.LogType = 0xFF

	// flagBatch marks the first record of a batch: all before it was synced
	// when it was written.
	flagBatch = 1

	// sector is the unit that a disk writes wholly or not at all.
	sector = 512
	// maxRecord bounds what a header may claim.
	maxRecord = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// DamagedError is a log whose files do not hold what was written, other than
// by a crash in the middle of an append.
type DamagedError struct {
	File   string
	Offset int64
	Reason string
}

// Error names the file, the place and what is wrong there.
func (e *DamagedError) Error() string {
	return fmt.Sprintf("file %s is damaged at byte %d: %s", e.File, e.Offset, e.Reason)
}

func appendSegmentHeader(b []byte, before, size uint64) []byte {
	from := len(b)
	b = append(b, segmentMagic...)
	b = binary.LittleEndian.AppendUint64(b, before)
	b = binary.LittleEndian.AppendUint64(b, size)
	return append(binary.LittleEndian.AppendUint32(b, checksum(b[from:])), 0, 0, 0, 0)
}

// parseSegmentHeader returns what a segment says of the one before it, and of
// its own size.
func parseSegmentHeader(b []byte) (before, size uint64, err error) {
	const version = len(segmentMagic) - 1
	switch {
	case len(b) < segmentHeader || !bytes.HasPrefix(b, []byte(segmentMagic[:version])):
		return 0, 0, errors.New("it does not begin as a segment does")
	case b[version] != segmentMagic[version]:
		return 0, 0, fmt.Errorf("it has version %d, this build reads version %d", b[version], segmentMagic[version])
	case binary.LittleEndian.Uint32(b[segmentSummed:]) != checksum(b[:segmentSummed]):
		return 0, 0, errors.New("its header has another checksum")
	}
	return binary.LittleEndian.Uint64(b[8:]), binary.LittleEndian.Uint64(b[16:]), nil
}

// position is where a record stands: in which segment, and at which byte.
type position struct {
	segment uint64
	at      int64
}

// sum is the checksum of a record's header at a position. A copy of a record
// elsewhere, as in the data of another, has another.
func (p position) sum(header []byte) uint32 {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], p.segment)
	binary.LittleEndian.PutUint64(b[8:], uint64(p.at))
	return crc32.Update(checksum(b[:]), castagnoli, header[:recordSummed])
}

// recordSize is the length of the record of an entry.
func recordSize(payload int) int64 {
	return recordHeader + int64((payload+alignment-1)/alignment*alignment)
}

func appendRecord(b []byte, p position, l *raft.Log, flags byte) []byte {
	from := len(b)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.Data)+len(l.Extensions)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(l.Extensions)))
	b = binary.LittleEndian.AppendUint64(b, l.Index)
	b = binary.LittleEndian.AppendUint64(b, l.Term)
	var at int64
	if !l.AppendedAt.IsZero() {
		at = l.AppendedAt.UnixNano()
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(at))
	b = append(b, byte(l.Type), flags, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(checksum(l.Data), castagnoli, l.Extensions))
	b = append(binary.LittleEndian.AppendUint32(b, p.sum(b[from:])), 0, 0, 0, 0)
	b = append(append(b, l.Data...), l.Extensions...)
	for (len(b)-from)%alignment != 0 {
		b = append(b, 0)
	}
	flip(b[from:])
	return b
}

// flip puts the mask on, or takes it off.
func flip(b []byte) {
	for i := range b {
		b[i] ^= mask
	}
}

// record is the header of a record.
type record struct {
	size, extensions uint32
	index, term      uint64
	appended         int64
	kind             raft.LogType
	sum              uint32
}

// length is that of the whole record.
func (r record) length() int64 { return recordSize(int(r.size)) }

// parseRecord reads the header of the record at the start of b, as it is on
// the disk; ok is false when it is none.
func parseRecord(b []byte, p position) (r record, ok bool) {
	if len(b) < recordHeader {
		return r, false
	}
	var h [recordHeader]byte
	copy(h[:], b)
	flip(h[:])
	if binary.LittleEndian.Uint32(h[recordSummed:]) != p.sum(h[:]) {
		return r, false
	}
	r = record{
		size: binary.LittleEndian.Uint32(h[:]), extensions: binary.LittleEndian.Uint32(h[4:]),
		index: binary.LittleEndian.Uint64(h[8:]), term: binary.LittleEndian.Uint64(h[16:]),
		appended: int64(binary.LittleEndian.Uint64(h[24:])), kind: raft.LogType(h[32]),
		sum: binary.LittleEndian.Uint32(h[36:]),
	}
	return r, r.size <= maxRecord && r.extensions <= r.size
}

// log makes an entry of a record and its payload, which it keeps.
func (r record) log(payload []byte, out *raft.Log) {
	data := r.size - r.extensions
	*out = raft.Log{Index: r.index, Term: r.term, Type: r.kind, Data: payload[:data:data]}
	if r.extensions > 0 {
		out.Extensions = payload[data:r.size]
	}
	if r.appended != 0 {
		out.AppendedAt = time.Unix(0, r.appended)
	}
}

// unwritten reports whether a part of b, which lies at an offset of a file,
// was never written: a crash loses whole sectors, which then read as zeros.
// Through alignment and mask, each part of a record in one sector has at least
// 8 bytes that are not all zeros, so that a flipped bit does not look like
// this. etcd's log tells a torn record from a damaged one in the same way.
func unwritten(b []byte, offset int64) bool {
	for len(b) > 0 {
		n := min(int64(len(b)), sector-offset%sector)
		if allZero(b[:n]) {
			return true
		}
		b, offset = b[n:], offset+n
	}
	return false
}

func allZero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
