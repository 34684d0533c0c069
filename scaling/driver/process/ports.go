//go:build linux

package process

import (
	"fmt"
	"net"
	"strconv"
	"sync"

	"github.com/pacelinehq/paceline/fsm"
)

// ports gives every instance a port of its own.
//
// A port is held by a socket in the abstract namespace, whose name says
// address and port. That namespace belongs to the network namespace, as ports
// do, so that two nodes on one machine do not give the same port away in the
// time before the instance listens; and the kernel lets go of it when the node
// dies, by which time the instance itself has the port.
type ports struct {
	host     string
	min, max int

	mu   sync.Mutex
	next int
	held map[int]net.Listener
}

func newPorts(host string, low, high, begin int) *ports {
	return &ports{host: host, min: low, max: high, next: begin % (high - low + 1), held: map[int]net.Listener{}}
}

// take reserves a free port, or the fixed one.
func (p *ports) take(fixed int) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if fixed != 0 {
		if !p.free(fixed) || !p.hold(fixed) {
			return 0, fsm.Errorf(fsm.Conflict, "port", strconv.Itoa(fixed), "is in use on %s", p.host).
				WithHint("leave networking.port out and listen on $PORT, or run at most one instance of the template on a node")
		}
		return fixed, nil
	}
	size := p.max - p.min + 1
	for range size {
		port := p.min + p.next
		p.next = (p.next + 1) % size
		if p.free(port) && p.hold(port) {
			return port, nil
		}
	}
	return 0, fsm.Errorf(fsm.Exhausted, "port", "", "none of %d to %d on %s is free", p.min, p.max, p.host).
		WithHint("give the node a larger range of instance ports")
}

// adopt reserves the port of an instance that runs already, and so may listen
// on it.
func (p *ports) adopt(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, taken := p.held[port]; !taken && port != 0 && !p.hold(port) {
		p.held[port] = nil // held by somebody else's name; still not ours to give away
	}
}

// release gives a port back.
func (p *ports) release(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(port)
}

func (p *ports) drop(port int) {
	if l := p.held[port]; l != nil {
		_ = l.Close()
	}
	delete(p.held, port)
}

// close gives every port back.
func (p *ports) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for port := range p.held {
		p.drop(port)
	}
}

// hold reserves a port among the nodes of this machine.
func (p *ports) hold(port int) bool {
	l, err := net.Listen("unix", fmt.Sprintf("@paceline/port/%s:%d", p.host, port))
	if err != nil {
		return false
	}
	p.held[port] = l
	return true
}

// free reports whether a port is nobody's.
func (p *ports) free(port int) bool {
	if _, taken := p.held[port]; taken {
		return false
	}
	l, err := net.Listen("tcp", net.JoinHostPort(p.host, strconv.Itoa(port)))
	if err != nil {
		return false
	}
	return l.Close() == nil
}
