package xds

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	managerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pacelinehq/paceline/fsm"
)

// service is what the resources of a group are made of.
type service struct {
	name      string
	spec      fsm.Service // with its defaults
	ejects    bool        // the group says when an instance is ejected
	endpoints []endpoint  // those that pass, each address once
}

// endpoint is an instance that passes.
type endpoint struct {
	address netip.AddrPort
	zone    string
	weight  uint32
}

// serviceOf reads a group's service from a state. A group without a
// description is a service with the defaults.
func serviceOf(s *fsm.State, g *fsm.Group) service {
	svc := service{name: g.Name}
	if g.Service != nil {
		svc.spec = *g.Service
		svc.ejects = g.Service.Health != fsm.ServiceHealth{}
	}
	svc.spec = svc.spec.WithDefaults()
	seen := map[netip.AddrPort]int{}
	for _, i := range s.InstancesOf(g.Name) {
		e, ok := i.Endpoint()
		if !ok || e.Draining || e.Health != fsm.Healthy {
			continue
		}
		// A host name is no address that every gRPC library takes.
		addr, err := netip.ParseAddrPort(e.Address)
		if err != nil || addr.Port() == 0 {
			continue
		}
		node, _ := s.Nodes.Get(e.Node)
		made := endpoint{address: addr, zone: e.Zone, weight: uint32(node.Weight())}
		// Clients refuse a list that has an address twice. Ids grow with time:
		// the later instance is the one that listens.
		if at, twice := seen[addr]; twice {
			svc.endpoints[at] = made
			continue
		}
		seen[addr] = len(svc.endpoints)
		svc.endpoints = append(svc.endpoints, made)
	}
	return svc
}

// ads says that a resource comes by the stream that named it.
func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// pack wraps a message of ours, which can not fail: the messages here are
// plain values.
func pack(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

// listener is what a client asks for first: it names the route.
func listener(s *service) *listenerv3.Listener {
	return &listenerv3.Listener{
		Name: s.name,
		ApiListener: &listenerv3.ApiListener{ApiListener: pack(&managerv3.HttpConnectionManager{
			RouteSpecifier: &managerv3.HttpConnectionManager_Rds{
				Rds: &managerv3.Rds{ConfigSource: ads(), RouteConfigName: s.name},
			},
			HttpFilters: []*managerv3.HttpFilter{{
				Name:       "router",
				ConfigType: &managerv3.HttpFilter_TypedConfig{TypedConfig: pack(&routerv3.Router{})},
			}},
		})},
	}
}

// route sends every method to the group's cluster. There is no policy of
// retries: which methods are safe to repeat is known to the client only.
func route(s *service) *routev3.RouteConfiguration {
	return &routev3.RouteConfiguration{
		Name: s.name,
		VirtualHosts: []*routev3.VirtualHost{{
			Name: s.name, Domains: []string{"*"},
			Routes: []*routev3.Route{{
				Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: ""}},
				Action: &routev3.Route_Route{Route: &routev3.RouteAction{
					ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: s.name},
					HashPolicy:       hashPolicy(&s.spec.Balancer),
				}},
			}},
		}},
	}
}

// hashPolicy says what the ring is asked for: the header, or else the client's
// channel, which takes the place of the client's address that the proxy hashes.
// Cookies and queries are not for gRPC.
func hashPolicy(b *fsm.Balancer) []*routev3.RouteAction_HashPolicy {
	if !hashes(b) {
		return nil
	}
	var list []*routev3.RouteAction_HashPolicy
	if name, ok := strings.CutPrefix(b.HashOn, "header:"); ok {
		list = append(list, &routev3.RouteAction_HashPolicy{
			PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
				Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: strings.ToLower(name)},
			},
			Terminal: true,
		})
	}
	return append(list, &routev3.RouteAction_HashPolicy{
		PolicySpecifier: &routev3.RouteAction_HashPolicy_FilterState_{
			FilterState: &routev3.RouteAction_HashPolicy_FilterState{Key: "io.grpc.channel_id"},
		},
	})
}

