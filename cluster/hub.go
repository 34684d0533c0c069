package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// The peer port carries four kinds of stream. The dialling side says which in
// a handshake:
//
//	'P' 'L' | version | kind | length u16 | JSON of hello
//	answer:  status   | length u16 | JSON of hello (0) or a sentence (else)
//
// The handshake names the cluster and the node that is wanted, so that an
// address which now belongs to somebody else is noticed before anything is
// sent to it.
const helloVersion = 1

type streamKind byte

const (
	kindRaft   streamKind = 'r' // raft's own transport
	kindCall   streamKind = 'c' // requests and replies
	kindWatch  streamKind = 'w' // idle; its end says that the process died
	kindState  streamKind = 's' // the state, streamed to the dialler
	kindUpload streamKind = 'u' // a snapshot to restore, streamed to the listener
)

// The answers to a handshake.
const (
	helloOK byte = iota
	helloForeign
	helloWrongName
	helloBadVersion
	helloBusy
)

// hello is what the two sides of a stream say about themselves.
type hello struct {
	Cluster string `json:"c,omitempty"`
	From    string `json:"f"`
	To      string `json:"t,omitempty"`
	Inc     uint64 `json:"i"`
}

// refusedError is a handshake that the other side turned down.
type refusedError struct {
	code   byte
	reason string
}

// Error gives the other side's sentence.
func (e *refusedError) Error() string { return e.reason }

// hub owns the peer port: the listener and every stream, in both directions.
type hub struct {
	log     *slog.Logger
	network Network
	self    func(to string) hello
	serve   map[streamKind]func(net.Conn, hello) // each owns its conn
	seen    func(name string)

	listener net.Listener
	ctx      context.Context
	cancel   context.CancelFunc
	wg       sync.WaitGroup

	mu       sync.Mutex
	conns    map[*hubConn]struct{}
	accepted int
	closed   bool
}

// hubConn is a stream that the hub can end.
type hubConn struct {
	net.Conn
	hub      *hub
	accepted bool
	kind     streamKind // of a dialled stream
	once     sync.Once
}

// Close ends the stream and forgets it.
func (c *hubConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		c.hub.mu.Lock()
		delete(c.hub.conns, c)
		if c.accepted {
			c.hub.accepted--
		}
		c.hub.mu.Unlock()
		err = c.Conn.Close()
	})
	return err
}

func newHub(log *slog.Logger, network Network, self func(to string) hello, seen func(string)) *hub {
	h := &hub{log: log, network: network, self: self, seen: seen, serve: map[streamKind]func(net.Conn, hello){}, conns: map[*hubConn]struct{}{}}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// listen opens the port; streams wait until run.
func (h *hub) listen(addr string) (err error) {
	h.listener, err = h.network.Listen(addr)
	return err
}

// run accepts streams until close.
func (h *hub) run() {
	h.wg.Go(func() {
		for {
			conn, err := h.listener.Accept()
			if err != nil {
				if h.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return
				}
				h.log.Warn("accepting a peer failed", "error", err)
				if !pause(h.ctx, retryWaitMax) {
					return
				}
				continue
			}
			if c := h.track(conn, true, 0); c != nil {
				h.wg.Go(func() { h.welcome(c) })
			}
		}
	})
}

// track registers a stream, or ends it when the hub is closed or full.
func (h *hub) track(conn net.Conn, accepted bool, kind streamKind) *hubConn {
	c := &hubConn{Conn: conn, hub: h, accepted: accepted, kind: kind}
	h.mu.Lock()
	full := h.closed || (accepted && h.accepted >= maxConns)
	if !full {
		h.conns[c] = struct{}{}
		if accepted {
			h.accepted++
		}
	}
	h.mu.Unlock()
	if full {
		closeQuietly(conn)
		return nil
	}
	return c
}

// close ends the port and every stream at once, and waits for their handlers.
func (h *hub) close() {
	h.cancel()
	h.mu.Lock()
	h.closed = true
	open := make([]*hubConn, 0, len(h.conns))
	for c := range h.conns {
		open = append(open, c)
	}
	h.mu.Unlock()
	if h.listener != nil {
		closeQuietly(h.listener)
	}
	for _, c := range open {
		closeQuietly(c)
	}
	h.wg.Wait()
}

// cut ends the streams of a kind that this node has dialled.
func (h *hub) cut(kind streamKind) {
	h.mu.Lock()
	var open []*hubConn
	for c := range h.conns {
		if !c.accepted && c.kind == kind {
			open = append(open, c)
		}
	}
	h.mu.Unlock()
	for _, c := range open {
		closeQuietly(c)
	}
}

