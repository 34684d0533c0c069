package xds

import discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

// TakeStreams counts streams that are not there.
func (s *Server) TakeStreams(n int64) { s.streams.Add(n) }

// Stream is a stream of one client.
type Stream = discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer

// Paced is a stream as it is read.
func Paced(s Stream) Stream { return pace(s) }

// RequestsAtOnce and RequestsASecond bound what is read of one.
const (
	RequestsAtOnce  = requestsAtOnce
	RequestsASecond = requestsASecond
)

// Renew brings the resources to the present state.
func (s *Server) Renew() { s.renew() }