// Ejection in gRPC looks at shares of an interval, and not at failures in a
// row: an instance is out when as many requests as the service says have come
// and (nearly) all have failed.
const (
	ejectInterval  = 5 * time.Second
	ejectThreshold = 99 // percent; more than these must fail
	ejectHosts     = 2  // with one there is nowhere else to go
)

// cluster says how an endpoint is chosen.
func cluster(s *service) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                 s.name,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:     &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: s.name},
		LoadBalancingPolicy:  policy(&s.spec.Balancer),
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxRequests: wrapperspb.UInt32(maxRequests(s)),
		}}},
	}
	h := &s.spec.Health
	if s.ejects && *h.MaxEjectedPercent > 0 {
		c.OutlierDetection = &clusterv3.OutlierDetection{
			Interval:                       durationpb.New(ejectInterval),
			BaseEjectionTime:               durationpb.New(h.EjectFor.Std()),
			MaxEjectionPercent:             wrapperspb.UInt32(uint32(*h.MaxEjectedPercent)),
			EnforcingSuccessRate:           wrapperspb.UInt32(0),
			EnforcingFailurePercentage:     wrapperspb.UInt32(100),
			FailurePercentageThreshold:     wrapperspb.UInt32(ejectThreshold),
			FailurePercentageMinimumHosts:  wrapperspb.UInt32(ejectHosts),
			FailurePercentageRequestVolume: wrapperspb.UInt32(uint32(h.ConsecutiveFailures)),
		}
	}
	return c
}

// maxRequests is how many requests a client may have under way. gRPC counts
// them by cluster. Without a limit it has to be said: the default is 1024.
func maxRequests(s *service) uint32 {
	each := s.spec.Limits.MaxInFlightPerInstance
	if each == 0 {
		return math.MaxUint32
	}
	return uint32(min(uint64(each)*uint64(max(1, len(s.endpoints))), math.MaxUint32))
}

// assignment lists the endpoints, in localities. A locality is a zone; where
// weights count it is the part of a zone that has one weight, because gRPC's
// round robin knows weights of localities only. For a ring there is one
// locality: libraries differ in how they join the weights of several.
func assignment(s *service) *endpointv3.ClusterLoadAssignment {
	type place struct {
		zone   string
		weight uint32
	}
	b := &s.spec.Balancer
	byWeight := weighted(b)
	parts := map[place]*endpointv3.LocalityLbEndpoints{}
	var order []place
	for _, e := range s.endpoints {
		at := place{zone: e.zone, weight: 1}
		switch {
		case hashes(b):
			at.zone = ""
		case byWeight:
			at.weight = e.weight
		}
		part := parts[at]
		if part == nil {
			part = &endpointv3.LocalityLbEndpoints{
				Locality: &corev3.Locality{Zone: at.zone}, LoadBalancingWeight: wrapperspb.UInt32(0),
			}
			if at.weight > 1 {
				part.Locality.SubZone = "weight-" + strconv.Itoa(int(at.weight))
			}
			parts[at] = part
			order = append(order, at)
		}
		made := lbEndpoint(e.address)
		share := at.weight
		if hashes(b) {
			share = e.weight
			made.LoadBalancingWeight = wrapperspb.UInt32(e.weight)
		}
		part.LoadBalancingWeight.Value += share
		part.LbEndpoints = append(part.LbEndpoints, made)
	}
	slices.SortFunc(order, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.zone, b.zone), cmp.Compare(a.weight, b.weight))
	})
	list := &endpointv3.ClusterLoadAssignment{ClusterName: s.name}
	for _, at := range order {
		list.Endpoints = append(list.Endpoints, parts[at])
	}
	return list
}

func lbEndpoint(a netip.AddrPort) *endpointv3.LbEndpoint {
	return &endpointv3.LbEndpoint{
		HealthStatus: corev3.HealthStatus_HEALTHY,
		HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
			Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
				Address:       a.Addr().String(),
				PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(a.Port())},
			}}},
		}},
	}
}
