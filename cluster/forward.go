package cluster

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/fsm"
)

// The methods of the peer port that this package answers itself.
const (
	methodPropose   = "raft.propose"
	methodReadIndex = "raft.readIndex"
	methodCommitted = "raft.committed"
	methodApplied   = "raft.applied"
	methodTerm      = "raft.term"
	methodStatus    = "raft.status"
	methodDigest    = "raft.digest"
	methodLeave     = "raft.leave"
	methodTransfer  = "raft.transfer"
	methodRemoved   = "raft.removed"
	methodBye       = "gossip.bye"
	methodPrepare   = "boot.prepare"
	methodFound     = "boot.found"
)

// batchReply is what the leader says about a batch that it committed. The
// accepting node takes the results from its own Apply; Errs are for the case
// that it never applies the entry because a snapshot covered it.
type batchReply struct {
	Index     uint64
	Term      uint64
	Duplicate bool
	Errs      map[int]*fsm.Error
}

// encodeBatch writes a forwarded batch: where it comes from, then the
// commands as [fsm.EncodeCommands] writes them.
func encodeBatch(id fsm.BatchID, envs []fsm.Envelope) []byte {
	b := binary.AppendUvarint(nil, uint64(len(id.Node)))
	b = append(b, id.Node...)
	b = binary.AppendUvarint(b, id.Boot)
	b = binary.AppendUvarint(b, id.Seq)
	return append(b, fsm.EncodeCommands(envs)...)
}

func decodeBatch(b []byte) (id fsm.BatchID, envs []fsm.Envelope, err error) {
	var numbers [3]uint64
	for i := range numbers {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return id, nil, errBadFrame
		}
		numbers[i], b = v, b[n:]
		if i == 0 {
			if v > uint64(len(b)) {
				return id, nil, errBadFrame
			}
			id.Node, b = string(b[:v]), b[v:]
		}
	}
	id.Boot, id.Seq = numbers[1], numbers[2]
	envs, err = fsm.DecodeCommands(b)
	return id, envs, err
}

func (r batchReply) encode() ([]byte, error) {
	b := binary.AppendUvarint(nil, r.Index)
	b = binary.AppendUvarint(b, r.Term)
	if !r.Duplicate && len(r.Errs) == 0 {
		return b, nil
	}
	tail, err := json.Marshal(r)
	return append(b, tail...), err
}

func decodeBatchReply(b []byte) (r batchReply, err error) {
	index, n := binary.Uvarint(b)
	if n <= 0 {
		return r, errBadFrame
	}
	term, m := binary.Uvarint(b[n:])
	if m <= 0 {
		return r, errBadFrame
	}
	if tail := b[n+m:]; len(tail) > 0 {
		err = json.Unmarshal(tail, &r)
	}
	r.Index, r.Term = index, term
	return r, err
}

// sendBatch makes one attempt to have a batch committed by a leader.
func (c *Cluster) sendBatch(ctx context.Context, leader string, b *batch) (batchReply, error) {
	if leader == c.cfg.Name {
		return c.commitHere(ctx, b.id, b.envs)
	}
	if b.encoded == nil {
		b.encoded = encodeBatch(b.id, b.envs)
	}
	resp, err := c.pool.call(ctx, leader, laneCore, methodPropose, b.encoded)
	if err != nil {
		return batchReply{}, err
	}
	return decodeBatchReply(resp)
}

// handlePropose commits a batch that another node has accepted.
func (c *Cluster) handlePropose(ctx context.Context, req []byte) ([]byte, error) {
	if len(req) > maxForwardedBytes {
		return nil, fsm.Errorf(fsm.TooLarge, "batch", "", "has %d bytes, at most %d are allowed", len(req), maxForwardedBytes)
	}
	id, envs, err := decodeBatch(req)
	if err != nil {
		return nil, fsm.Errorf(fsm.Invalid, "batch", "", "does not decode: %v", err)
	}
	r, err := c.commitHere(ctx, id, envs)
	if err != nil {
		return nil, err
	}
	return r.encode()
}

// commitHere has a batch committed by this node as the leader.
func (c *Cluster) commitHere(ctx context.Context, id fsm.BatchID, envs []fsm.Envelope) (batchReply, error) {
	if !c.actsAsLeader() {
		return batchReply{}, errNotLeader
	}
	now := time.Now()
	entry := fsm.Entry{Time: now, Batch: id, Commands: c.screened(envs, now)}
	r, err := c.append(ctx, entry.Encode())
	return c.apply.recent.answer(id, r), err
}