// welcome does the accepting side of the handshake and hands the stream over.
func (h *hub) welcome(c *hubConn) {
	kind, peer, err := h.greet(c)
	if err != nil {
		closeQuietly(c)
		if !errors.Is(err, io.EOF) && h.ctx.Err() == nil {
			h.log.Debug("a peer's handshake failed", "remote", c.RemoteAddr(), "error", err)
		}
		return
	}
	h.seen(peer.From)
	h.serve[kind](c, peer)
}

func (h *hub) greet(c net.Conn) (streamKind, hello, error) {
	var peer hello
	if err := c.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return 0, peer, err
	}
	var head [6]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return 0, peer, err
	}
	n := binary.BigEndian.Uint16(head[4:])
	if head[0] != 'P' || head[1] != 'L' || n > maxHello {
		return 0, peer, errors.New("it is not a paceline peer")
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(c, body); err != nil {
		return 0, peer, err
	}
	if err := json.Unmarshal(body, &peer); err != nil {
		return 0, peer, err
	}
	kind := streamKind(head[3])
	if refusal := h.refusal(head[2], kind, peer); refusal != nil {
		return 0, peer, errors.Join(refusal, answer(c, refusal.code, []byte(refusal.reason)))
	}
	mine, err := json.Marshal(h.self(peer.From))
	if err != nil {
		return 0, peer, err
	}
	if err := answer(c, helloOK, mine); err != nil {
		return 0, peer, err
	}
	return kind, peer, c.SetDeadline(time.Time{})
}

func (h *hub) refusal(version byte, kind streamKind, peer hello) *refusedError {
	me := h.self("")
	switch {
	case version != helloVersion || h.serve[kind] == nil:
		return &refusedError{helloBadVersion, fmt.Sprintf("node %s does not speak this version of the peer protocol", me.From)}
	case foreign(me.Cluster, peer.Cluster):
		return &refusedError{helloForeign, foreignText(me.From, me.Cluster, peer.Cluster)}
	case peer.To != "" && peer.To != me.From:
		return &refusedError{helloWrongName, fmt.Sprintf("this address belongs to node %s, not to %s", me.From, peer.To)}
	}
	return nil
}

// foreign reports whether two nodes are known to be of different clusters.
func foreign(a, b string) bool { return a != "" && b != "" && a != b }

// foreignMark is the part of foreignText by which it is recognised.
const foreignMark = " belongs to cluster "

func foreignText(name, theirs, ours string) string {
	return "node " + name + foreignMark + theirs + ", not to " + ours
}

func answer(c net.Conn, status byte, body []byte) error {
	msg := binary.BigEndian.AppendUint16([]byte{status}, uint16(len(body)))
	_, err := c.Write(append(msg, body...))
	return err
}

// dial opens a stream of a kind to an address; to may be empty when the
// node's name is not known.
func (h *hub) dial(ctx context.Context, addr string, kind streamKind, to string) (net.Conn, hello, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	raw, err := h.network.Dial(ctx, addr)
	if err != nil {
		return nil, hello{}, err
	}
	c := h.track(raw, false, kind)
	if c == nil {
		return nil, hello{}, net.ErrClosed
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	peer, err := h.introduce(c, kind, to)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err == nil {
		err = c.SetDeadline(time.Time{})
	}
	if err != nil {
		closeQuietly(c)
		return nil, hello{}, err
	}
	h.seen(peer.From)
	return c, peer, nil
}

// introduce does the dialling side of the handshake.
func (h *hub) introduce(c net.Conn, kind streamKind, to string) (peer hello, err error) {
	mine := h.self(to)
	body, err := json.Marshal(mine)
	if err != nil {
		return peer, err
	}
	msg := binary.BigEndian.AppendUint16([]byte{'P', 'L', helloVersion, byte(kind)}, uint16(len(body)))
	if _, err := c.Write(append(msg, body...)); err != nil {
		return peer, err
	}
	var head [3]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		return peer, err
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > maxHello {
		return peer, errors.New("the peer's answer is too long")
	}
	reply := make([]byte, n)
	if _, err := io.ReadFull(c, reply); err != nil {
		return peer, err
	}
	if head[0] != helloOK {
		return peer, &refusedError{head[0], string(reply)}
	}
	if err := json.Unmarshal(reply, &peer); err != nil {
		return peer, err
	}
	if foreign(mine.Cluster, peer.Cluster) {
		return peer, &refusedError{helloForeign, foreignText(peer.From, peer.Cluster, mine.Cluster)}
	}
	return peer, nil
}

func closeQuietly(c io.Closer) {
	_ = c.Close() // nothing can be done about a close that fails here
}

// pause waits, and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
