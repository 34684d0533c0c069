package node

import (
	"context"
	"encoding/json"
	"net"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling"
)

// maxWitnesses is how many nodes are tried until one can ask an instance.
const maxWitnesses = 3

// doubtsTimeout bounds the question to the leader which instances are spared.
const doubtsTimeout = 300 * time.Millisecond

type askRequest struct {
	Instance string `json:"instance"`
}

// askAnswer is what a node has found out.
type askAnswer struct {
	// Asked is false when this node can not ask the instance.
	Asked bool `json:"asked"`
	// Problem is what is wrong with the instance; empty for nothing.
	Problem string `json:"problem,omitempty"`
}

// problem is the error of a failed check.
type problem string

// Error implements error.
func (p problem) Error() string { return string(p) }

func (n *Node) handleQuestions() {
	n.cluster.Handle(callAsk, func(ctx context.Context, raw []byte) ([]byte, error) {
		var req askRequest
		if err := json.Unmarshal(raw, &req); err != nil {
			return nil, err
		}
		i, err := n.cluster.State().Instances.Lookup(req.Instance)
		if err != nil {
			return nil, err
		}
		t, err := n.cluster.State().TemplateAt(i.Template, i.Version)
		if err != nil {
			return nil, err
		}
		return json.Marshal(n.askHere(ctx, i, t.CheckOrDefault()))
	})
	n.cluster.Handle(callDoubts, func(context.Context, []byte) ([]byte, error) {
		return json.Marshal(n.reconciler.Doubted())
	})
}

// witness is who confirms that an unhealthy instance fails.
func (n *Node) witness() scaling.Witness {
	if n.env.Witness != nil {
		return n.env.Witness
	}
	return n
}

// Ask implements [scaling.Witness]: this node, the leader, asks by itself, or
// has another node do it when the instance runs here.
func (n *Node) Ask(ctx context.Context, i *fsm.Instance, c fsm.HealthCheck) (by string, err error) {
	if i.Node != n.cfg.Name {
		return judged(n.cfg.Name, n.askHere(ctx, i, c))
	}
	raw, err := json.Marshal(askRequest{Instance: i.ID})
	if err != nil {
		return "", err
	}
	tried := 0
	for name, row := range n.cluster.State().Nodes.All() {
		alive, _ := n.cluster.Alive(name)
		if name == i.Node || row.State == fsm.NodeStateDown || !alive {
			continue
		}
		if tried++; tried > maxWitnesses {
			break
		}
		var a askAnswer
		answer, err := n.cluster.Call(ctx, name, callAsk, raw)
		if err == nil {
			err = json.Unmarshal(answer, &a)
		}
		if err == nil && a.Asked {
			return judged(name, a)
		}
	}
	return "", nil
}

func judged(by string, a askAnswer) (string, error) {
	switch {
	case !a.Asked:
		return "", nil
	case a.Problem != "":
		return by, problem(a.Problem)
	}
	return by, nil
}

// askHere checks an instance of another node from here. A loopback address
// means the same machine only where this node's own instances have one too;
// anywhere else it would be answered by somebody else.
func (n *Node) askHere(ctx context.Context, i *fsm.Instance, c fsm.HealthCheck) askAnswer {
	if i.Address == "" || (loopback(i.Address) && !n.sharesLoopback()) {
		return askAnswer{}
	}
	a := askAnswer{Asked: true}
	if err := n.agent.Ask(ctx, i.Address, c); err != nil {
		a.Problem = err.Error()
	}
	return a
}

func (n *Node) sharesLoopback() bool {
	own := n.instanceHost()
	return own == "" || loopback(net.JoinHostPort(own, "0"))
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// doubted is what the leader spares, for the explanation of a group; nothing
// when none of its instances is unhealthy, or the leader does not say.
func (n *Node) doubted(s *fsm.State, group string) map[string]string {
	sick := false
	for _, i := range s.InstancesOf(group) {
		sick = sick || (i.State == fsm.Running && i.Health == fsm.Unhealthy)
	}
	leader, _, ok := n.cluster.Leader()
	switch {
	case !sick || !ok:
		return nil
	case leader == n.cfg.Name:
		return n.reconciler.Doubted()
	}
	ctx, cancel := context.WithTimeout(context.Background(), doubtsTimeout)
	defer cancel()
	var spared map[string]string
	if answer, err := n.cluster.Call(ctx, leader, callDoubts, nil); err != nil || json.Unmarshal(answer, &spared) != nil {
		return nil
	}
	return spared
}
