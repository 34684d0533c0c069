package node

import (
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/scaling"
)

// status describes the cluster in the API's words.
func (n *Node) status() client.ClusterStatus {
	st := n.cluster.Status()
	out := client.ClusterStatus{
		ID: st.ClusterID, Leader: st.Leader, Term: st.Term, Index: st.Index, Problem: st.Problem,
		Members: make([]client.Member, len(st.Members)),
		Quorum:  client.Quorum{Voters: st.Quorum.Voters, Healthy: st.Quorum.Healthy, CanLose: st.Quorum.CanLose},
	}
	if out.Problem == "" {
		out.Problem = st.DigestAlarm
	}
	if out.Problem == "" {
		out.Problem = n.fullDisk()
	}
	for k, m := range st.Members {
		out.Members[k] = client.Member{
			Name: m.Name, Role: m.Role, Status: string(m.Status), Zone: m.Zone, API: m.API, LastContactMs: m.LastContactMs,
		}
	}
	return out
}

// explain says in a sentence why a group is as it is.
func (n *Node) explain(group string) string {
	s := n.cluster.State()
	e, err := scaling.Explain(s, group, time.Now(), scaling.DefaultLimits(), n.doubted(s, group))
	if err != nil {
		return ""
	}
	return e.Sentence
}

// ready adds the node's own checks to /readyz.
func (n *Node) ready() []client.Check {
	if n.registered.Load() {
		return []client.Check{{Name: "registered", OK: true, Reason: "the cluster knows this process"}}
	}
	return []client.Check{{Name: "registered", Reason: "the cluster does not know this process yet; it registers as soon as there is a leader"}}
}
