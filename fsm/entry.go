package fsm

import (
	"encoding/binary"
	"hash/crc32"
	"time"
)

// The format of a log entry, all integers little-endian or uvarint:
//
//	magic 0x9C | version | minReader | flags | crc32c of all the rest
//	time (unix ns) | origin node, boot, seq | number of commands
//	then for each: flags, name, actor, request id, body (each with its length)
//
// The CRC is ours because the log store has none: a bit that flips on disk
// would otherwise be applied by one replica only.
const (
	entryMagic   = 0x9C
	entryVersion = 1
	entryHeader  = 8
	flagIgnore   = 1

	// MaxBatch is the most commands that one entry may hold.
	MaxBatch = 4096
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// BatchID identifies a batch of commands from the node that accepted them.
type BatchID struct {
	// Node is the name of the accepting node; empty switches the check for
	// repeated batches off.
	Node string
	// Boot is the node's incarnation, Seq counts its batches from 1.
	Boot uint64
	Seq  uint64
}

// Entry is the content of one log entry: commands that are applied together,
// in order, each succeeding or failing by itself.
type Entry struct {
	Time     time.Time
	Batch    BatchID
	Commands []Envelope
}

// CorruptError is an entry whose bytes are not what was written.
type CorruptError struct{ Reason string }

// Error says what does not fit.
func (e *CorruptError) Error() string { return "log entry is corrupt: " + e.Reason }

// TooNewError is an entry of a format that this binary does not read.
type TooNewError struct{ Version int }

// Error names the format and what to do.
func (e *TooNewError) Error() string {
	return "the log holds an entry of a newer format; start a newer paceline on this node"
}

// Encode writes the entry in the log's format.
func (e *Entry) Encode() []byte {
	size := 64
	for _, c := range e.Commands {
		size += len(c.Name) + len(c.Actor) + len(c.RequestID) + len(c.Body) + 16
	}
	b := make([]byte, entryHeader, size)
	b[0], b[1], b[2] = entryMagic, entryVersion, entryVersion
	b = binary.AppendUvarint(b, uint64(e.Time.UnixNano()))
	b = appendBytes(b, e.Batch.Node)
	b = binary.AppendUvarint(b, e.Batch.Boot)
	b = binary.AppendUvarint(b, e.Batch.Seq)
	b = appendCommands(b, e.Commands)
	binary.LittleEndian.PutUint32(b[4:], entrySum(b))
	return b
}

// EncodeCommands writes commands without an entry around them: the form in
// which a node forwards a batch to the leader.
func EncodeCommands(list []Envelope) []byte { return appendCommands(nil, list) }

// DecodeCommands reads what EncodeCommands wrote. The result refers to b.
func DecodeCommands(b []byte) ([]Envelope, error) {
	r := reader{b: b}
	list := r.commands()
	return list, r.done()
}

// CheckEntry reports whether data is an intact entry, without decoding it.
func CheckEntry(data []byte) error {
	switch {
	case len(data) < entryHeader:
		return &CorruptError{"it is too short"}
	case data[0] != entryMagic:
		return &CorruptError{"it does not begin as an entry"}
	case entrySum(data) != binary.LittleEndian.Uint32(data[4:]):
		return &CorruptError{"its checksum does not match"}
	}
	return nil
}

// entrySum is the checksum of an entry but for the checksum itself.
func entrySum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[entryHeader:])
}

// DecodeEntry checks and reads an entry. The result refers to data.
func DecodeEntry(data []byte) (*Entry, error) {
	if err := CheckEntry(data); err != nil {
		return nil, err
	}
	if data[2] > entryVersion {
		return nil, &TooNewError{Version: int(data[2])}
	}
	r := reader{b: data[entryHeader:]}
	e := &Entry{Time: time.Unix(0, int64(r.uvarint())).UTC()}
	e.Batch.Node = string(r.bytes())
	e.Batch.Boot = r.uvarint()
	e.Batch.Seq = r.uvarint()
	e.Commands = r.commands()
	return e, r.done()
}

func appendBytes[S string | []byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendCommands(b []byte, list []Envelope) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, c := range list {
		var flags byte
		if c.Ignorable {
			flags |= flagIgnore
		}
		b = append(b, flags)
		b = appendBytes(b, c.Name)
		b = appendBytes(b, c.Actor)
		b = appendBytes(b, c.RequestID)
		b = appendBytes(b, c.Body)
	}
	return b
}

// reader takes fields off a byte slice and remembers whether one was missing.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) commands() []Envelope {
	n := r.uvarint()
	if n > MaxBatch {
		r.bad = true
		return nil
	}
	list := make([]Envelope, 0, n)
	for range n {
		flags := r.byte()
		list = append(list, Envelope{
			Ignorable: flags&flagIgnore != 0,
			Name:      string(r.bytes()),
			Actor:     string(r.bytes()),
			RequestID: string(r.bytes()),
			Body:      r.bytes(),
		})
		if r.bad {
			return nil
		}
	}
	return list
}

func (r *reader) done() error {
	if r.bad || len(r.b) != 0 {
		return &CorruptError{"its fields do not add up"}
	}
	return nil
}
