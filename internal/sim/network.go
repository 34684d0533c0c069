package sim

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// Limits of the simulated network.
const (
	maxBuffered = 4 << 20 // bytes in flight on one direction of a stream
	maxAccept   = 256     // connections waiting for Accept
	maxPackets  = 4096    // packets waiting for their receiver
)

// keepAlive is how long a host takes to notice that the other end of an idle
// stream is gone without a word, as TCP's keep-alive does.
const keepAlive = 8 * time.Second

// Path says how traffic from one host to another fares. The zero Path is a
// perfect one.
type Path struct {
	// CutStreams holds back stream data and new connections, as a network
	// that loses every packet does; it flows again when the path heals.
	CutStreams bool
	// CutPackets drops every packet (gossip).
	CutPackets bool
	// Loss drops packets with this probability.
	Loss float64
	// StreamLoss loses the parts of streams with this probability: they are
	// sent again, and come late, as with TCP.
	StreamLoss float64
	// Delay and Jitter are added to every packet and chunk of a stream.
	Delay, Jitter time.Duration
}

// Network is the wire between the simulated hosts: streams and packets with
// delay, loss and cuts, in each direction of each pair. It uses nothing but
// channels, mutexes and timers, so that it runs in virtual time.
type Network struct {
	mu        sync.Mutex
	rng       *rand.Rand
	listeners map[string]*listener
	gossips   map[string]*gossip
	paths     map[[2]string]Path
	conns     map[*conn]struct{}
	dark      map[string]bool // hosts that are without power
	hosts     map[string]*Host
}

// NewNetwork returns a perfect network. The seed drives loss and jitter.
func NewNetwork(seed uint64) *Network {
	return &Network{
		rng:       rand.New(rand.NewPCG(seed, 0x6e6574)),
		listeners: map[string]*listener{},
		gossips:   map[string]*gossip{},
		paths:     map[[2]string]Path{},
		conns:     map[*conn]struct{}{},
		dark:      map[string]bool{},
		hosts:     map[string]*Host{},
	}
}

// SetPath changes how traffic from one host (an IP) to another fares, in this
// direction only.
func (n *Network) SetPath(from, to string, p Path) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.paths[[2]string{from, to}] = p
	for c := range n.conns {
		c.in.wakeReader()
	}
}

// Heal makes every path perfect again.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.paths)
	for c := range n.conns {
		c.in.wakeReader()
	}
}

// Crash ends every connection and listener of a host at once. After a killed
// process the kernel tells its peers, who read a reset, and refuses new
// connections; after a power failure (silent) nobody answers at all, until
// the host listens again.
func (n *Network) Crash(host string, silent bool) {
	n.mu.Lock()
	var doomed, waiting []*conn
	for c := range n.conns {
		switch {
		case c.localHost == host, c.remoteHost == host && !silent:
			doomed = append(doomed, c)
		case c.remoteHost == host:
			waiting = append(waiting, c)
		}
	}
	if h := n.hosts[host]; h != nil {
		h.dead = true
		delete(n.hosts, host)
	}
	for addr, l := range n.listeners {
		if hostOf(addr) == host {
			l.shut()
			delete(n.listeners, addr)
		}
	}
	for addr := range n.gossips {
		if hostOf(addr) == host {
			delete(n.gossips, addr)
		}
	}
	n.dark[host] = silent
	n.mu.Unlock()
	for _, c := range doomed {
		if c.localHost == host {
			c.in.close(net.ErrClosed)
		} else {
			c.in.close(errReset)
		}
		n.forget(c)
	}
	if len(waiting) > 0 {
		time.AfterFunc(keepAlive, func() {
			for _, c := range waiting {
				c.in.finish(errTimedOut)
				n.forget(c)
			}
		})
	}
}

// isDark reports whether a host is without power: what is sent to it is lost
// without an answer.
func (n *Network) isDark(host string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dark[host]
}

func (n *Network) path(from, to string) Path {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.paths[[2]string{from, to}]
}

