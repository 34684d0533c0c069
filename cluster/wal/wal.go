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
	// stale is a segment that was begun and holds nothing that was
	// acknowledged. It has to be gone before another is begun.
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
	name   string
	number uint64
	end    int64
	size   int64
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
	r, ok := parseRecord(b, position{p.s.number, p.at})
	if !ok || r.index != index || r.length() != p.n {
		return &DamagedError{p.s.name, p.at, fmt.Sprintf("entry %d has no valid header any more", index)}
	}
	payload := b[recordHeader : recordHeader+int64(r.size)]
	flip(payload)
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
// they do after Raft has installed a snapshot: then what is before the gap is
// deleted with it. After an error nothing is stored or deleted.
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
	anew := len(l.places) == 0 || from > l.next()
	if !anew && from < l.next() {
		return fmt.Errorf("entry %d can not follow entry %d", from, l.next()-1)
	}
	places, err := l.write(logs, anew)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if anew {
		l.first, l.places = from, nil
	}
	l.places = append(l.places, places...)
	l.mu.Unlock()
	if anew {
		_ = l.reclaim() // it is tried again with the next deletion
	}
	return nil
}

// write appends records to the newest segment, or to a new one, and syncs. The
// caller has change.
func (l *Log) write(logs []*raft.Log, anew bool) ([]place, error) {
	size := int64(0)
	for _, e := range logs {
		size += recordSize(len(e.Data) + len(e.Extensions))
	}
	s, fresh, err := l.room(size, anew)
	if err != nil {
		return nil, err
	}
	b, places := l.buf[:0], make([]place, len(logs))
	for i, e := range logs {
		flags := byte(0)
		if i == 0 {
			flags = flagBatch
		}
		at := s.end + int64(len(b))
		b = appendRecord(b, position{s.number, at}, e, flags)
		places[i] = place{s, at, s.end + int64(len(b)) - at}
	}
	if cap(b) <= maxKept {
		l.buf = b
	}
	if _, err = s.WriteAt(b, s.end); err == nil {
		err = s.Sync()
	}
	if err != nil {
		if fresh {
			err = errors.Join(err, s.Close())
		} else {
			l.full = true
		}
		return nil, fmt.Errorf("appending to the log: %w", err)
	}
	s.end += size
	if fresh {
		l.stale, l.full = "", false
		l.mu.Lock()
		l.segments = append(l.segments, s)
		l.mu.Unlock()
	}
	return places, nil
}

// room returns the newest segment, or a new one when n bytes do not fit or the
// log starts anew. A new one is stale until it holds something.
func (l *Log) room(n int64, anew bool) (s *segment, fresh bool, err error) {
	if err := l.sweep(); err != nil {
		return nil, false, err
	}
	before := startsAnew
	if !anew {
		newest := l.segments[len(l.segments)-1]
		if !l.full && newest.end+n <= newest.size {
			return newest, false, nil
		}
		before = uint64(newest.end)
	}
	l.number++
	s = &segment{name: segmentName(l.number), number: l.number, end: segmentHeader, size: max(l.segmentSize, segmentHeader+n)}
	l.stale = s.name
	if s.File, err = l.files.Create(s.name); err == nil {
		err = s.Allocate(s.size)
		if err == nil {
			_, err = s.WriteAt(appendSegmentHeader(nil, before, uint64(s.size)), 0)
		}
		if err == nil {
			err = l.files.Sync()
		}
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("making a segment of the log: %w", err)
	}
	return s, true, nil
}

// sweep removes the segment that was begun in vain.
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
// Newer ones, and all, are gone for good when it returns, and all are there
// still after an error. Older ones are given back in whole segments; a few of
// them may be there again after a restart, which Raft does not mind.
func (l *Log) DeleteRange(from, to uint64) error {
	l.change.Lock()
	defer l.change.Unlock()
	if l.closed {
		return errClosed
	}
	if err := l.reclaim(); err != nil {
		return err
	}
	switch next := l.next(); {
	case from > to || to < l.first || from >= next:
		return nil
	case to >= next-1:
		from = max(from, l.first)
		if _, err := l.write([]*raft.Log{{Index: from, Type: typeCut}}, false); err != nil {
			return err
		}
		l.mu.Lock()
		l.places = l.places[:from-l.first]
		l.mu.Unlock()
		return nil
	case from <= l.first:
		l.mu.Lock()
		l.places = slices.Clone(l.places[to+1-l.first:])
		l.first = to + 1
		l.mu.Unlock()
		return l.reclaim()
	default:
		return fmt.Errorf("entries %d to %d are in the middle of the log", from, to)
	}
}

// reclaim deletes the segments before that of the first entry. Each file is
// gone for good before the next one goes, oldest first, so that no crash
// leaves a hole. An empty log keeps its newest segment: it says that the others
// do not count.
func (l *Log) reclaim() error {
	for len(l.segments) > 1 && (len(l.places) == 0 || l.segments[0] != l.places[0].s) {
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
