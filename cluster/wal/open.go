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

// loading is a segment while the log is opened.
type loading struct {
	*segment
	content []byte
	before  uint64 // what its header says of the segment before it
	err     error  // of the header
}

// Open reads the log in a directory. It drops the end of an append that a
// crash has cut off, and gives a [*DamagedError] for anything else that is not
// as it was written. segmentSize is [SegmentSize] but in tests.
func Open(files Files, segmentSize int64) (_ *Log, err error) {
	names, err := files.List()
	if err != nil {
		return nil, fmt.Errorf("listing the log: %w", err)
	}
	names = slices.DeleteFunc(names, func(n string) bool { _, ok := parseName(n); return !ok })
	slices.Sort(names)
	l := &Log{files: files, segmentSize: segmentSize}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(l.segments))
		}
	}()
	var list []*loading
	for _, name := range names {
		s, err := l.load(name)
		if err != nil {
			return nil, err
		}
		l.segments = append(l.segments, s.segment)
		list = append(list, s)
	}
	for i, s := range list {
		if err := l.take(s, list[i+1:]); err != nil {
			return nil, err
		}
	}
	return l, l.settle(list)
}

// load reads a segment's file.
func (l *Log) load(name string) (*loading, error) {
	f, err := l.files.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening a segment of the log: %w", err)
	}
	s := &loading{segment: &segment{File: f, name: name, end: segmentHeader}}
	if s.size, err = s.Size(); err == nil {
		s.content = make([]byte, s.size)
		if _, err = s.ReadAt(s.content, 0); errors.Is(err, io.EOF) {
			err = nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading a segment of the log: %w", errors.Join(err, f.Close()))
	}
	var reserved uint64
	s.before, reserved, s.err = parseSegmentHeader(s.content)
	if s.err == nil && uint64(s.size) < reserved {
		err := &DamagedError{s.name, s.size, fmt.Sprintf("it is cut off; %d bytes were reserved for it", reserved)}
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// take adds the records of a segment to the log. The newer segments say what
// counts of it.
func (l *Log) take(s *loading, newer []*loading) error {
	limit := int64(-1)
	for i, n := range newer {
		switch {
		case n.err != nil && i == len(newer)-1: // it failed before it held anything, if it is no damage
		case n.before == startsAnew:
			return nil
		case i == 0:
			limit = int64(n.before)
		}
	}
	if s.err != nil {
		head := s.content[:min(len(s.content), segmentHeader)]
		if len(newer) == 0 && (len(head) < segmentHeader || unwritten(head, 0)) && !laterBatch(s.content, l.next()) {
			s.end = 0
			return nil
		}
		return &DamagedError{s.name, 0, s.err.Error()}
	}
	if s.before == startsAnew {
		l.places = nil
	}
	return l.takeRecords(s, limit)
}

// takeRecords adds the records up to a limit, all of which are whole; without
// a limit up to what a crash has left of an append. A payload that is damaged
// otherwise is found by who reads the entry.
func (l *Log) takeRecords(s *loading, limit int64) error {
	for s.end != limit {
		rest := s.content[min(s.end, s.size):]
		r, why := l.check(rest)
		n := recordHeader + int64(r.size)
		switch {
		case limit >= 0:
			if why == "" && s.end+n > limit {
				why = fmt.Sprintf("entry %d goes beyond what the next segment says of this one", r.index)
			}
		case allZero(rest):
			return nil
		case why != "" && l.torn(rest, s.end, n), why == "" && r.torn(rest, s.end) && !laterBatch(rest[n:], r.index):
			l.full = true
			return nil
		}
		if why != "" {
			return &DamagedError{s.name, s.end, why}
		}
		l.replay(s.segment, r)
		s.end += n
	}
	return nil
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
		l.places = append(l.places, place{s, s.end, recordHeader + int64(r.size)})
	}
}

// check looks at the record at the start of b, and says what keeps it from
// being one that follows the others.
func (l *Log) check(b []byte) (r record, why string) {
	r, ok := parseRecord(b)
	switch {
	case !ok:
		return record{}, "the header of a record has another checksum"
	case len(l.places) > 0 && (r.index > l.next() || r.index < l.next() && r.kind != typeCut):
		return r, fmt.Sprintf("it has entry %d where %d should be", r.index, l.next())
	case int64(len(b)) < recordHeader+int64(r.size):
		return r, fmt.Sprintf("entry %d is cut off", r.index)
	}
	return r, ""
}

// torn reports whether what is at the end of the newest segment is the rest of
// an append that a crash has cut off: n is the length of the part that is no
// record.
func (l *Log) torn(rest []byte, at, n int64) bool {
	return (int64(len(rest)) < n || unwritten(rest[:n], at)) && !laterBatch(rest, l.next())
}

// torn reports whether a part of the payload of a record at the start of b was
// never written.
func (r record) torn(b []byte, at int64) bool {
	payload := b[recordHeader : recordHeader+int64(r.size)]
	return checksum(payload) != r.sum && unwritten(payload, at+recordHeader)
}

// laterBatch reports whether somewhere in b a batch begins that is newer than
// an entry. All before it was synced by then: what is wrong there is damage,
// and not the work of a crash.
func laterBatch(b []byte, after uint64) bool {
	for i := 0; len(b)-i >= recordHeader; i++ {
		if b[i+33]&flagBatch == 0 { // spares most checksums
			continue
		}
		if r, ok := parseRecord(b[i:]); ok && r.index > after {
			return true
		}
	}
	return false
}

// settle makes durable what was found, and what was not: an append of a process
// that was killed may be in the system's memory only, and a file that it
// deleted may still be on the disk. Then it deletes what does not count.
func (l *Log) settle(list []*loading) error {
	if n := len(list); n > 0 {
		newest := list[n-1]
		l.number, _ = parseName(newest.name)
		if newest.end == 0 {
			l.segments, l.stale = l.segments[:n-1], newest.name
			if err := errors.Join(newest.Close(), l.sweep()); err != nil {
				return err
			}
		}
	}
	err := l.files.Sync()
	if n := len(l.segments); n > 0 && err == nil {
		err = l.segments[n-1].Sync()
	}
	switch {
	case err != nil:
		return fmt.Errorf("opening the log: %w", err)
	case len(l.places) == 0:
		return l.deleteAll()
	}
	return l.reclaim(l.places[0].s)
}
