package cluster

import (
	"encoding/binary"
	"io"

	"github.com/hashicorp/raft"
)

// positionSize is the length of the header that precedes the state in a Raft
// snapshot: the index and the term that it stands at.
//
// Raft does not tell an FSM at which index it restores. The state's own index
// may be lower (entries of Raft's own follow it) or from another time (a
// snapshot that a user restores), and a node that believed it would wait for
// entries that never come. So Open writes the true position over the header.
const positionSize = 16

// snapshotStore overlays the header with the position of the snapshot.
type snapshotStore struct {
	raft.SnapshotStore
}

// Open implements [raft.SnapshotStore].
func (s snapshotStore) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, r, err := s.SnapshotStore.Open(id)
	if err != nil {
		return nil, nil, err
	}
	if _, err := io.CopyN(io.Discard, r, positionSize); err != nil {
		closeQuietly(r)
		return nil, nil, err
	}
	return meta, &positioned{head: encodePosition(meta.Index, meta.Term), ReadCloser: r}, nil
}

// positioned is a stream with another beginning.
type positioned struct {
	head []byte
	io.ReadCloser
}

// Read implements [io.Reader].
func (p *positioned) Read(b []byte) (int, error) {
	if len(p.head) > 0 {
		n := copy(b, p.head)
		p.head = p.head[n:]
		return n, nil
	}
	return p.ReadCloser.Read(b)
}

func encodePosition(index, term uint64) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, positionSize), index)
	return binary.BigEndian.AppendUint64(b, term)
}

func readPosition(r io.Reader) (index, term uint64, err error) {
	var b [positionSize]byte
	if _, err = io.ReadFull(r, b[:]); err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint64(b[:]), binary.BigEndian.Uint64(b[8:]), nil
}
