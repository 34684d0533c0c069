//go:build xds

package node

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/xds"
)

// hasXDS says that this binary was built with the tag xds.
const hasXDS = true

// xdsStop bounds the end of the xDS server: its clients are told, and go on
// with what they know.
const xdsStop = time.Second

// xdsServer is the node's xDS server with what it listens on.
type xdsServer struct {
	*xds.Server
	conns net.Listener
}

// newXDS makes the node's xDS server and listens on its address.
func (n *Node) newXDS() error {
	if n.env.NoAPI || n.cfg.XDSAddr == trafficOff {
		return nil
	}
	s, err := xds.New(xds.Config{Node: n.cfg.Name, Cluster: n.cluster, Ready: n.joined, Registerer: n.reg, Logger: n.log})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", n.cfg.XDSAddr)
	if err != nil {
		return fsm.Errorf(fsm.Unavailable, "xDS address", n.cfg.XDSAddr, "can not be listened on: %v", err).
			WithHint("is another node running here? choose another --xds-addr, or \"off\"")
	}
	n.cfg.XDSAddr = l.Addr().String()
	n.xds = &xdsServer{s, l}
	return nil
}

// startXDS begins to serve.
func (n *Node) startXDS() {
	if n.xds == nil {
		return
	}
	n.wg.Go(func() {
		if err := n.xds.Serve(n.xds.conns); err != nil {
			n.fail(fmt.Errorf("the xDS server has ended: %w", err))
		}
	})
}

// stopXDS ends the xDS server, or lets go of what it was to listen on. Clients
// that do not read are cut off, which is no failure of the node.
func (n *Node) stopXDS(ctx context.Context) {
	if n.xds == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, xdsStop)
	defer cancel()
	if err := n.xds.Shutdown(ctx); err != nil {
		n.log.Debug("xDS clients were cut off", "err", err)
	}
	_ = n.xds.conns.Close()
}

// XDS is the address of the xDS server.
func (n *Node) XDS() string { return n.cfg.XDSAddr }
