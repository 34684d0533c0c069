package sim

import (
	"context"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// gossip is one host's transport for memberlist.
type gossip struct {
	host    *Host
	addr    string
	packets chan *memberlist.Packet
	streams chan net.Conn
	accept  net.Listener
	stop    chan struct{}
	once    sync.Once
	wg      sync.WaitGroup
}

// Gossip returns a transport for packets and streams at an address.
func (h *Host) Gossip(addr string) (memberlist.NodeAwareTransport, error) {
	l, err := h.Listen(addr)
	if err != nil {
		return nil, err
	}
	g := &gossip{
		host: h, addr: addr, accept: l,
		packets: make(chan *memberlist.Packet, maxPackets),
		streams: make(chan net.Conn),
		stop:    make(chan struct{}),
	}
	h.net.mu.Lock()
	h.net.gossips[addr] = g
	h.net.mu.Unlock()
	g.wg.Go(g.serve)
	return g, nil
}

func (g *gossip) serve() {
	for {
		c, err := g.accept.Accept()
		if err != nil {
			return
		}
		select {
		case g.streams <- c:
		case <-g.stop:
			_ = c.Close()
			return
		}
	}
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (g *gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	host, port, err := net.SplitHostPort(g.addr)
	if err != nil {
		return nil, 0, err
	}
	n, err := strconv.Atoi(port)
	return net.ParseIP(host), n, err
}

// WriteToAddress implements [memberlist.NodeAwareTransport].
func (g *gossip) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, addr.Addr)
}

// WriteTo implements [memberlist.Transport]. A lost packet is no error.
func (g *gossip) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	delay, lost := g.host.net.transit(g.host.ip, hostOf(addr))
	if lost || g.host.isDead() {
		return now, nil
	}
	p := &memberlist.Packet{Buf: append([]byte(nil), b...), From: address(g.addr)}
	if delay <= 0 {
		g.host.net.deliver(addr, p)
		return now, nil
	}
	time.AfterFunc(delay, func() { g.host.net.deliver(addr, p) })
	return now, nil
}

// deliver hands a packet to its receiver, or drops it: nobody there, or its
// queue is full.
func (n *Network) deliver(addr string, p *memberlist.Packet) {
	n.mu.Lock()
	g := n.gossips[addr]
	n.mu.Unlock()
	if g == nil {
		return
	}
	p.Timestamp = time.Now()
	select {
	case g.packets <- p:
	default:
	}
}

// PacketCh implements [memberlist.Transport].
func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }

// StreamCh implements [memberlist.Transport].
func (g *gossip) StreamCh() <-chan net.Conn { return g.streams }

// DialAddressTimeout implements [memberlist.NodeAwareTransport].
func (g *gossip) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(addr.Addr, timeout)
}

// DialTimeout implements [memberlist.Transport].
func (g *gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return g.host.Dial(ctx, addr)
}

// Shutdown implements [memberlist.Transport].
func (g *gossip) Shutdown() error {
	g.once.Do(func() {
		g.host.net.mu.Lock()
		if g.host.net.gossips[g.addr] == g {
			delete(g.host.net.gossips, g.addr)
		}
		g.host.net.mu.Unlock()
		close(g.stop)
		_ = g.accept.Close()
	})
	g.wg.Wait()
	return nil
}
