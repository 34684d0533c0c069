package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
)

// errConnLost is a stream that ended while a request was under way.
var errConnLost = errors.New("the connection was lost")

// frameConn exchanges frames, each a u32 length and its bytes. One goroutine
// writes, so that nobody holds a lock while the network is slow and so that
// frames which wait together share a system call.
type frameConn struct {
	conn net.Conn
	out  chan []byte
	done chan struct{}
	once sync.Once
}

func newFrameConn(c net.Conn) *frameConn {
	return &frameConn{conn: c, out: make(chan []byte, maxFrameQueue), done: make(chan struct{})}
}

// close ends the stream and everybody who waits for it.
func (f *frameConn) close() {
	f.once.Do(func() {
		close(f.done)
		closeQuietly(f.conn)
	})
}

// send queues a frame that begins with 4 spare bytes for its length.
func (f *frameConn) send(frame []byte, stop <-chan struct{}) error {
	binary.BigEndian.PutUint32(frame, uint32(len(frame)-4))
	select {
	case f.out <- frame:
		return nil
	case <-f.done:
		return errConnLost
	case <-stop:
		return errConnLost
	}
}

// writeLoop writes frames until the stream ends.
func (f *frameConn) writeLoop() {
	defer f.close()
	w := bufio.NewWriterSize(f.conn, 1<<16)
	for {
		select {
		case frame := <-f.out:
			if _, err := w.Write(frame); err != nil {
				return
			}
		case <-f.done:
			return
		}
		if len(f.out) == 0 {
			if err := w.Flush(); err != nil {
				return
			}
		}
	}
}

// readLoop calls use for each frame until the stream ends.
func (f *frameConn) readLoop(use func(frame []byte) error) {
	defer f.close()
	r := bufio.NewReaderSize(f.conn, 1<<16)
	var head [4]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxFrame {
			return
		}
		frame := make([]byte, n)
		if _, err := io.ReadFull(r, frame); err != nil {
			return
		}
		if err := use(frame); err != nil {
			return
		}
	}
}

// The status of a reply.
const (
	replyOK byte = iota
	replyError
	replyNotLeader
	replyNoMethod
)

// A request is id u64, method (u8 length), payload; a reply is id u64, status,
// payload.
func requestFrame(id uint64, method string, payload []byte) []byte {
	b := make([]byte, 4, 4+8+1+len(method)+len(payload))
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, byte(len(method)))
	b = append(b, method...)
	return append(b, payload...)
}

func replyFrame(id uint64, status byte, payload []byte) []byte {
	b := make([]byte, 4, 4+8+1+len(payload))
	b = binary.BigEndian.AppendUint64(b, id)
	b = append(b, status)
	return append(b, payload...)
}

var errBadFrame = errors.New("a frame does not have its form")

func splitRequest(b []byte) (id uint64, method string, payload []byte, err error) {
	if len(b) < 9 || len(b) < 9+int(b[8]) || b[8] > maxMethod {
		return 0, "", nil, errBadFrame
	}
	n := 9 + int(b[8])
	return binary.BigEndian.Uint64(b), string(b[9:n]), b[n:], nil
}

func splitReply(b []byte) (id uint64, status byte, payload []byte, err error) {
	if len(b) < 9 {
		return 0, 0, nil, errBadFrame
	}
	return binary.BigEndian.Uint64(b), b[8], b[9:], nil
}
