package fsm

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"
)

// The format of a snapshot:
//
//	"PLSNAP" | format version (u16)
//	section*: name, rows (each with its length + 1), 0, crc32c of the section
//	an empty name ends the file
//
// The first section is the header. Sections of unknown names are kept and
// written back, so that a mixed cluster loses nothing.
const (
	snapshotMagic   = "PLSNAP"
	snapshotVersion = 1
	headerSection   = "header"
	maxRow          = 16 << 20
	maxSectionName  = 128
)

// SnapshotHeader is the first section of a snapshot.
type SnapshotHeader struct {
	Index     uint64    `json:"index"`
	Term      uint64    `json:"term"`
	Time      time.Time `json:"time"`
	Revision  uint64    `json:"revision"`
	Digest    uint64    `json:"digest"`
	ClusterID string    `json:"clusterId"`
}

// section is one that this version does not know.
type section struct {
	name string
	rows [][]byte
}

// errSnapshot is the one error for bytes that are not an intact snapshot.
func errSnapshot(format string, args ...any) error {
	return Errorf(Invalid, "snapshot", "", "%s", fmt.Sprintf(format, args...)).
		WithHint("the file is truncated or damaged; take another one")
}

// WriteSnapshot writes the state. The state is immutable, so this may run
// while later entries are applied.
func (s *State) WriteSnapshot(w io.Writer) error {
	sw := &sectionWriter{w: bufio.NewWriterSize(w, 1<<16)}
	sw.raw([]byte(snapshotMagic))
	sw.raw(binary.LittleEndian.AppendUint16(nil, snapshotVersion))
	header, err := json.Marshal(s.header())
	if err != nil {
		return err
	}
	sw.section(headerSection, func(row func(string) error) error { return row(string(header)) })
	for _, t := range s.tables() {
		sw.section(t.Name(), t.writeRows)
	}
	for _, u := range s.unknown {
		sw.section(u.name, func(row func(string) error) error {
			for _, r := range u.rows {
				if err := row(string(r)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	sw.uvarint(0)
	if sw.err != nil {
		return sw.err
	}
	return sw.w.Flush()
}

func (s *State) header() SnapshotHeader {
	return SnapshotHeader{
		Index: s.index, Term: s.term, Time: s.time, Revision: s.revision,
		Digest: s.Digest(), ClusterID: s.ClusterID(),
	}
}

// ReadSnapshot reads a state and checks every checksum and the digest. Nothing
// of a damaged snapshot is used.
func ReadSnapshot(r io.Reader) (*State, error) {
	sr := &sectionReader{r: bufio.NewReaderSize(r, 1<<16), crc: crc32.New(castagnoli)}
	header, err := sr.header()
	if err != nil {
		return nil, err
	}
	s := NewState()
	byName := map[string]anyTable{}
	for _, t := range s.tables() {
		byName[t.Name()] = t
	}
	for {
		name, err := sr.name()
		if err != nil {
			return nil, err
		}
		if name == "" {
			break
		}
		if t, known := byName[name]; known {
			err = sr.rows(t.readRow)
		} else {
			u := section{name: name}
			err = sr.rows(func(row []byte) error {
				u.rows = append(u.rows, append([]byte(nil), row...))
				return nil
			})
			s.unknown = append(s.unknown, u)
		}
		if err != nil {
			return nil, err
		}
	}
	s.index, s.term, s.time, s.revision = header.Index, header.Term, header.Time, header.Revision
	if len(s.unknown) == 0 && s.Digest() != header.Digest {
		return nil, errSnapshot("its content does not match its digest")
	}
	return s, nil
}

// sectionWriter writes sections and keeps the first error.
type sectionWriter struct {
	w   *bufio.Writer
	crc hash.Hash32
	err error
	buf []byte
}

func (w *sectionWriter) raw(b []byte) {
	if w.err != nil {
		return
	}
	if w.crc != nil {
		w.crc.Write(b)
	}
	_, w.err = w.w.Write(b)
}

func (w *sectionWriter) uvarint(v uint64) {
	w.buf = binary.AppendUvarint(w.buf[:0], v)
	w.raw(w.buf)
}

func (w *sectionWriter) section(name string, rows func(func(string) error) error) {
	w.crc = crc32.New(castagnoli)
	w.uvarint(uint64(len(name)))
	w.raw([]byte(name))
	err := rows(func(row string) error {
		w.uvarint(uint64(len(row)) + 1)
		w.raw([]byte(row))
		return w.err
	})
	if w.err == nil {
		w.err = err
	}
	w.uvarint(0)
	sum := w.crc.Sum32()
	w.crc = nil
	w.raw(binary.LittleEndian.AppendUint32(nil, sum))
}

// sectionReader reads sections and checks them.
type sectionReader struct {
	r   *bufio.Reader
	crc hash.Hash32
	buf []byte
}

// ReadByte implements [io.ByteReader] for uvarints, feeding the checksum.
func (r *sectionReader) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.crc.Write([]byte{b})
	}
	return b, err
}

func (r *sectionReader) header() (h SnapshotHeader, err error) {
	start := make([]byte, len(snapshotMagic)+2)
	if _, err := io.ReadFull(r.r, start); err != nil || string(start[:len(snapshotMagic)]) != snapshotMagic {
		return h, Errorf(Invalid, "snapshot", "", "is not a paceline snapshot")
	}
	if v := binary.LittleEndian.Uint16(start[len(snapshotMagic):]); v > snapshotVersion {
		return h, Errorf(Invalid, "snapshot", "", "has format %d, this version reads up to %d", v, snapshotVersion).
			WithHint("use a newer paceline")
	}
	name, err := r.name()
	if err != nil || name != headerSection {
		return h, errSnapshot("it has no header")
	}
	err = r.rows(func(row []byte) error { return decodeJSON(row, &h) })
	return h, err
}

func (r *sectionReader) name() (string, error) {
	r.crc.Reset()
	n, err := binary.ReadUvarint(r)
	if err != nil || n > maxSectionName {
		return "", errSnapshot("it ends within a section")
	}
	b, err := r.take(n)
	return string(b), err
}

// rows calls use for each row of the section, whose buffer it reuses, and then
// checks the section's checksum.
func (r *sectionReader) rows(use func([]byte) error) error {
	for {
		n, err := binary.ReadUvarint(r)
		if err != nil || n > maxRow {
			return errSnapshot("it ends within a section")
		}
		if n == 0 {
			break
		}
		row, err := r.take(n - 1)
		if err != nil {
			return err
		}
		if err := use(row); err != nil {
			return errSnapshot("%v", err)
		}
	}
	want := r.crc.Sum32()
	var sum [4]byte
	if _, err := io.ReadFull(r.r, sum[:]); err != nil {
		return errSnapshot("it ends within a checksum")
	}
	if binary.LittleEndian.Uint32(sum[:]) != want {
		return errSnapshot("a section's checksum does not match")
	}
	return nil
}

func (r *sectionReader) take(n uint64) ([]byte, error) {
	if uint64(cap(r.buf)) < n {
		r.buf = make([]byte, n)
	}
	b := r.buf[:n]
	if _, err := io.ReadFull(r.r, b); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errSnapshot("it ends within a row")
		}
		return nil, err
	}
	r.crc.Write(b)
	return b, nil
}
