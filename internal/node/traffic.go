package node

import (
	"context"
	"crypto/tls"
	"net"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
	"github.com/pacelinehq/paceline/routing/session"
)

// newProxy makes the node's data plane.
func (n *Node) newProxy() error {
	if n.env.NoAPI {
		return nil
	}
	n.sessions = session.NewManager(n.cluster, n.log)
	if n.cfg.TrafficAddr == trafficOff {
		return nil
	}
	trusted, err := n.cfg.trusted()
	if err != nil {
		return err
	}
	cfg := proxy.Config{
		Zone: n.cfg.Zone, Cluster: n.cluster, Proposer: n.cluster, Sessions: n.sessions, Addr: n.cfg.TrafficAddr, Trusted: trusted,
		ProxyProtocol: n.cfg.ProxyProtocol, AccessLog: n.cfg.AccessLog, Registerer: n.reg, Logger: n.log,
	}
	if n.cfg.TrafficCert != "" {
		pair, err := tls.LoadX509KeyPair(n.cfg.TrafficCert, n.cfg.TrafficKey)
		if err != nil {
			return fsm.Errorf(fsm.Invalid, "traffic certificate", n.cfg.TrafficCert, "can not be used: %v", err).
				WithHint("--traffic-cert and --traffic-key must name PEM files of one certificate and its key")
		}
		cfg.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	if n.proxy, err = proxy.New(cfg); err != nil {
		return err
	}
	n.cfg.TrafficAddr = n.proxy.Addr()
	n.row.Traffic = n.publicTraffic()
	return nil
}

// startTraffic begins to route.
func (n *Node) startTraffic(ctx context.Context) {
	if n.sessions != nil { // the API routes sessions without traffic, too
		n.wg.Go(func() { n.sessions.Run(ctx) })
	}
	if n.proxy == nil {
		return
	}
	n.wg.Go(func() { n.proxy.Run(ctx) })
	n.wg.Go(func() { n.sampleTraffic(ctx) })
}

// sampleTraffic gives the autoscaler what the proxy sees of the instances.
func (n *Node) sampleTraffic(ctx context.Context) {
	tick := time.NewTicker(min(maxSampleEvery, n.cfg.EvaluationInterval/2))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			n.proxy.Sample(n.cfg.Name, n.measured)
		case <-ctx.Done():
			return
		}
	}
}

// publicTraffic is the traffic address as other machines see it.
func (n *Node) publicTraffic() string {
	host, port, err := net.SplitHostPort(n.cfg.TrafficAddr)
	if err != nil {
		return n.cfg.TrafficAddr
	}
	if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
		if own := n.instanceHost(); own != "" {
			host = own
		}
	}
	return net.JoinHostPort(host, port)
}

// endTraffic ends the data plane and the servers of discovery at once.
func (n *Node) endTraffic() {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if n.proxy != nil {
		_ = n.proxy.Shutdown(ended)
	}
	_ = n.stopDNS(ended)
	n.stopXDS(ended)
}

// Traffic is the address of the shared traffic listener, or "".
func (n *Node) Traffic() string {
	if n.proxy == nil {
		return ""
	}
	return n.proxy.Addr()
}
