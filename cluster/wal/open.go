package wal

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

const segmentSuffix = ".seg"

// segmentName sorts as its number does.
func segmentName(number uint64) string { return fmt.Sprintf("%020d%s", number, segmentSuffix) }

func parseName(name string) (number uint64, ok bool) {
	digits, is := strings.CutSuffix(name, segmentSuffix)
	number, err := strconv.ParseUint(digits, 10, 64)
	return number, is && err == nil && segmentName(number) == name
}

// Open reads the log in a directory. It drops the end of an append that a
// crash has cut off, and gives a [*DamagedError] for anything else that is not
// as it was written. segmentSize is [SegmentSize] but in tests.
func Open(files Files, segmentSize int64) (*Log, error) {
	l := &Log{files: files, segmentSize: segmentSize}
	err := l.open()
	if err != nil {
		return nil, errors.Join(err, closeAll(l.segments))
	}
	return l, nil
}

func (l *Log) open() error {
	names, err := l.files.List()
	if err != nil {
		return fmt.Errorf("listing the log: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { _, ok := parseName(n); return !ok })
	slices.Sort(names)
	var before []uint64 // what each segment says of the one before it
	start := 0
	for i, name := range names {
		b, err := l.load(name, i == len(names)-1)
		if err != nil {
			return err
		}
		if b == startsAnew {
			start = i
		}
		before = append(before, b)
	}
	for i := start; i < len(l.segments); i++ {
		s, limit := l.segments[i], int64(-1)
		if i+1 < len(l.segments) {
			limit = int64(before[i+1])
		}
		if err := l.take(s, limit); err != nil {
			return err
		}
	}
	// Files that a killed process deleted may be on the disk still, and come
	// back.
	if err := errors.Join(l.sweep(), l.files.Sync()); err != nil {
		return fmt.Errorf("opening the log: %w", err)
	}
	return l.reclaim()
}

// load opens a segment and reads its header. The newest one is left out, and
// is stale, when a crash came before its first append was done.
func (l *Log) load(name string, newest bool) (before uint64, err error) {
	f, err := l.files.Open(name)
	if err != nil {
		return 0, fmt.Errorf("opening a segment of the log: %w", err)
	}
	s := &segment{File: f, name: name, end: segmentHeader}
	s.number, _ = parseName(name)
	l.segments, l.number = append(l.segments, s), s.number
	if err = f.Refresh(); err == nil {
		s.size, err = f.Size()
	}
	if err != nil {
		return 0, fmt.Errorf("opening a segment of the log: %w", err)
	}
	head, err := s.read(min(s.size, segmentHeader))
	if err != nil {
		return 0, err
	}
	before, size, bad := parseSegmentHeader(head)
	if bad == nil && uint64(s.size) < size {
		return 0, &DamagedError{name, s.size, fmt.Sprintf("it is cut off; %d bytes were reserved for it", size)}
	}
	if newest {
		begun, err := s.begunInVain(bad == nil)
		if err != nil {
			return 0, err
		}
		if begun {
			l.segments, l.stale = l.segments[:len(l.segments)-1], name
			return 0, f.Close()
		}
	}
	if bad != nil {
		return 0, &DamagedError{name, 0, bad.Error()}
	}
	return before, nil
}

// begunInVain reports whether a crash came before the first append to a segment
// was done. What its header says does not count then.
func (s *segment) begunInVain(headed bool) (bool, error) {
	b, err := s.read(s.size)
	if err != nil {
		return false, err
	}
	if !headed {
		head := b[:min(len(b), segmentHeader)]
		return (len(head) < segmentHeader || unwritten(head, 0)) && !s.laterBatch(b, 0), nil
	}
	rest := b[segmentHeader:]
	r, ok := parseRecord(rest, position{s.number, segmentHeader})
	return allZero(rest) || s.torn(rest, r, ok), nil
}

// read returns the first n bytes of a segment.
func (s *segment) read(n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := s.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("reading a segment of the log: %w", err)
	}
	return b, nil
}

// take adds the records of a segment up to a limit, all of which are whole;
// without a limit (-1), in the newest segment, up to what a crash has left of
// an append. A payload that is damaged is found by who reads the entry.
func (l *Log) take(s *segment, limit int64) error {
	b, err := s.read(s.size)
	if err != nil {
		return err
	}
	end := s.size
	if limit >= 0 {
		end = limit
	}
	for s.end != end {
		rest := b[s.end:]
		if limit < 0 && allZero(rest) {
			return nil
		}
		r, ok := parseRecord(rest, position{s.number, s.end})
		if limit < 0 && s.torn(rest, r, ok) {
			l.full = true
			return nil
		}
		if why := l.check(r, ok, end-s.end); why != "" {
			return &DamagedError{s.name, s.end, why}
		}
		l.replay(s, r)
		s.end += r.length()
	}
	return nil
}

// torn reports whether what is left of the newest segment is the rest of an
// append that a crash has cut off: a part of the record at its start was never
// written, and nothing follows that was written later.
func (s *segment) torn(rest []byte, r record, ok bool) bool {
	if !ok {
		return unwritten(rest[:min(recordHeader, len(rest))], s.end) && !s.laterBatch(rest[min(alignment, len(rest)):], s.end+alignment)
	}
	if r.length() > int64(len(rest)) {
		return false
	}
	payload := slices.Clone(rest[recordHeader : recordHeader+int64(r.size)])
	flip(payload)
	return checksum(payload) != r.sum && unwritten(rest[recordHeader:r.length()], s.end+recordHeader) &&
		!s.laterBatch(rest[r.length():], s.end+r.length())
}

// check says what keeps a record from being the next one of the log, with room
// bytes left for it, or "".
func (l *Log) check(r record, ok bool, room int64) string {
	switch {
	case !ok:
		return "the header of a record has another checksum"
	case len(l.places) > 0 && (r.index > l.next() || r.index < l.next() && r.kind != typeCut):
		return fmt.Sprintf("it has entry %d where %d should be", r.index, l.next())
	case r.length() > room:
		return fmt.Sprintf("entry %d goes beyond what was acknowledged", r.index)
	}
	return ""
}

// replay does to the log in memory what a record did to it.
func (l *Log) replay(s *segment, r record) {
	switch {
	case r.kind == typeCut && (len(l.places) == 0 || r.index <= l.first):
		l.places = nil
	case r.kind == typeCut:
		l.places = l.places[:r.index-l.first]
	default:
		if len(l.places) == 0 {
			l.first = r.index
		}
		l.places = append(l.places, place{s, s.end, r.length()})
	}
}

// laterBatch reports whether a batch begins somewhere in b, which lies at an
// offset of the segment. All before it was synced by then: what is wrong there
// is damage, and not the work of a crash.
func (s *segment) laterBatch(b []byte, at int64) bool {
	for i := 0; len(b)-i >= recordHeader; i += alignment {
		if (b[i+33]^mask)&flagBatch == 0 { // spares most checksums
			continue
		}
		if _, ok := parseRecord(b[i:], position{s.number, at + int64(i)}); ok {
			return true
		}
	}
	return false
}
