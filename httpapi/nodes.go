package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

func nodeRoutes() []*route {
	const tag, one = "nodes", "/v1/nodes/{node}"
	return []*route{
		{id: "list-nodes", method: http.MethodGet, path: "/v1/nodes", tag: tag, summary: "List the nodes",
			access: Viewer, read: true, paged: true, answer: client.List[fsm.Node]{}, handle: listNodes},
		{id: "get-node", method: http.MethodGet, path: one, tag: tag, summary: "Read a node",
			access: Viewer, read: true, answer: fsm.Node{}, handle: getNode},
		{id: "drain-node", method: http.MethodPost, path: one + "/drain", tag: tag, summary: "Move a node's instances elsewhere and place none there",
			access: Operator, write: true, body: client.DrainRequest{}, bodyOptional: true, answer: fsm.Node{}, handle: drainNode(true)},
		{id: "undrain-node", method: http.MethodPost, path: one + "/undrain", tag: tag, summary: "Let a node take instances again",
			access: Operator, write: true, body: client.DrainRequest{}, bodyOptional: true, answer: fsm.Node{}, handle: drainNode(false)},
		{id: "leave-node", method: http.MethodPost, path: one + "/leave", tag: tag, summary: "Make this very node leave the cluster",
			access: Admin, write: true, timeout: leaveTimeout, answer: client.Done{}, handle: leaveNode},
		{id: "remove-node", method: http.MethodDelete, path: one, tag: tag, summary: "Forget a node for good",
			access: Admin, write: true, timeout: leaveTimeout, status: http.StatusNoContent, handle: removeNode},
	}
}

func nodes(s *fsm.State) *fsm.Table[fsm.Node] { return &s.Nodes }

func listNodes(c *call) error {
	p, err := c.page()
	if err != nil {
		return err
	}
	s, err := c.state()
	if err != nil {
		return err
	}
	return list(c, p, s.Nodes.From(p.from()), nil, nil)
}

func getNode(c *call) error {
	find := func(s *fsm.State) (*fsm.Node, error) { return s.Nodes.Lookup(c.param("node")) }
	return show(c, find, func(n *fsm.Node) uint64 { return n.Revision })
}

func drainNode(drain bool) func(*call) error {
	return func(c *call) error {
		var req client.DrainRequest
		if err := c.body(&req, nil); err != nil {
			return err
		}
		name := c.param("node")
		n, err := written(c, fsm.DrainNode{Node: name, Drain: drain, Reason: req.Reason}, nodes, name)
		if err != nil {
			return err
		}
		c.etag(n.Revision)
		return c.json(http.StatusOK, n)
	}
}

// leaveNode acts on the node that answers only: a node that is told to leave
// must be asked itself, because it has to hand over what it holds.
func leaveNode(c *call) error {
	name := c.param("node")
	if name != c.s.cfg.Node {
		err := fsm.Errorf(fsm.Conflict, "node", name, "can not leave through node %q", c.s.cfg.Node)
		if n, ok := c.s.cfg.Cluster.State().Nodes.Get(name); ok && n.API != "" {
			return err.WithHint("ask it itself, at %s; or remove it from outside: paceline node remove %s", n.API, name)
		}
		return err.WithHint("remove it from outside: paceline node remove %s", name)
	}
	if err := c.s.cfg.Cluster.Leave(c.ctx); err != nil {
		return err
	}
	return c.json(http.StatusOK, client.Done{Message: fmt.Sprintf("node %s has left the cluster", name)})
}

// removeNode removes the member, and then its row if the cluster has left it.
func removeNode(c *call) error {
	name := c.param("node")
	n, known := c.s.cfg.Cluster.State().Nodes.Get(name)
	err := c.s.cfg.Cluster.RemoveMember(c.ctx, name)
	if err != nil && (!known || fsm.KindOf(err) != fsm.NotFound) {
		return err
	}
	if _, left := c.s.cfg.Cluster.State().Nodes.Get(name); known && left {
		ctx := fsm.WithRequestID(c.ctx, "") // not the whole of what the key stands for
		_, err := c.s.cfg.Cluster.Propose(ctx, fsm.RemoveNode{Node: name, Incarnation: n.Incarnation})
		if err != nil && fsm.KindOf(err) != fsm.NotFound {
			return err
		}
	}
	return c.empty(http.StatusNoContent)
}

