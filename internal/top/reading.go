package top

import (
	"cmp"
	"slices"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Reading is the whole cluster at one time.
type Reading struct {
	At     time.Time
	Leader string
	// Problem is why parts are missing or old; empty when nothing is.
	Problem   string
	Nodes     []NodeReading
	Groups    []fsm.Group
	Instances []fsm.Instance
}

// NodeReading is one node in a [Reading].
type NodeReading struct {
	Name  string
	State string
	// Sample is nil when the node did not answer; Problem says why.
	Sample  *Sample
	Problem string
}

// Table is the difference of two readings.
type Table struct {
	At      time.Time `json:"at"`
	Leader  string    `json:"leader"`
	Problem string    `json:"problem,omitempty"`
	// Requests and Errors are those of all services, a second; nil until
	// some node has answered twice.
	Requests *float64  `json:"requestsPerSecond"`
	Errors   *float64  `json:"errorsPerSecond"`
	Nodes    []Node    `json:"nodes"`
	Services []Service `json:"services"`
}

// Node is a row for a node.
type Node struct {
	Name     string   `json:"name"`
	State    string   `json:"state"`
	Answers  bool     `json:"answers"`
	Problem  string   `json:"problem,omitempty"`
	Requests *float64 `json:"requestsPerSecond"`
}

// Traffic is what is told of a service and of an instance alike. A figure
// that is not known is nil.
type Traffic struct {
	Requests *float64 `json:"requestsPerSecond"`
	// Errors are answers of class 5xx and requests without any.
	Errors *float64 `json:"errorsPerSecond"`
	// Failures are attempts at instances that failed, retried or not.
	Failures *float64 `json:"failuresPerSecond"`
	InFlight int      `json:"inFlight"`
	// P50 and P99 are milliseconds until the head of an answer.
	P50 *float64 `json:"p50Ms"`
	P99 *float64 `json:"p99Ms"`
}

// Service is a row for a group with a service.
type Service struct {
	Group string `json:"group"`
	Traffic
	// Sessions is nil for a service that keeps none.
	Sessions *int `json:"sessions"`
	// Desired and Healthy count instances; Gone says that the group is not
	// in the state any more.
	Desired   int        `json:"desired"`
	Healthy   int        `json:"healthy"`
	Gone      bool       `json:"gone,omitempty"`
	Instances []Instance `json:"instances"`
}

// Instance is a row for an instance.
type Instance struct {
	ID   string `json:"id"`
	Node string `json:"node"`
	// State and Health are of the replicated state; empty when it is gone.
	State  fsm.InstanceState `json:"state"`
	Health fsm.Health        `json:"health"`
	// Ejected counts the nodes that send it nothing because of its answers,
	// of Seen that know it.
	Ejected int `json:"ejectedBy"`
	Seen    int `json:"seenBy"`
	Traffic
}

// Compare makes the table of a reading, with rates since an earlier one; nil
// means none.
func Compare(before, after *Reading) *Table {
	t := &Table{At: after.At, Leader: after.Leader, Problem: after.Problem, Nodes: []Node{}, Services: []Service{}}
	sum := newSums()
	for _, n := range after.Nodes {
		row := Node{Name: n.Name, State: n.State, Answers: n.Sample != nil, Problem: n.Problem}
		if n.Sample != nil {
			row.Requests = sum.add(before.sampleOf(n.Name), n.Sample)
		}
		t.Nodes = append(t.Nodes, row)
	}
	slices.SortFunc(t.Nodes, func(a, b Node) int { return cmp.Compare(a.Name, b.Name) })
	if sum.spans > 0 {
		t.Requests, t.Errors = new(float64), new(float64)
	}
	for _, name := range serviceNames(after, sum) {
		row := sum.service(name, after)
		if sum.spans > 0 && row.Requests != nil {
			*t.Requests += *row.Requests
			*t.Errors += *row.Errors
		}
		t.Services = append(t.Services, row)
	}
	return t
}

// sampleOf finds what a node told; nil when it did not.
func (r *Reading) sampleOf(node string) *Sample {
	if r == nil {
		return nil
	}
	for _, n := range r.Nodes {
		if n.Name == node {
			return n.Sample
		}
	}
	return nil
}

// serviceNames lists the groups that have a service or had requests.
func serviceNames(r *Reading, s *sums) []string {
	var names []string
	for _, g := range r.Groups {
		if g.Service != nil {
			names = append(names, g.Name)
		}
	}
	for name := range s.services {
		names = append(names, name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}
