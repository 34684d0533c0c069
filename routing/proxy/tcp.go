package proxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"time"

	"github.com/pires/go-proxyproto"

	"github.com/pacelinehq/paceline/routing/balance"
)

// passThrough moves the bytes of a connection of a tcp listener to an instance
// and back. A connection that can not be made is tried at another instance;
// one that has been made is never moved.
func (c *conn) passThrough() {
	defer c.end()
	pl := c.p.plan.Load()
	group, ok := pl.routes.TCP(c.l.port)
	if !ok {
		return
	}
	t := pl.targets[group]
	now := c.now()
	if !c.count(t, now) {
		t.events.connLimited.Add(1)
		return
	}
	t.stats.inflight.Add(1)
	defer t.stats.inflight.Add(-1)
	up, u := c.dial(t, now)
	if up == nil {
		t.stats.count(0, c.now()-now)
		t.stats.failures.Add(1)
		return
	}
	head := c.now() - now
	c.p.tunnels.Add(1)
	received := join(&c.stream, &up.stream, t.spec.Timeouts.Tunnel.Std())
	c.p.tunnels.Add(-1)
	_ = up.Close()
	t.release(u.instance, c.now(), head)
	for _, s := range []*counters{&t.stats, &u.stats} {
		s.count(200, head)
	}
	t.stats.received.Add(uint64(received))
}

// dial makes a connection to an instance, or returns nil. Where there is no
// instance, or none takes a connection, it waits for one, as requests do.
func (c *conn) dial(t *target, now time.Duration) (*upConn, *upstream) {
	var w patience
	for {
		up, u := c.dialAny(t, &w, now)
		if up != nil || u == nil || !c.p.outlast(t, &w) {
			return up, u
		}
		if t = c.p.plan.Load().targets[t.group]; t == nil {
			return nil, nil
		}
	}
}

// dialAny tries one instance after another. It returns the last one without a
// connection when those that were tried take none, and nil when it is of no use to
// try again.
func (c *conn) dialAny(t *target, w *patience, now time.Duration) (up *upConn, u *upstream) {
	var tried [maxAttempts]int32
	r := balance.Request{Hash: hashAddr(c.peer), Now: now, Tried: tried[:0:maxAttempts]}
	own := false
	for try := range min(t.spec.Retry.Attempts, maxAttempts) {
		k, next := t.pick(&r)
		if next == nil && try == 0 {
			c.p.hold(t, w, func(bool) bool {
				newest := c.p.plan.Load().targets[t.group]
				if newest == nil {
					return true
				}
				t, r.Tried = newest, tried[:0:maxAttempts]
				k, next = t.pick(&r)
				return next != nil
			})
		}
		if next == nil {
			break
		}
		u = next
		up, err := t.connect(c.p, u, true)
		if err == nil {
			u.ejection.succeeded()
			return up, u
		}
		t.release(u.instance, c.now(), unknownLatency)
		fail := noConnection(err)
		if own = fail.own; fail.blames() {
			c.p.noteFailure(t, u.instance, true)
		}
		r.Tried = append(r.Tried, int32(k))
	}
	if own { // waiting for an instance would not help
		return nil, nil
	}
	return nil, u
}

// proxyV2 begins a PROXY protocol header of version 2; the length of what
// follows stands in its last two bytes.
const (
	proxyV2Head = 16
	maxProxyV2  = 2048
)

var errProxyHeader = errors.New("the connection does not begin with a PROXY protocol header of version 2")

// readProxyHeader takes the client's address from the header that a proxy in
// front of us puts before everything else. It reads exactly the header.
func (c *conn) readProxyHeader() error {
	c.readBy = 0
	c.readIn(c.now(), c.p.waits.head)
	head := make([]byte, proxyV2Head, proxyV2Head+128)
	if _, err := io.ReadFull(c.Conn, head); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint16(head[14:]))
	if !bytes.HasPrefix(head, proxyproto.SIGV2) || n > maxProxyV2 {
		return errProxyHeader
	}
	head = append(head, make([]byte, n)...)
	if _, err := io.ReadFull(c.Conn, head[proxyV2Head:]); err != nil {
		return err
	}
	h, err := proxyproto.Read(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return err
	}
	if h.Command.IsLocal() { // the proxy's own check of us
		return nil
	}
	src, ok := h.SourceAddr.(*net.TCPAddr)
	if !ok {
		return errProxyHeader
	}
	c.peer = addrOf(src)
	c.trusted = c.p.trusts(c.peer)
	return nil
}
