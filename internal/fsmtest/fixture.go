package fsmtest

import (
	"cmp"

	"github.com/pacelinehq/paceline/fsm"
)

// Address is where an instance listens that was given no other address.
const Address = "127.0.0.1:20001"

// Node registers a node that can run what tests need; its API and its
// resources are made up where they are missing.
func (c *Cluster) Node(n fsm.Node) {
	n.Incarnation, n.Drivers, n.API = 1, []string{"process"}, cmp.Or(n.API, "127.0.0.1:7700")
	n.Resources = cmp.Or(n.Resources, fsm.Resources{CPU: 64, MemoryMiB: 1 << 20})
	c.Must(fsm.RegisterNode{Node: n})
}

// Template puts the template "web".
func (c *Cluster) Template() {
	c.Must(fsm.PutTemplate{Template: fsm.Template{Name: "web", Driver: "process", Command: fsm.SampleCommand}})
}

// Group puts a group of the template "web", or changes its service; nil is a
// group without.
func (c *Cluster) Group(name string, s *fsm.Service) {
	c.Template()
	c.Must(fsm.PutGroup{Group: fsm.Group{Name: name, Template: "web", MaxSize: 1000, Service: s}})
}

// Run makes an instance of a group that runs on a node at an address.
func (c *Cluster) Run(group, id, node, addr string, h fsm.Health) {
	c.Must(
		fsm.LaunchInstances{Group: group, Term: Term, Launches: []fsm.Launch{{ID: id, Node: node}}},
		fsm.ReportInstances{Node: node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{
			{ID: id, State: fsm.Starting, Address: addr, PID: 4242, Incarnation: 1},
			{ID: id, State: fsm.Running, Health: h},
		}},
	)
}

// Report says, as its node, what became of an instance. What is "" stays.
func (c *Cluster) Report(id string, state fsm.InstanceState, h fsm.Health) {
	i, err := c.State().Instances.Lookup(id)
	if err != nil {
		panic(err)
	}
	c.Must(fsm.ReportInstances{Node: i.Node, NodeIncarnation: 1, Reports: []fsm.InstanceReport{
		{ID: id, State: state, Health: h, Address: cmp.Or(i.Address, Address), PID: 4242, Incarnation: 1},
	}})
}

// Drain lets an instance finish what it has; h is what its checks say then.
func (c *Cluster) Drain(id string, h fsm.Health) {
	c.Must(fsm.StopInstances{Instances: []string{id}, Cause: "test"})
	c.Report(id, "", h)
}
