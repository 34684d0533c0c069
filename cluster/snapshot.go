package cluster

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// SaveSnapshot writes a state that reflects every write acknowledged before
// the call.
func (c *Cluster) SaveSnapshot(ctx context.Context, w io.Writer) error {
	s, err := c.StrongState(ctx)
	if err != nil {
		return err
	}
	return s.WriteSnapshot(w)
}

// RestoreSnapshot checks a snapshot and replaces the state of the whole
// cluster by it. The cluster keeps its identity. A damaged snapshot changes
// nothing. It may be asked of any node.
func (c *Cluster) RestoreSnapshot(ctx context.Context, r io.Reader) error {
	s, err := fsm.ReadSnapshot(io.LimitReader(r, maxSnapshot))
	if err != nil {
		return err
	}
	leader, _ := c.route()
	switch leader {
	case "":
		return errLeaderless()
	case c.cfg.Name:
		return c.restoreHere(ctx, s)
	}
	return c.upload(ctx, leader, s)
}

// restoreHere has Raft replace the state, as the leader.
func (c *Cluster) restoreHere(ctx context.Context, s *fsm.State) error {
	if c.lead.ready.Load() == 0 {
		return errLeaderless()
	}
	s = s.OfCluster(c.State().ClusterID())
	var size counter
	if err := writePositioned(&size, s); err != nil {
		return err
	}
	read, write := io.Pipe()
	c.raftWG.Go(func() {
		out := bufio.NewWriterSize(write, 1<<16)
		err := writePositioned(out, s)
		if err == nil {
			err = out.Flush()
		}
		_ = write.CloseWithError(err) // always nil
	})
	defer closeQuietly(read)
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: s.Index(), Term: s.Term(), Size: int64(size)}
	done := make(chan error, 1)
	if !c.raftWG.Go(func() { done <- c.raft.Restore(meta, read, 0) }) {
		return errStopped()
	}
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return errUnknownOutcome()
	}
	if err != nil {
		return fsm.Errorf(fsm.Unavailable, "snapshot", "", "could not be restored: %v", err).WithHint("retry when the cluster has a stable leader")
	}
	// An entry that the machine sees, for readers who wait for the commit index.
	_, err = c.append(ctx, (&fsm.Entry{Time: time.Now()}).Encode())
	return err
}

// counter counts what is written to it.
type counter int64

// Write implements [io.Writer].
func (n *counter) Write(b []byte) (int, error) {
	*n += counter(len(b))
	return len(b), nil
}

// upload streams a snapshot to the leader and returns its answer.
func (c *Cluster) upload(ctx context.Context, leader string, s *fsm.State) error {
	conn, err := c.dialNode(ctx, leader, kindUpload)
	if err != nil {
		return fsm.Errorf(fsm.Unavailable, "node", leader, "can not be reached: %v", err).WithHint("retry")
	}
	defer closeQuietly(conn)
	stop := context.AfterFunc(ctx, func() { closeQuietly(conn) })
	defer stop()
	if err := s.WriteSnapshot(&patientConn{conn, c.cfg.Timing.PeerTimeout}); err != nil {
		return errUnknownOutcome()
	}
	var answer struct{ Error *fsm.Error }
	if err := json.NewDecoder(io.LimitReader(conn, maxFrame)).Decode(&answer); err != nil {
		return errUnknownOutcome()
	}
	if answer.Error != nil {
		return answer.Error
	}
	return nil
}

// serveUpload restores what another node sends.
func (c *Cluster) serveUpload(conn net.Conn, peer hello) {
	defer closeQuietly(conn)
	s, err := fsm.ReadSnapshot(io.LimitReader(&patientConn{conn, c.cfg.Timing.PeerTimeout}, maxSnapshot))
	if err == nil {
		c.log.Warn("restoring a snapshot", "from", peer.From, "index", s.Index())
		err = c.restoreHere(c.hub.ctx, s)
	}
	var answer struct{ Error *fsm.Error }
	if err != nil && !errors.As(err, &answer.Error) {
		answer.Error = fsm.Errorf(fsm.Internal, "snapshot", "", "%v", err)
	}
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		c.log.Warn("answering a restore failed", "to", peer.From, "error", err)
	}
}
