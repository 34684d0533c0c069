package fsm

import "time"

// NodeState is whether a node takes instances.
//
//	ready ◄──► draining     by a user (paceline node drain / undrain)
//	  │            │
//	  └──► down ◄──┘        confirmed by the leader; a restart makes it ready
type NodeState string

// The states of a node.
const (
	NodeStateReady    NodeState = "ready"
	NodeStateDraining NodeState = "draining"
	NodeStateDown     NodeState = "down"
)

// Node is a member of the fleet: one running `paceline agent`.
type Node struct {
	Name string `json:"name"`
	// Incarnation is new at every start of the process, so that what is
	// known of an earlier one can not be mistaken for this one.
	Incarnation uint64            `json:"incarnation"`
	Zone        string            `json:"zone,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Drivers     []string          `json:"drivers"`
	// Resources is what the node offers to instances.
	Resources Resources `json:"resources"`
	// API is the address that clients reach, such as "10.0.0.1:7700".
	API string `json:"api"`
	// Traffic is the address of the shared listener of the node's proxy; empty
	// for a node that routes nothing.
	Traffic string    `json:"traffic,omitempty"`
	Version string    `json:"version"`
	State   NodeState `json:"state"`
	Reason  string    `json:"reason,omitempty"`
	// Since is the log time at which State was entered.
	Since    time.Time `json:"since"`
	JoinedAt time.Time `json:"joinedAt"`
	Revision uint64    `json:"revision"`
}

var nodeTable = tableSpec[Node]{
	name: "nodes", noun: "node",
	key:   func(n *Node) string { return n.Name },
	stamp: func(n *Node, r uint64) { n.Revision = r },
}

// RemovedNode is the process of a node that was removed: it is not taken in
// again, whoever leads. A later process of the node is.
type RemovedNode struct {
	Name        string `json:"name"`
	Incarnation uint64 `json:"incarnation"`
	Revision    uint64 `json:"revision"`
}

var removedNodeTable = tableSpec[RemovedNode]{
	name: "removedNodes", noun: "removed node",
	key:   func(n *RemovedNode) string { return n.Name },
	stamp: func(n *RemovedNode, r uint64) { n.Revision = r },
}

// maxRemovedNodes bounds the removed nodes that are remembered; the newest are.
const maxRemovedNodes = 256

// NodeRemoved reports whether a process of a node was removed from the cluster.
func (s *State) NodeRemoved(name string, incarnation uint64) bool {
	r, ok := s.RemovedNodes.Get(name)
	return ok && incarnation <= r.Incarnation
}

// bury remembers a process that was removed, and forgets the one that was
// removed first when there are too many.
func (tx *Tx) bury(name string, incarnation uint64) {
	if tx.NodeRemoved(name, incarnation) {
		return
	}
	put(tx, &tx.State.RemovedNodes, &RemovedNode{Name: name, Incarnation: incarnation})
	if tx.RemovedNodes.Len() <= maxRemovedNodes {
		return
	}
	var first *RemovedNode
	for _, r := range tx.RemovedNodes.All() {
		if first == nil || r.Revision < first.Revision {
			first = r
		}
	}
	del(tx, &tx.State.RemovedNodes, first.Name)
}

// Validate returns every problem of the node as one error.
func (n *Node) Validate() error {
	var f fieldErrors
	f.name("name", n.Name)
	f.check(n.Incarnation > 0, "incarnation", "is required")
	if n.Zone != "" {
		f.name("zone", n.Zone)
	}
	f.labels("labels", n.Labels)
	f.resources("resources", n.Resources)
	return f.err("node", n.Name)
}

// RegisterNode is how a node says that it has started.
type RegisterNode struct {
	Node Node `json:"node"`
}

// Name implements [Command].
func (RegisterNode) Name() string { return "RegisterNode" }

// Apply implements [Command]; its value is the [*Node].
func (c RegisterNode) Apply(tx *Tx) (any, error) {
	n := c.Node
	if err := n.Validate(); err != nil {
		return nil, err
	}
	if tx.NodeRemoved(n.Name, n.Incarnation) {
		return nil, Errorf(Conflict, "node", n.Name, "was removed from the cluster").
			WithHint("start it with an empty --data-dir to join again")
	}
	del(tx, &tx.State.RemovedNodes, n.Name)
	n.State, n.Reason, n.Since, n.JoinedAt = NodeStateReady, "", tx.Meta.Time, tx.Meta.Time
	old, exists := tx.Nodes.Get(n.Name)
	if exists {
		if n.Incarnation < old.Incarnation {
			return nil, Errorf(Conflict, "node", n.Name, "is registered by a newer process").
				WithHint("two nodes must not share a name; give one of them another --name and an empty --data-dir")
		}
		n.JoinedAt = old.JoinedAt
		if old.State == NodeStateDraining {
			n.State, n.Reason, n.Since = old.State, old.Reason, old.Since
		}
	}
	return put(tx, &tx.State.Nodes, &n), nil
}

// NodeDown records that a node is gone, as one step: its living instances
// are lost in the same index. It names the incarnation that was seen dead, so
// that a node which has come back meanwhile is not hurt.
type NodeDown struct {
	Node        string `json:"node"`
	Incarnation uint64 `json:"incarnation"`
	Reason      string `json:"reason,omitempty"`
	Term        uint64 `json:"term"`
}

// Name implements [Command].
func (NodeDown) Name() string { return "NodeDown" }

// Apply implements [Command]; its value is the number of instances lost.
func (c NodeDown) Apply(tx *Tx) (any, error) {
	if err := tx.fence("node", c.Node, c.Term); err != nil {
		return nil, err
	}
	n, err := tx.Nodes.Lookup(c.Node)
	if err != nil {
		return nil, err
	}
	if n.Incarnation != c.Incarnation {
		return nil, Errorf(Conflict, "node", c.Node, "has come back since")
	}
	if n.State == NodeStateDown {
		return 0, nil
	}
	edit(tx, &tx.State.Nodes, n, func(n *Node) {
		n.State, n.Reason, n.Since = NodeStateDown, c.Reason, tx.Meta.Time
	})
	return tx.loseInstances(c.Node)
}

// loseInstances marks the living instances of a node as lost, with one
// activity for each group.
func (tx *Tx) loseInstances(node string) (int, error) {
	var living []*Instance
	for _, i := range tx.Instances.All() {
		if i.Node == node && !i.State.Terminal() {
			living = append(living, i)
		}
	}
	lost := map[string][]string{}
	var groups []string
	for _, i := range living {
		if _, err := tx.step(i, Lost, "node "+node+" is down", nil); err != nil {
			return 0, err
		}
		if lost[i.Group] == nil {
			groups = append(groups, i.Group)
		}
		lost[i.Group] = append(lost[i.Group], i.ID)
	}
	for _, g := range groups {
		tx.record(g, Activity{Type: ActivityLost, Count: len(lost[g]), Instances: lost[g], Cause: "node " + node + " is down"})
	}
	return len(living), nil
}

// DrainNode stops placement on a node, or allows it again. The reconciler
// moves the instances of a draining node elsewhere.
type DrainNode struct {
	Node   string `json:"node"`
	Drain  bool   `json:"drain"`
	Reason string `json:"reason,omitempty"`
}

// Name implements [Command].
func (DrainNode) Name() string { return "DrainNode" }

// Apply implements [Command]; its value is the [*Node].
func (c DrainNode) Apply(tx *Tx) (any, error) {
	n, err := tx.Nodes.Lookup(c.Node)
	if err != nil {
		return nil, err
	}
	if len(c.Reason) > maxReason {
		return nil, Errorf(Invalid, "node", c.Node, "has a reason of %d bytes, at most %d are allowed", len(c.Reason), maxReason)
	}
	to := NodeStateReady
	if c.Drain {
		to = NodeStateDraining
	}
	switch n.State {
	case to:
		return n, nil
	case NodeStateDown:
		return nil, Errorf(Conflict, "node", c.Node, "is down")
	}
	return edit(tx, &tx.State.Nodes, n, func(n *Node) {
		n.State, n.Reason, n.Since = to, c.Reason, tx.Meta.Time
	}), nil
}

// RemoveNode forgets a node for good: it has left, or was dead for longer than
// the grace time. Its living instances are lost.
type RemoveNode struct {
	Node string `json:"node"`
	// Incarnation, when not 0, refuses the removal of a node that came back.
	Incarnation uint64 `json:"incarnation,omitempty"`
	// Process, when not 0, is the newest process of the node that is known to
	// whoever removes it. It may not have registered yet.
	Process uint64 `json:"process,omitempty"`
}

// Name implements [Command].
func (RemoveNode) Name() string { return "RemoveNode" }

// Apply implements [Command]; its value is the removed [*Node], or nil for one
// that had not registered.
func (c RemoveNode) Apply(tx *Tx) (any, error) {
	n, err := tx.Nodes.Lookup(c.Node)
	if err != nil && c.Process != 0 && namePattern.MatchString(c.Node) {
		tx.bury(c.Node, c.Process)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if c.Incarnation != 0 && c.Incarnation != n.Incarnation {
		return nil, Errorf(Conflict, "node", c.Node, "has come back since")
	}
	if _, err := tx.loseInstances(c.Node); err != nil {
		return nil, err
	}
	del(tx, &tx.State.Nodes, c.Node)
	del(tx, &tx.State.Origins, c.Node)
	tx.bury(c.Node, max(n.Incarnation, c.Process))
	return n, nil
}
