package wal

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/hashicorp/raft"
)

// SegmentSize is the size of a segment that holds no entry larger than that.
// It is the unit in which space is reserved and given back.
const SegmentSize = 16 << 20

// maxKept bounds the buffer that is kept between appends.
const maxKept = 4 << 20

// Log is a Raft log in segment files. It implements [raft.LogStore]; reads may
// run beside each other and beside one change. A directory has one Log at a
// time, which the caller makes sure of.
type Log struct {
	files       Files
	segmentSize int64

	// change is held by appends and deletions. What they publish is guarded
	// by mu, which is never held during a write or a sync.
	change sync.Mutex
	buf    []byte
	number uint64 // of the newest segment
	// full says that the newest segment must not be written to any more: what
	// is behind its end is not known.
	full bool
	// stale is a segment that failed before it held anything, and has to be
	// gone before another is made.
	stale string

	mu       sync.RWMutex
	segments []*segment // oldest first
	places   []place    // of the entries from first on
	first    uint64
	closed   bool
}

// segment is one file; end is that of what was acknowledged.
type segment struct {
	File
	name string
	end  int64
	size int64
}

// place is where a record is.
type place struct {
	s  *segment
	at int64
	n  int64
}

var _ raft.LogStore = (*Log)(nil)

// errClosed is a log that was closed.
var errClosed = errors.New("the log is closed")

// FirstIndex implements [raft.LogStore]; it is 0 for an empty log.
func (l *Log) FirstIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.places) == 0 {
		return 0, nil
	}
	return l.first, nil
}

// LastIndex implements [raft.LogStore]; it is 0 for an empty log.
func (l *Log) LastIndex() (uint64, error) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.places) == 0 {
		return 0, nil
	}
	return l.next() - 1, nil
}

// next is the index that follows the last entry. The caller has mu or change.
func (l *Log) next() uint64 { return l.first + uint64(len(l.places)) }

// GetLog implements [raft.LogStore]. A command whose payload is damaged is
// returned as it is, because the layer above knows damaged commands, and can
// heal; any other entry is a [*DamagedError].
func (l *Log) GetLog(index uint64, out *raft.Log) error {
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.closed:
		return errClosed
	case index < l.first || index >= l.next():
		return raft.ErrLogNotFound
	}
	p := l.places[index-l.first]
	b := make([]byte, p.n)
	if _, err := p.s.ReadAt(b, p.at); err != nil {
		return fmt.Errorf("reading entry %d: %w", index, err)
	}
	r, ok := parseRecord(b)
	if !ok || r.index != index || int64(r.size)+recordHeader != p.n {
		return &DamagedError{p.s.name, p.at, fmt.Sprintf("entry %d has no valid header any more", index)}
	}
	payload := b[recordHeader:]
	if r.kind != raft.LogCommand && checksum(payload) != r.sum {
		return &DamagedError{p.s.name, p.at, fmt.Sprintf("entry %d has another checksum", index)}
	}
	r.log(payload, out)
	return nil
}

// StoreLog implements [raft.LogStore].
func (l *Log) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

// StoreLogs implements [raft.LogStore]: the entries are durable when it
// returns. They follow each other. They may leave a gap to what is there, as
// they do after Raft has installed a snapshot; what is before the gap is
// covered by the snapshot, and is deleted. After an error none is stored.
func (l *Log) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	l.change.Lock()
	defer l.change.Unlock()
	if l.closed {
		return errClosed
	}
	from := logs[0].Index
	for i, e := range logs {
		if n := len(e.Data) + len(e.Extensions); e.Index != from+uint64(i) || n > maxRecord {
			return fmt.Errorf("entry %d with %d bytes can not be stored as number %d of a batch from %d", e.Index, n, i+1, from)
		}
	}
	switch {
	case len(l.places) == 0 || from == l.next():
	case from < l.next():
		return fmt.Errorf("entry %d can not follow entry %d", from, l.next()-1)
	default:
		if err := l.deleteAll(); err != nil {
			return err
		}
	}
	places, err := l.write(logs)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.places) == 0 {
		l.first = from
	}
	l.places = append(l.places, places...)
	return nil
}

