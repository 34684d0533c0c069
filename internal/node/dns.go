package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/discovery"
)

// dnsStop bounds the end of the DNS server: its queries take microseconds.
const dnsStop = time.Second

// dnsServer is the node's DNS server with what it listens on.
type dnsServer struct {
	*discovery.Server
	packets net.PacketConn
	conns   net.Listener
}

// newDNS makes the node's DNS server and listens on its address.
func (n *Node) newDNS() error {
	if n.env.NoAPI || n.cfg.DNSAddr == trafficOff {
		return nil
	}
	s, err := discovery.New(discovery.Config{
		Node: n.cfg.Name, Domain: n.cfg.DNSDomain, TTL: n.cfg.DNSTTL, Cluster: n.cluster, Ready: n.joined,
		Registerer: n.reg, Logger: n.log,
	})
	if err != nil {
		return err
	}
	pc, l, err := discovery.Listen(context.Background(), n.cfg.DNSAddr)
	if err != nil {
		return fsm.Errorf(fsm.Unavailable, "DNS address", n.cfg.DNSAddr, "can not be listened on: %v", err).
			WithHint("is another DNS server running here? choose another --dns-addr, or \"off\"")
	}
	n.dns = &dnsServer{s, pc, l}
	return nil
}

// joined says why the node's state is not to be answered from.
func (n *Node) joined() error {
	if !n.registered.Load() {
		return errors.New("the node has not joined its cluster yet")
	}
	return n.cluster.Halted()
}

// startDNS begins to answer.
func (n *Node) startDNS() {
	if n.dns == nil {
		return
	}
	n.wg.Go(func() {
		if err := n.dns.Serve(n.dns.packets, n.dns.conns); err != nil {
			n.fail(fmt.Errorf("the DNS server has ended: %w", err))
		}
	})
}

// stopDNS ends the DNS server, or lets go of what it was to listen on.
func (n *Node) stopDNS(ctx context.Context) error {
	if n.dns == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, dnsStop)
	defer cancel()
	err := n.dns.Shutdown(ctx)
	_ = n.dns.packets.Close()
	_ = n.dns.conns.Close()
	return err
}