// append has an encoded entry committed and applied. ctx ends the wait only:
// the entry may be committed later.
func (c *Cluster) append(ctx context.Context, data []byte) (batchReply, error) {
	start := time.Now()
	done := make(chan raft.ApplyFuture, 1)
	if !c.raftWG.Go(func() {
		f := c.raft.Apply(data, 0)
		_ = f.Error() // waits; read again below
		done <- f
	}) {
		return batchReply{}, errNotLeader
	}
	select {
	case f := <-done:
		if err := f.Error(); err != nil {
			return batchReply{}, appendError(err)
		}
		c.met.commit.Observe(time.Since(start).Seconds())
		a, ok := f.Response().(*applied)
		if !ok {
			return batchReply{}, errUnknownOutcome()
		}
		if a.err != nil {
			return batchReply{}, notServing(a.err)
		}
		return replyOf(a), nil
	case <-ctx.Done():
		return batchReply{}, ctx.Err()
	}
}

// appendError says which of Raft's errors are definite.
func appendError(err error) error {
	if errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		return errNotLeader
	}
	return errors.Join(errUnknownOutcome(), err)
}

func replyOf(a *applied) batchReply {
	r := batchReply{Index: a.index, Term: a.term, Duplicate: a.outcome.Duplicate}
	for k, err := range a.outcome.Errs {
		if err == nil {
			continue
		}
		var e *fsm.Error
		if !errors.As(err, &e) {
			e = fsm.Errorf(fsm.Internal, "command", "", "%v", err)
		}
		if r.Errs == nil {
			r.Errs = map[int]*fsm.Error{}
		}
		r.Errs[k] = e
	}
	return r
}

// rejectedName stands in an entry for a command that the leader's dry run
// refused, so that the others keep their numbers. No version knows the name
// and the entry is marked ignorable: it changes nothing. Its body is the error.
const rejectedName = "paceline.rejected"

var rejectedMark = []byte(rejectedName)

// screened replaces commands that this node does not know, or that panic in a
// dry run: on the log they would stop, or panic on, every replica.
func (c *Cluster) screened(envs []fsm.Envelope, now time.Time) []fsm.Envelope {
	bad := c.dryRun(c.apply.machine.State(), envs, now)
	for k, env := range envs {
		if err := c.known(env); err != nil {
			if bad == nil {
				bad = map[int]error{}
			}
			bad[k] = err
		}
	}
	if bad == nil {
		return envs
	}
	envs = append([]fsm.Envelope(nil), envs...)
	for k := range envs {
		if err := bad[k]; err != nil {
			c.log.Error("a command was not proposed", "command", envs[k].Name, "error", err)
			envs[k] = rejection(err)
		}
	}
	return envs
}

// known refuses a command that would make nodes of this version stop.
func (c *Cluster) known(env fsm.Envelope) error {
	if c.commands[env.Name] || env.Ignorable {
		return nil
	}
	return fsm.Errorf(fsm.Internal, "command", env.Name, "is not known to the leader").
		WithHint("bring all nodes to the same version")
}

func rejection(err error) fsm.Envelope {
	var e *fsm.Error
	if !errors.As(err, &e) {
		e = fsm.Errorf(fsm.Internal, "command", "", "%v", err)
	}
	body, merr := json.Marshal(e)
	if merr != nil {
		body = nil
	}
	return fsm.Envelope{Name: rejectedName, Body: body, Ignorable: true}
}

// withRejections puts the errors of refused commands in their places.
func withRejections(errs []error, data []byte) []error {
	if !bytes.Contains(data, rejectedMark) {
		return errs
	}
	entry, err := fsm.DecodeEntry(data)
	if err != nil || len(entry.Commands) != len(errs) {
		return errs
	}
	out := append([]error(nil), errs...)
	for k, env := range entry.Commands {
		if env.Name != rejectedName || !env.Ignorable {
			continue
		}
		e := &fsm.Error{Kind: fsm.Internal, Noun: "command", Message: "was refused by the leader"}
		if json.Unmarshal(env.Body, e) == nil {
			out[k] = e
		}
	}
	return out
}
