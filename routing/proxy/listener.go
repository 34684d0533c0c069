package proxy

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// listener accepts connections on one port.
type listener struct {
	p        *Proxy
	l        net.Listener
	port     int
	protocol string
	draining atomic.Bool
	idle     atomic.Int64 // the idle timeout, of the newest plan
}

func newListener(p *Proxy, l net.Listener, port int, protocol string) *listener {
	return &listener{p: p, l: l, port: port, protocol: protocol}
}

// idleTimeout is how long a client's connection may wait for its next request.
// Services that share the listener share the longest.
func (l *listener) idleTimeout() time.Duration {
	if d := l.idle.Load(); d > 0 {
		return time.Duration(d)
	}
	return defaultIdle
}

// accept takes connections until the listener is closed.
func (l *listener) accept() {
	for {
		nc, err := l.l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // out of descriptors, mostly: those come back
			l.p.log.Warn("a connection could not be accepted", "port", l.port, "err", err)
			if !l.p.pause(acceptPause) {
				return
			}
			continue
		}
		l.p.stats.accepted.Add(1)
		c := newConn(l, nc)
		if !l.p.conns.add(c, maxConnections) {
			l.p.stats.refused.Add(1)
			_ = nc.Close()
			continue
		}
		go func() {
			defer l.p.conns.remove(c)
			l.serve(c)
		}()
	}
}

func (p *Proxy) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-p.life.Done():
		return false
	}
}

func newConn(l *listener, nc net.Conn) *conn {
	peer := addrOf(nc.RemoteAddr())
	return &conn{
		stream: stream{Conn: nc, clk: l.p.clock}, l: l, nc: nc,
		party: party{p: l.p, clock: l.p.clock, port: l.port, peer: peer, proto: "http", trusted: l.p.trusts(peer)},
	}
}

// serve answers one connection.
func (l *listener) serve(c *conn) {
	if c.trusted && l.p.cfg.ProxyProtocol {
		if err := c.readProxyHeader(); err != nil {
			l.p.stats.malformed.Add(1)
			l.p.log.Debug("a connection's PROXY header was refused", "peer", c.peer, "err", err)
			_ = c.Close()
			return
		}
	}
	switch {
	case l.protocol == fsm.ProtocolTCP:
		c.passThrough()
	case l.port == 0 && l.p.cfg.TLS != nil:
		l.p.front.serve(c)
	default:
		if tcp, ok := c.Conn.(*net.TCPConn); ok {
			c.raw, _ = tcp.SyscallConn() // without it the connection keeps its buffer while idle
		}
		c.serve()
	}
}

// trusts reports whether a peer is a proxy of ours.
func (p *Proxy) trusts(a netip.Addr) bool {
	for _, t := range p.cfg.Trusted {
		if t.Contains(a) {
			return true
		}
	}
	return false
}

func addrOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap()
	}
	return netip.IPv4Unspecified()
}

// drain stops accepting. Connections end after the request that they have, or
// the next one: closing a connection on which a request is just arriving would
// lose it, so idle ones are given a while in which a request still is answered.
func (l *listener) drain() {
	l.draining.Store(true)
	_ = l.l.Close()
	l.p.wg.Go(func() {
		l.p.pause(l.p.waits.drain)
		l.p.conns.each(func(c *conn) {
			if c.l == l && c.idle.Load() {
				_ = c.nc.SetReadDeadline(c.clk.base)
			}
		})
	})
}

// adjustPorts opens the ports that services want and closes the others. A port
// that can not be opened is tried again with the janitor's passes.
func (p *Proxy) adjustPorts(want []fsm.Listener) {
	if p.life.Err() != nil || p.shared.draining.Load() {
		return
	}
	wanted := map[int]string{}
	for _, w := range want {
		wanted[w.Port] = w.Protocol
	}
	for port, l := range p.ports {
		if wanted[port] != l.protocol {
			l.drain()
			delete(p.ports, port)
		}
	}
	p.portErrors.Range(func(port, _ any) bool {
		if wanted[port.(int)] == "" {
			p.portErrors.Delete(port)
		}
		return true
	})
	host, _, _ := net.SplitHostPort(p.cfg.Addr)
	for port, protocol := range wanted {
		if p.ports[port] != nil {
			continue
		}
		var lc net.ListenConfig
		nl, err := lc.Listen(p.life, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
		if err != nil {
			p.portFailed(port, err)
			continue
		}
		p.portErrors.Delete(port)
		l := newListener(p, nl, port, protocol)
		p.ports[port] = l
		p.wg.Go(l.accept)
	}
}

// PortErrors says why ports of services are not open.
func (p *Proxy) PortErrors() map[int]string {
	list := map[int]string{}
	p.portErrors.Range(func(port, why any) bool {
		list[port.(int)] = why.(string)
		return true
	})
	return list
}

// retryPorts tries again to listen on the ports that are not open.
func (p *Proxy) retryPorts() {
	if len(p.PortErrors()) == 0 {
		return
	}
	p.planning.Lock()
	defer p.planning.Unlock()
	p.adjustPorts(p.plan.Load().routes.Ports())
}

// portFailed remembers why a port is not open, for whoever asks, and says it
// once.
func (p *Proxy) portFailed(port int, err error) {
	if _, known := p.portErrors.Swap(port, err.Error()); !known {
		p.log.Error("a service's port can not be listened on; it is tried again", "port", port, "err", err)
	}
}
