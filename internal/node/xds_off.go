//go:build !xds

package node

import "context"

// hasXDS says that this binary was built without the tag xds: gRPC would make
// it nearly twice as large for those who do not need it (ADR 10).
const hasXDS = false

type xdsServer struct{}

func (n *Node) newXDS() error {
	n.xds = nil // and stays so
	return nil
}

func (n *Node) startXDS() {}

func (n *Node) stopXDS(context.Context) {}