func clusterRoutes() []*route {
	const tag = "cluster"
	return []*route{
		{id: "get-cluster", method: http.MethodGet, path: "/v1/cluster", tag: tag, summary: "Leader, members and the margin of the quorum",
			access: Viewer, read: true, answer: client.ClusterStatus{}, handle: getCluster},
		{id: "transfer-leadership", method: http.MethodPost, path: "/v1/cluster/transfer-leadership", tag: tag, summary: "Hand leadership to another node",
			access: Admin, write: true, timeout: leaveTimeout, body: client.TransferRequest{}, bodyOptional: true,
			answer: client.Done{}, handle: transferLeadership},
		{id: "save-snapshot", method: http.MethodGet, path: "/v1/cluster/snapshot", tag: tag, summary: "Download the whole state",
			access: Admin, stream: true, produces: octets, handle: saveSnapshot},
		{id: "restore-snapshot", method: http.MethodPut, path: "/v1/cluster/snapshot", tag: tag, summary: "Replace the whole state",
			access: Admin, write: true, stream: true, timeout: snapshotTimeout, media: octets, answer: client.Done{}, handle: restoreSnapshot},
	}
}

const octets = "application/octet-stream"

func getCluster(c *call) error {
	s, err := c.state()
	switch {
	case err == nil:
	case c.s.cfg.Cluster.Halted() != nil: // which is what the status tells
		s = c.s.cfg.Cluster.State()
	default:
		return err
	}
	st := c.s.cfg.Status()
	if st.ID == "" {
		st.ID = s.ClusterID()
	}
	if st.Members == nil {
		st.Members = []client.Member{}
	}
	return c.json(http.StatusOK, st)
}

func transferLeadership(c *call) error {
	var req client.TransferRequest
	if err := c.body(&req, nil); err != nil {
		return err
	}
	if req.To != "" && !fsm.ValidName(req.To) {
		return invalidField("transfer", "", "to", "must be the name of a node")
	}
	if err := c.s.cfg.Cluster.TransferLeadership(c.ctx, req.To); err != nil {
		return err
	}
	leader := c.s.cfg.Status().Leader
	if leader == "" {
		return c.json(http.StatusOK, client.Done{Message: "leadership was handed over; the next leader is being elected"})
	}
	return c.json(http.StatusOK, client.Done{Message: fmt.Sprintf("leadership was handed over; the leader is %s", leader)})
}

func saveSnapshot(c *call) error {
	c.unhurried()
	ctx, cancel := context.WithTimeout(c.ctx, snapshotTimeout)
	defer cancel()
	w := &lazyBody{c: c}
	if err := c.s.cfg.Cluster.SaveSnapshot(ctx, w); err != nil {
		return err // a snapshot that was begun is cut off, and shows it
	}
	return nil
}

// lazyBody writes the head with the first bytes, so that an error before them
// can still be told as a problem.
type lazyBody struct {
	c     *call
	begun bool
}

// Write implements [io.Writer].
func (l *lazyBody) Write(p []byte) (int, error) {
	w := l.c.c.Writer
	if !l.begun {
		l.begun = true
		l.c.headers(w.Header())
		w.Header().Set("Content-Type", octets)
		w.Header().Set("Content-Disposition", `attachment; filename="paceline.snapshot"`)
		w.WriteHeader(http.StatusOK)
	}
	return w.Write(p)
}

func restoreSnapshot(c *call) error {
	if err := c.checkMedia(octets); err != nil {
		return err
	}
	c.unhurried()
	r := c.c.Request
	if r.ContentLength > MaxSnapshotBytes {
		return fsm.Errorf(fsm.TooLarge, "snapshot", "", "has %d bytes, at most %d are allowed", r.ContentLength, int64(MaxSnapshotBytes))
	}
	if err := c.s.cfg.Cluster.RestoreSnapshot(c.ctx, io.LimitReader(r.Body, MaxSnapshotBytes)); err != nil {
		return err
	}
	return c.json(http.StatusOK, client.Done{Message: "the state was replaced by the snapshot"})
}
