package cluster

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// raftStream is the stream layer of Raft's transport: streams of kind raft on
// the peer port.
type raftStream struct {
	hub *hub
	dir *directory
	// configured is a node's address in Raft's configuration, or "".
	configured func(name string) string
	accept     chan net.Conn
	done       chan struct{}
	once       sync.Once
}

func newRaftStream(h *hub, dir *directory, configured func(name string) string) *raftStream {
	s := &raftStream{hub: h, dir: dir, configured: configured, accept: make(chan net.Conn), done: make(chan struct{})}
	h.serve[kindRaft] = func(c net.Conn, _ hello) {
		select {
		case s.accept <- c:
		case <-s.done:
			closeQuietly(c)
		case <-h.ctx.Done():
			closeQuietly(c)
		}
	}
	return s
}

// Accept implements [net.Listener].
func (s *raftStream) Accept() (net.Conn, error) {
	select {
	case c := <-s.accept:
		return c, nil
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener].
func (s *raftStream) Close() error {
	s.once.Do(func() { close(s.done) })
	return nil
}

// Addr implements [net.Listener]: the address that others dial.
func (s *raftStream) Addr() net.Addr { return stringAddr(s.dir.me().Peer) }

// Dial implements [raft.StreamLayer]. It takes the name of a node (see
// [raftAddress]), and the handshake tells that node's process from any other
// that has its address by now.
func (s *raftStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	name, named := strings.CutPrefix(string(to), addressMark)
	if !named || name == "" {
		return nil, errNotSent
	}
	at, known := s.dir.addr(name)
	if !known {
		at = s.configured(name)
	}
	if at == "" {
		return nil, errNotSent
	}
	ctx, cancel := context.WithTimeout(s.hub.ctx, timeout)
	defer cancel()
	conn, _, err := s.hub.dial(ctx, at, kindRaft, name)
	return conn, err
}

// raftTransport is Raft's network transport with a side entrance: messages
// that this node makes for its own Raft.
type raftTransport struct {
	*raft.NetworkTransport
	inbox chan raft.RPC
	done  chan struct{}
	wg    sync.WaitGroup
	// mute makes every append and heartbeat fail, so that a leader which can
	// not do its work is not taken for a healthy one.
	mute atomic.Bool
	gate gate
	// leads reports whether this node leads, votes whether it may take part
	// in elections; they are set before Raft starts.
	leads, votes func() bool
}

func newRaftTransport(stream *raftStream, log *raftLogger, timeout time.Duration) *raftTransport {
	t := &raftTransport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			ServerAddressProvider: stream.dir, Stream: stream, Logger: log, Timeout: timeout,
			MaxPool: 3, MsgpackUseNewTimeFormat: true,
		}),
		inbox: make(chan raft.RPC),
		done:  make(chan struct{}),
	}
	t.wg.Go(func() {
		for {
			select {
			case rpc := <-t.NetworkTransport.Consumer():
				if !t.votes() && abstain(rpc) {
					continue
				}
				select {
				case t.inbox <- rpc:
				case <-t.done:
					return
				}
			case <-t.done:
				return
			}
		}
	})
	return t
}

// Consumer implements [raft.Transport].
func (t *raftTransport) Consumer() <-chan raft.RPC { return t.inbox }

// Close implements [raft.WithClose].
func (t *raftTransport) Close() error {
	select {
	case <-t.done:
		return nil
	default:
		close(t.done)
	}
	err := t.NetworkTransport.Close()
	t.wg.Wait()
	return err
}

// AppendEntries implements [raft.Transport].
func (t *raftTransport) AppendEntries(id raft.ServerID, to raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.mute.Load() {
		return errMuted
	}
	heartbeat := isHeartbeat(req)
	if !heartbeat {
		if err := t.gate.pass(id, t.done, t.leads); err != nil {
			return err
		}
	}
	err := t.NetworkTransport.AppendEntries(id, to, req, resp)
	t.gate.note(id, heartbeat, err)
	return err
}

// errAbstains is the answer of a node that must not vote yet.
var errAbstains = errors.New("the node has lost its log and does not vote before it has caught up")

// abstain answers a message of an election in the place of Raft. It reports
// false for any other.
func abstain(rpc raft.RPC) bool {
	switch rpc.Command.(type) {
	case *raft.RequestVoteRequest:
		rpc.Respond(&raft.RequestVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, nil)
	case *raft.RequestPreVoteRequest:
		rpc.Respond(&raft.RequestPreVoteResponse{RPCHeader: raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax}}, nil)
	case *raft.TimeoutNowRequest:
		rpc.Respond(&raft.TimeoutNowResponse{}, errAbstains)
	default:
		return false
	}
	return true
}

// RequestVote implements [raft.Transport].
func (t *raftTransport) RequestVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if !t.votes() {
		return errAbstains
	}
	return t.NetworkTransport.RequestVote(id, to, req, resp)
}

// RequestPreVote implements [raft.WithPreVote].
func (t *raftTransport) RequestPreVote(id raft.ServerID, to raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !t.votes() {
		return errAbstains
	}
	return t.NetworkTransport.RequestPreVote(id, to, req, resp)
}

// inject hands a message to this node's own Raft and returns its answer.
func (t *raftTransport) inject(ctx context.Context, cmd any) (raft.RPCResponse, error) {
	reply := make(chan raft.RPCResponse, 1)
	select {
	case t.inbox <- raft.RPC{Command: cmd, RespChan: reply}:
	case <-ctx.Done():
		return raft.RPCResponse{}, ctx.Err()
	case <-t.done:
		return raft.RPCResponse{}, net.ErrClosed
	}
	select {
	case r := <-reply:
		return r, r.Error
	case <-ctx.Done():
		return raft.RPCResponse{}, ctx.Err()
	case <-t.done:
		return raft.RPCResponse{}, net.ErrClosed
	}
}

// header is the header of a message in the name of a node.
func header(name string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(name), Addr: []byte(raftAddress(name))}
}

// runNow makes this node a candidate at once, as the target of a leadership
// transfer is. Votes, terms and the comparison of logs are as in any election.
func (t *raftTransport) runNow(ctx context.Context, me string) error {
	if !t.votes() {
		return errAbstains
	}
	_, err := t.inject(ctx, &raft.TimeoutNowRequest{RPCHeader: header(me)})
	return err
}

// commitNotice tells this node's Raft what the leader has said out of band:
// that the entry at index, of the leader's own term, is committed. It is the
// message that the leader would send by itself a little later.
func (t *raftTransport) commitNotice(ctx context.Context, leader string, term, index uint64) error {
	_, err := t.inject(ctx, &raft.AppendEntriesRequest{
		RPCHeader: header(leader), Term: term,
		PrevLogEntry: index, PrevLogTerm: term, LeaderCommitIndex: index,
	})
	return err
}
