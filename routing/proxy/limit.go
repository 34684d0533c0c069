package proxy

import (
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// bucket limits a rate by the generic cell rate algorithm (ITU-T I.371): one
// word holds the time at which the bucket would be full again. The zero value
// is ready. It allows a burst of one second's worth.
type bucket struct{ full atomic.Int64 }

// take asks for one request at a rate per second, and tells how long to wait
// when there is none left.
func (b *bucket) take(now time.Duration, perSecond int) (wait time.Duration, ok bool) {
	step := int64(time.Second) / int64(perSecond)
	for {
		old := b.full.Load()
		next := max(old, int64(now)) + step
		if over := next - int64(now) - int64(time.Second); over > 0 {
			return time.Duration(over), false
		}
		if b.full.CompareAndSwap(old, next) {
			return 0, true
		}
	}
}

// clientLimits remembers the clients of a service that has limits for each of
// them.
type clientLimits struct {
	mu      sync.Mutex
	clients map[netip.Addr]*clientState
	swept   time.Duration
}

type clientState struct {
	rate  bucket
	conns int
	seen  time.Duration
}

// sweepEvery is the time between removals of clients that are not heard of.
const sweepEvery = 10 * time.Second

// bound is whom the limits of a client hold for. One machine has all the
// addresses of an IPv6 network of 64 bits (RFC 4291, 2.5.1), and could be a new
// client with each request.
func bound(a netip.Addr) netip.Addr {
	if !a.Is6() || a.Is4In6() {
		return a.Unmap()
	}
	net, _ := a.WithZone("").Prefix(64) // never fails for an IPv6 address
	return net.Addr()
}

// of returns what is remembered of a client. When there are too many, the
// client gets a fresh state that nobody remembers: a flood of addresses must
// not make the proxy refuse everybody.
func (l *clientLimits) of(a netip.Addr, now time.Duration) *clientState {
	a = bound(a)
	if l.clients == nil {
		l.clients = map[netip.Addr]*clientState{}
	}
	if now-l.swept > sweepEvery {
		l.swept = now
		for k, c := range l.clients {
			if c.conns == 0 && now-c.seen > sweepEvery {
				delete(l.clients, k)
			}
		}
	}
	c := l.clients[a]
	if c == nil {
		c = &clientState{}
		if len(l.clients) < maxClients {
			l.clients[a] = c
		}
	}
	c.seen = now
	return c
}

// take asks for one request of a client.
func (l *clientLimits) take(a netip.Addr, now time.Duration, perSecond int) (wait time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.of(a, now).rate.take(now, perSecond)
}

// open asks for one more connection of a client.
func (l *clientLimits) open(a netip.Addr, now time.Duration, limit int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := l.of(a, now)
	if c.conns >= limit {
		return false
	}
	c.conns++
	return true
}

// close gives a connection back.
func (l *clientLimits) close(a netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c := l.clients[bound(a)]; c != nil && c.conns > 0 {
		c.conns--
	}
}

// place is what a connection counts for. A stream of HTTP/2 counts as one for as
// long as its request takes: its connection may carry requests for any service.
type place struct {
	of      *service // whose limits
	perPeer bool     // and those of the client there
}

// take makes the connection count for a service, and for no other any more. It
// reports whether the service's limits allow that.
func (p *place) take(t *target, peer netip.Addr, now time.Duration) bool {
	if p.of == t.service {
		return true
	}
	p.give(peer)
	limits := &t.spec.Limits
	if n := t.conns.Add(1); limits.MaxConnections > 0 && n > int64(limits.MaxConnections) {
		t.conns.Add(-1)
		return false
	}
	if limits.MaxConnectionsPerClient > 0 {
		if !t.client.open(peer, now, limits.MaxConnectionsPerClient) {
			t.conns.Add(-1)
			return false
		}
		p.perPeer = true
	}
	p.of = t.service
	return true
}

// give ends that.
func (p *place) give(peer netip.Addr) {
	if p.of == nil {
		return
	}
	p.of.conns.Add(-1)
	if p.perPeer {
		p.of.client.close(peer)
	}
	p.of, p.perPeer = nil, false
}
