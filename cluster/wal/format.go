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
//	         reserved for the file | CRC of these 24 bytes
//	record = size u32 | extensions u32 | index u64 | term u64 | appended i64 |
//	         type u8 | flags u8 | 2 zeros | CRC of these 36 bytes |
//	         CRC of the payload |
//	         payload: data, then extensions, size bytes in all
const (
	segmentMagic  = "plwal\x00\x00\x01" // the last byte is the version
	segmentHeader = 28
	segmentSummed = 24
	recordHeader  = 44
	recordSummed  = 36

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
	return binary.LittleEndian.AppendUint32(b, checksum(b[from:]))
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

func appendRecord(b []byte, l *raft.Log, flags byte) []byte {
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
	b = binary.LittleEndian.AppendUint32(b, checksum(b[from:]))
	b = binary.LittleEndian.AppendUint32(b, crc32.Update(checksum(l.Data), castagnoli, l.Extensions))
	return append(append(b, l.Data...), l.Extensions...)
}

// record is the header of a record.
type record struct {
	size, extensions uint32
	index, term      uint64
	appended         int64
	kind             raft.LogType
	flags            byte
	sum              uint32
}

// parseRecord reads the header of a record; ok is false when it is none.
func parseRecord(b []byte) (r record, ok bool) {
	if len(b) < recordHeader || binary.LittleEndian.Uint32(b[recordSummed:]) != checksum(b[:recordSummed]) {
		return r, false
	}
	r = record{
		size: binary.LittleEndian.Uint32(b), extensions: binary.LittleEndian.Uint32(b[4:]),
		index: binary.LittleEndian.Uint64(b[8:]), term: binary.LittleEndian.Uint64(b[16:]),
		appended: int64(binary.LittleEndian.Uint64(b[24:])), kind: raft.LogType(b[32]), flags: b[33],
		sum: binary.LittleEndian.Uint32(b[40:]),
	}
	return r, r.size <= maxRecord && r.extensions <= r.size
}

// log makes an entry of a record and its payload, which it keeps.
func (r record) log(payload []byte, out *raft.Log) {
	*out = raft.Log{Index: r.index, Term: r.term, Type: r.kind, Data: payload[:r.size-r.extensions]}
	if r.extensions > 0 {
		out.Extensions = payload[r.size-r.extensions:]
	}
	if r.appended != 0 {
		out.AppendedAt = time.Unix(0, r.appended)
	}
}

// unwritten reports whether a part of b, which lies at an offset of a file,
// was never written: a crash loses whole sectors, which then read as zeros,
// and a flipped bit does not make a whole one zero. etcd's log tells a torn
// record from a damaged one in the same way.
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
