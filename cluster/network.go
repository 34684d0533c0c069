package cluster

import (
	"context"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/pacelinehq/paceline/fsm"
)

// Network is how a node listens and dials. The simulation has its own, made of
// channels and virtual time.
type Network interface {
	// Listen accepts streams at an address.
	Listen(addr string) (net.Listener, error)
	// Dial opens a stream. A dead process must give an error that is
	// syscall.ECONNREFUSED, or one at ctx's deadline.
	Dial(ctx context.Context, addr string) (net.Conn, error)
	// Gossip opens the packet and stream transport of memberlist.
	Gossip(addr string) (memberlist.NodeAwareTransport, error)
}

// tcpNetwork is the machine's own network.
type tcpNetwork struct {
	log *slog.Logger
}

// Listen implements [Network].
func (n tcpNetwork) Listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, inUse("peer address", addr, err)
	}
	return l, nil
}

// Dial implements [Network].
func (n tcpNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	return d.DialContext(ctx, "tcp", addr)
}

// Gossip implements [Network].
func (n tcpNetwork) Gossip(addr string) (memberlist.NodeAwareTransport, error) {
	tcp, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return nil, inUse("gossip address", addr, err)
	}
	bind := "0.0.0.0"
	if tcp.IP != nil {
		bind = tcp.IP.String()
	}
	// A port given by the system for TCP may be taken for UDP.
	tries := 1
	if tcp.Port == 0 {
		tries = 8
	}
	var t *memberlist.NetTransport
	for range tries {
		t, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{bind}, BindPort: tcp.Port, Logger: stdLogger(n.log),
		})
		if err == nil {
			return t, nil
		}
	}
	return nil, inUse("gossip address", addr, err)
}

func inUse(noun, addr string, err error) error {
	return fsm.Errorf(fsm.Unavailable, noun, addr, "can not be listened on: %v", err).
		WithHint("choose a free port, or stop the process that holds it")
}

// gossipPort is implemented by transports that chose a port by themselves.
type gossipPort interface{ GetAutoBindPort() int }

// boundGossip is the address that a gossip transport really listens on.
func boundGossip(addr string, t memberlist.NodeAwareTransport) net.Addr {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return stringAddr(addr)
	}
	if p, ok := t.(gossipPort); ok && port == "0" {
		port = strconv.Itoa(p.GetAutoBindPort())
	}
	return stringAddr(net.JoinHostPort(host, port))
}

// stringAddr is an address in host:port form.
type stringAddr string

// Network implements [net.Addr].
func (stringAddr) Network() string { return "tcp" }

// String implements [net.Addr].
func (a stringAddr) String() string { return string(a) }
