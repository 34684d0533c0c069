package httpapi

import (
	"crypto/sha256"
	"encoding/hex"
	"net"
	"strconv"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// The shapes of Consul's answers, with the fields that its own client and the
// programs built on it read.

type consulNode struct {
	ID, Node, Address, Datacenter string
	TaggedAddresses, Meta         map[string]string
	CreateIndex, ModifyIndex      uint64
}

type consulWeights struct{ Passing, Warning int }

type consulServiceEntry struct {
	ID, Service, Address     string
	Tags                     []string
	Meta                     map[string]string
	Port                     int
	Weights                  consulWeights
	EnableTagOverride        bool
	CreateIndex, ModifyIndex uint64
}

type consulCheck struct {
	Node, CheckID, Name, Status, Notes, Output, ServiceID, ServiceName string

	ServiceTags              []string
	Type                     string
	CreateIndex, ModifyIndex uint64
}

type consulEntry struct {
	Node    consulNode
	Service consulServiceEntry
	Checks  []consulCheck
}

type consulCatalogEntry struct {
	ID, Node, Address, Datacenter string
	TaggedAddresses, NodeMeta     map[string]string

	ServiceID, ServiceName, ServiceAddress string
	ServiceTags                            []string
	ServiceMeta                            map[string]string
	ServicePort                            int
	ServiceWeights                         consulWeights
	ServiceEnableTagOverride               bool
	CreateIndex, ModifyIndex               uint64
}

type consulAgentConfig struct{ Datacenter, NodeName, NodeID, Version string }

type consulAgent struct {
	Config consulAgentConfig
	Member struct{ Name, Addr string }
}

// nodeID makes the UUID that Consul's nodes have, out of the name that
// identifies ours.
func nodeID(name string) string {
	sum := sha256.Sum256([]byte("paceline node " + name))
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// consulEntryOf tells an endpoint as Consul does. Consul has no draining: such
// an endpoint is critical there, as in its maintenance mode.
func consulEntryOf(s *fsm.State, g *fsm.Group, e *client.ServiceEndpoint) consulEntry {
	host, portText, _ := net.SplitHostPort(e.Address)
	port, _ := strconv.Atoi(portText)
	modified := max(serviceIndex(s, g.Name), 1)
	node := consulNode{
		ID: nodeID(e.Node), Node: e.Node, Address: host, Datacenter: consulDatacenter,
		TaggedAddresses: map[string]string{"lan": host}, Meta: map[string]string{}, CreateIndex: modified, ModifyIndex: modified,
	}
	if n, ok := s.Nodes.Get(e.Node); ok {
		if at, _, err := net.SplitHostPort(n.API); err == nil && at != "" {
			node.Address, node.TaggedAddresses["lan"] = at, at
		}
		for k, v := range n.Labels {
			node.Meta[k] = v
		}
	}
	status, output := "critical", "the instance is "+string(e.Health)
	switch {
	case passing(e):
		status = "passing"
	case e.Draining:
		output = "the instance is draining"
	}
	tags := tagsOf(g)
	return consulEntry{
		Node: node,
		Service: consulServiceEntry{
			ID: e.Instance, Service: g.Name, Tags: tags, Address: host, Port: port,
			Meta:    map[string]string{"zone": e.Zone, "incarnation": strconv.Itoa(e.Incarnation)},
			Weights: consulWeights{Passing: e.Weight, Warning: 1}, CreateIndex: modified, ModifyIndex: modified,
		},
		Checks: []consulCheck{{
			Node: e.Node, CheckID: "service:" + e.Instance, Name: "Paceline health", Status: status, Output: output,
			ServiceID: e.Instance, ServiceName: g.Name, ServiceTags: tags, CreateIndex: modified, ModifyIndex: modified,
		}},
	}
}

func consulCatalogOf(e consulEntry) consulCatalogEntry {
	n, s := &e.Node, &e.Service
	return consulCatalogEntry{
		ID: n.ID, Node: n.Node, Address: n.Address, Datacenter: n.Datacenter, TaggedAddresses: n.TaggedAddresses, NodeMeta: n.Meta,
		ServiceID: s.ID, ServiceName: s.Service, ServiceAddress: s.Address, ServiceTags: s.Tags, ServiceMeta: s.Meta,
		ServicePort: s.Port, ServiceWeights: s.Weights, CreateIndex: s.CreateIndex, ModifyIndex: s.ModifyIndex,
	}
}