// transit draws the delay of one packet or chunk, and whether it is lost.
func (n *Network) transit(from, to string) (delay time.Duration, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := n.paths[[2]string{from, to}]
	delay = p.Delay
	if p.Jitter > 0 {
		delay += time.Duration(n.rng.Int64N(int64(p.Jitter)))
	}
	return delay, p.CutPackets || n.rng.Float64() < p.Loss
}

// The waits of TCP until a lost part of a stream, or a lost request for a new
// one, is sent again. They double with each further loss, at most so often.
const (
	resendAfter = 200 * time.Millisecond
	redialAfter = time.Second
	maxResends  = 6
)

// resends draws how much later something comes because it was lost and sent
// again: first after a wait, then after twice that, and so on. A path there and
// back loses it on either way.
func (n *Network) resends(first time.Duration, there, back string) (late time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	loss := n.paths[[2]string{there, back}].StreamLoss
	if first == redialAfter {
		loss = 1 - (1-loss)*(1-n.paths[[2]string{back, there}].StreamLoss)
	}
	for range maxResends {
		if loss == 0 || n.rng.Float64() >= loss {
			break
		}
		late += first
		first *= 2
	}
	return late
}

// Host returns the network as one process on a host sees it. A crash of the
// host takes it away from that process for good; the next process needs a
// Host of its own.
func (n *Network) Host(ip string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	h := &Host{net: n, ip: ip}
	n.hosts[ip] = h
	return h
}

// Host is one process's view of the network.
type Host struct {
	net  *Network
	ip   string
	dead bool // guarded by net.mu
}

func (h *Host) isDead() bool {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.dead
}

// Listen accepts streams at an address of this host.
func (h *Host) Listen(addr string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.net.listeners[addr] != nil || h.dead {
		return nil, &net.OpError{Op: "listen", Net: "tcp", Err: syscall.EADDRINUSE}
	}
	delete(h.net.dark, h.ip)
	l := &listener{net: h.net, addr: addr, queue: make(chan *conn, maxAccept), done: make(chan struct{})}
	h.net.listeners[addr] = l
	return l, nil
}

// Dial opens a stream to an address. A host without a listener refuses at
// once; a path that is cut answers when it heals, or never.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to := hostOf(addr)
	for {
		if h.net.reachable(h.ip, to) {
			break
		}
		// A lost SYN is sent again after a while.
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
		}
	}
	delay, _ := h.net.transit(h.ip, to)
	back, _ := h.net.transit(to, h.ip)
	if err := pause(ctx, delay+back+h.net.resends(redialAfter, h.ip, to)); err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	return h.net.connect(h, addr)
}

// reachable reports whether packets go both ways and somebody is there.
func (n *Network) reachable(from, to string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	out, back := n.paths[[2]string{from, to}], n.paths[[2]string{to, from}]
	return !out.CutStreams && !back.CutStreams && !n.dark[to]
}

func pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Network) connect(from *Host, addr string) (net.Conn, error) {
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[addr]
	if l == nil || from.dead {
		return nil, refused
	}
	near, far := newPair(n, from.ip, addr)
	select {
	case l.queue <- far:
	default:
		return nil, refused
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, nil
}

func (n *Network) forget(c *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// listener is one listening address.
type listener struct {
	net   *Network
	addr  string
	queue chan *conn
	once  sync.Once
	done  chan struct{}
}

// Accept implements [net.Listener].
func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (l *listener) Close() error {
	l.net.mu.Lock()
	if l.net.listeners[l.addr] == l {
		delete(l.net.listeners, l.addr)
	}
	l.net.mu.Unlock()
	l.shut()
	return nil
}

func (l *listener) shut() { l.once.Do(func() { close(l.done) }) }

// Addr implements [net.Listener].
func (l *listener) Addr() net.Addr { return address(l.addr) }

// address is a host:port as a [net.Addr].
type address string

func (address) Network() string  { return "tcp" }
func (a address) String() string { return string(a) }

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// errTimedOut is what a keep-alive without an answer ends in.
var errTimedOut = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ETIMEDOUT}

// errReset is what a peer of a killed process reads.
var errReset = &net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}
