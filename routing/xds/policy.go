package xds

import (
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	turnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	localityv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/pacelinehq/paceline/fsm"
)

// leastChoices is how many endpoints gRPC compares at most.
const leastChoices = 10

// hashes reports whether a policy keeps clients to an instance by a hash.
func hashes(b *fsm.Balancer) bool {
	return b.Policy == fsm.BalanceHash || b.Policy == fsm.BalanceIPHash
}

// weighted reports whether requests are shared out by weight alone.
func weighted(b *fsm.Balancer) bool {
	return b.Policy == fsm.BalanceWeightedRoundRobin || b.Policy == fsm.BalanceRandom
}

// policy translates a balancer. A client takes the first policy that it has:
// round robin stands last, because every gRPC library has it, and one that
// finds none refuses all clusters of the response.
func policy(b *fsm.Balancer) *clusterv3.LoadBalancingPolicy {
	turns := named("round_robin", &turnsv3.RoundRobin{})
	var list []*clusterv3.LoadBalancingPolicy_Policy
	switch {
	case hashes(b):
		list = append(list, named("ring_hash", &ringv3.RingHash{HashFunction: ringv3.RingHash_XX_HASH}))
	case weighted(b):
		list = append(list, named("wrr_locality", &localityv3.WrrLocality{
			EndpointPickingPolicy: &clusterv3.LoadBalancingPolicy{Policies: []*clusterv3.LoadBalancingPolicy_Policy{turns}},
		}))
	case b.Policy == fsm.BalanceLeastRequests:
		list = append(list, named("least_request", &leastv3.LeastRequest{ChoiceCount: wrapperspb.UInt32(leastChoices)}))
	case b.Policy == fsm.BalancePowerOfTwo, b.Policy == fsm.BalancePeakEWMA:
		// gRPC knows no latencies; of two, the less loaded, is what is next to
		// peak_ewma there.
		list = append(list, named("least_request", &leastv3.LeastRequest{ChoiceCount: wrapperspb.UInt32(2)}))
	}
	return &clusterv3.LoadBalancingPolicy{Policies: append(list, turns)}
}

func named(name string, config proto.Message) *clusterv3.LoadBalancingPolicy_Policy {
	return &clusterv3.LoadBalancingPolicy_Policy{
		TypedExtensionConfig: &corev3.TypedExtensionConfig{Name: name, TypedConfig: pack(config)},
	}
}
