package fsm

import (
	"reflect"
	"slices"
	"strconv"
)

// ServiceIndex says at which index of the log the endpoints of a group, or its
// service, last changed. It is a row and not a reader's own count, so that a
// client that waits for a change may go on at any node, and so that a change
// of one service wakes nobody who waits for another.
type ServiceIndex struct {
	Group string `json:"group"`
	Index uint64 `json:"index"`
}

var serviceIndexTable = tableSpec[ServiceIndex]{
	name: "serviceIndexes", noun: "service", key: func(s *ServiceIndex) string { return s.Group },
}

// Endpoint is what routing and discovery see of an instance.
type Endpoint struct {
	Instance    string
	Incarnation int
	Node        string
	Zone        string
	Address     string
	Health      Health
	Draining    bool
}

// Endpoint returns what routing and discovery see of an instance; ok is false
// for one that has not begun to serve or has ended. A stopping instance is
// gone: it has been told to end.
func (i *Instance) Endpoint() (e Endpoint, ok bool) {
	if i == nil || i.Address == "" || i.State != Running && i.State != Draining {
		return Endpoint{}, false
	}
	return Endpoint{
		Instance: i.ID, Incarnation: i.Incarnation, Node: i.Node, Zone: i.Zone,
		Address: i.Address, Health: i.Health, Draining: i.State == Draining,
	}, true
}

// Weight is the share of requests that an instance on the node gets, against
// 1 for one on a node without [WeightLabel].
func (n *Node) Weight() int {
	if n == nil {
		return 1
	}
	w, err := strconv.Atoi(n.Labels[WeightLabel])
	if err != nil || w < 1 || w > MaxWeight {
		return 1
	}
	return w
}

// indexServices moves the index of each service that the entry has changed.
func (tx *Tx) indexServices() {
	var touched []string
	touch := func(group string) {
		if group != "" && !slices.Contains(touched, group) {
			touched = append(touched, group)
		}
	}
	for _, c := range tx.changes {
		switch c.Table {
		case instanceTable.name:
			touch(changedEndpoint(c))
		case groupTable.name:
			touch(changedService(c))
		case nodeTable.name:
			tx.reweighed(c, touch)
		}
	}
	for _, group := range touched {
		if !tx.Groups.Has(group) {
			del(tx, &tx.State.ServiceIndexes, group)
			continue
		}
		put(tx, &tx.State.ServiceIndexes, &ServiceIndex{Group: group, Index: tx.Meta.Index})
	}
}

// reweighed touches the groups that have endpoints on a node whose weight has
// changed: the weight is part of what discovery says of them.
func (tx *Tx) reweighed(c Change, touch func(group string)) {
	before, _ := c.Old().(*Node)
	after, _ := c.New().(*Node)
	if before.Weight() == after.Weight() {
		return
	}
	for _, i := range tx.Instances.All() {
		if _, ok := i.Endpoint(); ok && i.Node == c.Key {
			touch(i.Group)
		}
	}
}

// changedEndpoint returns the group whose endpoints a change of an instance
// has changed, or "".
func changedEndpoint(c Change) string {
	before, _ := c.Old().(*Instance)
	after, _ := c.New().(*Instance)
	old, was := before.Endpoint()
	now, is := after.Endpoint()
	switch {
	case was == is && old == now:
		return ""
	case is:
		return after.Group
	}
	return before.Group
}

// changedService returns the group whose service a change has changed, or "".
func changedService(c Change) string {
	before, _ := c.Old().(*Group)
	after, _ := c.New().(*Group)
	if before != nil && after != nil && reflect.DeepEqual(before.Service, after.Service) {
		return ""
	}
	return c.Key
}