// write appends records to the newest segment, or to a new one, and syncs. The
// caller has change.
func (l *Log) write(logs []*raft.Log) ([]place, error) {
	b, places := l.buf[:0], make([]place, len(logs))
	for i, e := range logs {
		at := len(b)
		flags := byte(0)
		if i == 0 {
			flags = flagBatch
		}
		b = appendRecord(b, e, flags)
		places[i].at, places[i].n = int64(at), int64(len(b)-at)
	}
	if cap(b) <= maxKept {
		l.buf = b
	}
	s, err := l.room(int64(len(b)))
	if err != nil {
		return nil, err
	}
	for i := range places {
		places[i].s, places[i].at = s, places[i].at+s.end
	}
	if _, err = s.WriteAt(b, s.end); err == nil {
		err = s.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("appending to the log: %w", l.failed(s, err))
	}
	s.end += int64(len(b))
	if l.stale != "" { // it is there for good
		l.stale, l.full = "", false
		l.mu.Lock()
		l.segments = append(l.segments, s)
		l.mu.Unlock()
	}
	return places, nil
}

// failed notes that a segment was left in the middle of a write.
func (l *Log) failed(s *segment, err error) error {
	if l.stale == s.name {
		return errors.Join(err, s.Close())
	}
	l.full = true
	return err
}

// room returns the newest segment, or a new one when n bytes do not fit. A new
// one is stale until it holds something.
func (l *Log) room(n int64) (*segment, error) {
	if err := l.sweep(); err != nil {
		return nil, err
	}
	before := startsAnew
	if len(l.places) > 0 {
		newest := l.segments[len(l.segments)-1]
		if !l.full && newest.end+n <= max(newest.size, l.segmentSize) {
			return newest, nil
		}
		before = uint64(newest.end)
	}
	l.number++
	s := &segment{name: segmentName(l.number), end: segmentHeader, size: max(l.segmentSize, segmentHeader+n)}
	l.stale = s.name
	var err error
	if s.File, err = l.files.Create(s.name); err != nil {
		return nil, fmt.Errorf("making a segment of the log: %w", err)
	}
	err = s.Allocate(s.size)
	if err == nil {
		_, err = s.WriteAt(appendSegmentHeader(nil, before, uint64(s.size)), 0)
	}
	if err == nil {
		err = l.files.Sync()
	}
	if err != nil {
		return nil, fmt.Errorf("making a segment of the log: %w", l.failed(s, err))
	}
	return s, nil
}

// sweep removes the segment that failed.
func (l *Log) sweep() error {
	if l.stale == "" {
		return nil
	}
	if err := errors.Join(l.files.Remove(l.stale), l.files.Sync()); err != nil {
		return fmt.Errorf("deleting a segment of the log: %w", err)
	}
	l.stale = ""
	return nil
}

// DeleteRange implements [raft.LogStore] for entries at either end of the log.
// Older ones are given back in whole segments; a few of them may be there
// again after a restart, which Raft does not mind.
func (l *Log) DeleteRange(from, to uint64) error {
	l.change.Lock()
	defer l.change.Unlock()
	switch next := l.next(); {
	case l.closed:
		return errClosed
	case from > to || to < l.first || from >= next:
		return nil
	case from <= l.first && to >= next-1:
		return l.deleteAll()
	case from <= l.first:
		l.mu.Lock()
		l.places = slices.Clone(l.places[to+1-l.first:])
		l.first = to + 1
		l.mu.Unlock()
		return l.reclaim(l.places[0].s)
	case to >= next-1:
		if _, err := l.write([]*raft.Log{{Index: from, Type: typeCut}}); err != nil {
			return err
		}
		l.mu.Lock()
		l.places = l.places[:from-l.first]
		l.mu.Unlock()
		return nil
	default:
		return fmt.Errorf("entries %d to %d are in the middle of the log", from, to)
	}
}

// deleteAll deletes every entry. The next segment starts anew, so that it does
// not matter which files a crash brings back.
func (l *Log) deleteAll() error {
	l.mu.Lock()
	l.first, l.places = l.next(), nil
	l.mu.Unlock()
	return l.reclaim(nil)
}

// reclaim deletes the segments before one, or all. Each file is gone for good
// before the next one goes, oldest first, so that no crash leaves a hole.
func (l *Log) reclaim(before *segment) error {
	for len(l.segments) > 0 && l.segments[0] != before {
		s := l.segments[0]
		if err := errors.Join(l.files.Remove(s.name), l.files.Sync()); err != nil {
			return fmt.Errorf("deleting a segment of the log: %w", err)
		}
		l.mu.Lock()
		l.segments = l.segments[1:]
		l.mu.Unlock()
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the files. Everything that was stored is on the disk already.
func (l *Log) Close() error {
	l.change.Lock()
	defer l.change.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	return closeAll(l.segments)
}

func closeAll(segments []*segment) error {
	var errs []error
	for _, s := range segments {
		errs = append(errs, s.Close())
	}
	return errors.Join(errs...)
}
