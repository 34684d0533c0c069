package client

import (
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Headers of the API.
const (
	// HeaderIndex is the Raft index that an answer reflects.
	HeaderIndex = "Paceline-Index"
	// HeaderServedBy is the node that answered.
	HeaderServedBy = "Paceline-Served-By"
	// HeaderStale is the age in milliseconds of the state that answered.
	HeaderStale = "Paceline-Stale-Ms"
	// HeaderRequestID names one request in the answer, the log and a problem.
	HeaderRequestID = "X-Request-Id"
	// HeaderIdempotencyKey makes a retried write apply once.
	HeaderIdempotencyKey = "Idempotency-Key"
	// HeaderServiceIndex is the index at which the service of an answer last
	// changed; a reader blocks for a later one.
	HeaderServiceIndex = "Paceline-Service-Index"
	// HeaderLogOffset is where to go on reading a log.
	HeaderLogOffset = "Paceline-Log-Offset"
	// HeaderExpiresAt is when the data of a session ends, as RFC 3339.
	HeaderExpiresAt = "Paceline-Expires-At"
)

// MaxIdempotencyKey is the longest Idempotency-Key in bytes.
const MaxIdempotencyKey = 120

// List is one page of a listing.
type List[T any] struct {
	Items []T `json:"items"`
	// Next is the cursor of the next page; empty on the last one.
	Next string `json:"next,omitempty"`
}

// ServiceSummary is one service in a listing.
type ServiceSummary struct {
	Group string `json:"group"`
	// Index is that of the log at which the service last changed.
	Index uint64 `json:"index"`
	// Endpoints counts the instances that can be asked, Passing those that
	// clients should ask, and Draining those that are on their way out.
	Endpoints int `json:"endpoints"`
	Passing   int `json:"passing"`
	Draining  int `json:"draining"`
	// Routed says that the nodes' proxy sends traffic to the service, for
	// what Hosts, PathPrefix and Listeners say.
	Routed     bool           `json:"routed"`
	Hosts      []string       `json:"hosts,omitempty"`
	PathPrefix string         `json:"pathPrefix,omitempty"`
	Listeners  []fsm.Listener `json:"listeners,omitempty"`
}

// ServiceView is what a group offers: its endpoints, at one index.
type ServiceView struct {
	Group string `json:"group"`
	// Index is that of the log at which the service last changed. It is the
	// same on every node, and a reader goes on at any of them.
	Index     uint64            `json:"index"`
	Endpoints []ServiceEndpoint `json:"endpoints"`
}

// ServiceEndpoint is one instance that can be asked.
type ServiceEndpoint struct {
	Instance    string `json:"instance"`
	Incarnation int    `json:"incarnation"`
	Node        string `json:"node"`
	Zone        string `json:"zone"`
	// Address is host:port.
	Address  string     `json:"address"`
	Health   fsm.Health `json:"health"`
	Draining bool       `json:"draining"`
	// Weight is the endpoint's share of the requests, 1 to 256.
	Weight int `json:"weight"`
}

// Events of a service's stream.
const (
	// EventService has a [ServiceView]: all of its endpoints.
	EventService = "service"
	// EventServiceRemoved says that the group is gone; the stream ends.
	EventServiceRemoved = "service.removed"
)

// Member is one node as the cluster sees it.
type Member struct {
	Name string `json:"name"`
	// Role is "voter" or "nonvoter"; ClusterStatus.Leader says who leads.
	Role string `json:"role"`
	// Status is "alive", "suspect", "dead" or "left".
	Status string `json:"status"`
	Zone   string `json:"zone,omitempty"`
	// API is the address that clients reach.
	API string `json:"api,omitempty"`
	// LastContactMs is how long ago the answering node heard of it.
	LastContactMs int64 `json:"lastContactMs"`
}

// Heartbeat is what an instance with a ttl check says about itself.
type Heartbeat struct {
	// Status is "pass" or "fail".
	Status string `json:"status"`
	// Output says why, for people; the state keeps the beginning of it.
	Output string `json:"output,omitempty"`
}

// The statuses of a [Heartbeat].
const (
	HeartbeatPass = "pass"
	HeartbeatFail = "fail"
)

// HeartbeatTaken is the answer to a [Heartbeat].
type HeartbeatTaken struct {
	// TTL is how long it counts: the next one is due before.
	TTL fsm.Duration `json:"ttl"`
}

// Quorum says how far the cluster is from losing its ability to write.
type Quorum struct {
	Voters  int `json:"voters"`
	Healthy int `json:"healthy"`
	// CanLose is how many more voters may fail.
	CanLose int `json:"canLose"`
}

// ClusterStatus is the answer of GET /v1/cluster.
type ClusterStatus struct {
	ID string `json:"id,omitempty"`
	// Leader is the leader's name; empty while there is none.
	Leader  string   `json:"leader"`
	Term    uint64   `json:"term"`
	Index   uint64   `json:"index"`
	Members []Member `json:"members"`
	Quorum  Quorum   `json:"quorum"`
	// Problem is what is wrong with the answering node, as a sentence.
	Problem string `json:"problem,omitempty"`
}

// GroupStatus is the answer of GET /v1/groups/{group}/status.
type GroupStatus struct {
	Group    string `json:"group"`
	Template string `json:"template"`
	Version  int    `json:"version"`
	Desired  int    `json:"desired"`
	// Current counts the instances that are planned, starting or running.
	Current int `json:"current"`
	Running int `json:"running"`
	Healthy int `json:"healthy"`
	MinSize int `json:"minSize"`
	MaxSize int `json:"maxSize"`
	// Converged says that exactly Desired instances run and are healthy, and
	// that nothing is on its way in or out.
	Converged bool `json:"converged"`
	Deleting  bool `json:"deleting,omitempty"`
	// States counts the instances by state, ended ones included while they
	// are remembered.
	States    map[fsm.InstanceState]int `json:"states"`
	Instances []fsm.Instance            `json:"instances"`
	// Truncated says that Instances does not hold all of them.
	Truncated bool `json:"truncated,omitempty"`
	// Explanation says in a sentence why the group is as it is.
	Explanation string `json:"explanation"`
}

// ScaleRequest sets a group's desired size.
type ScaleRequest struct {
	Desired int `json:"desired"`
	// From, when given, refuses the change if the size has moved on.
	From   *int   `json:"from,omitempty"`
	Reason string `json:"reason,omitempty"`
}

// MetricSample is one pushed value.
type MetricSample struct {
	Metric string  `json:"metric"`
	Value  float64 `json:"value"`
	// Instance is the instance that the value is of; empty for the group.
	Instance string `json:"instance,omitempty"`
	// At is when it was measured; the time of arrival when absent.
	At time.Time `json:"at,omitzero"`
}

// MetricsRequest pushes samples to a group.
type MetricsRequest struct {
	Samples []MetricSample `json:"samples"`
}

// Accepted says how many samples were taken.
type Accepted struct {
	Accepted int `json:"accepted"`
}

// DrainRequest says why a node is drained.
type DrainRequest struct {
	Reason string `json:"reason,omitempty"`
}

// TransferRequest names the next leader; empty lets the leader choose.
type TransferRequest struct {
	To string `json:"to,omitempty"`
}

// Done is the answer of an action that has nothing else to say.
type Done struct {
	Message string `json:"message"`
}

// Check is one reason for a node to be ready or not.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
}

// Readiness is the answer of GET /readyz?verbose.
type Readiness struct {
	Ready  bool    `json:"ready"`
	Checks []Check `json:"checks"`
}

// Event is something that happened to the replicated state. Its ID is the
// same on every node.
type Event struct {
	// ID is "<index>.<number>"; a stream resumes after it.
	ID    string    `json:"id"`
	Index uint64    `json:"index"`
	At    time.Time `json:"at"`
	// Type is the noun and what happened to it, such as "group.scaled".
	Type     string `json:"type"`
	Group    string `json:"group,omitempty"`
	Instance string `json:"instance,omitempty"`
	Node     string `json:"node,omitempty"`
	Template string `json:"template,omitempty"`
	Policy   string `json:"policy,omitempty"`
	Actor    string `json:"actor,omitempty"`
	// Message is the event as a sentence.
	Message string `json:"message"`
}

// EventReset is the type of the event which says that events are missing: the
// reader must look at the state again. It is never remembered.
const EventReset = "stream.reset"

// Index is the answer of GET /: what there is.
type Index struct {
	Product   string   `json:"product"`
	Version   string   `json:"version"`
	Node      string   `json:"node"`
	Resources []string `json:"resources"`
	OpenAPI   string   `json:"openapi"`
}
