package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// errNotLeader is the answer of a node that is not the leader (any more). It
// is definite: nothing was appended.
var errNotLeader = errors.New("the node is not the leader")

// Handler answers one method of the peer port. Its errors travel as
// [fsm.Error] values.
type Handler func(ctx context.Context, req []byte) ([]byte, error)

// handlers is the table of methods.
type handlers struct {
	mu    sync.RWMutex
	table map[string]Handler
	log   *slog.Logger
}

func (h *handlers) set(method string, f Handler) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.table[method] = f
}

// run calls a handler; a panic becomes an error of this one request.
func (h *handlers) run(ctx context.Context, method string, req []byte) (resp []byte, err error) {
	h.mu.RLock()
	f := h.table[method]
	h.mu.RUnlock()
	if f == nil {
		return nil, fsm.Errorf(fsm.Unavailable, "method", method, "is not known to this node").
			WithHint("all nodes should run the same version")
	}
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("a peer method panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
			resp, err = nil, fsm.Errorf(fsm.Internal, "method", method, "panicked: %v", p).WithHint("this is a bug; the node's log has the stack")
		}
	}()
	return f(ctx, req)
}

// serveCalls answers the requests of one stream until it ends.
func (h *handlers) serveCalls(ctx context.Context, conn net.Conn) {
	f := newFrameConn(conn)
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(f.writeLoop)
	slots := make(chan struct{}, maxConnCalls)
	f.readLoop(func(frame []byte) error {
		id, method, req, err := splitRequest(frame)
		if err != nil {
			return err
		}
		select {
		case slots <- struct{}{}:
		case <-f.done:
			return errConnLost
		}
		wg.Go(func() {
			defer func() { <-slots }()
			resp, err := h.run(ctx, method, req)
			status := replyOK
			if len(resp)+16 > maxFrame {
				err = fsm.Errorf(fsm.TooLarge, "reply", method, "has %d bytes, at most %d are allowed", len(resp), maxFrame)
			}
			if err != nil {
				status, resp = encodeError(err)
			}
			_ = f.send(replyFrame(id, status, resp), nil) // a lost stream is the caller's to notice
		})
		return nil
	})
	cancel()
	wg.Wait()
}

func encodeError(err error) (byte, []byte) {
	if errors.Is(err, errNotLeader) {
		return replyNotLeader, nil
	}
	var e *fsm.Error
	if !errors.As(err, &e) {
		e = fsm.Errorf(fsm.Internal, "", "", "%v", err)
	}
	body, merr := json.Marshal(e)
	if merr != nil {
		return replyError, []byte(`{"kind":"internal","message":"an error could not be encoded"}`)
	}
	return replyError, body
}

func decodeReply(status byte, payload []byte) ([]byte, error) {
	switch status {
	case replyOK:
		return payload, nil
	case replyNotLeader:
		return nil, errNotLeader
	}
	e := &fsm.Error{}
	if err := json.Unmarshal(payload, e); err != nil {
		return nil, fmt.Errorf("a peer's error does not decode: %w", err)
	}
	return nil, e
}

// caller is the asking side of one stream.
type caller struct {
	f     *frameConn
	heard atomic.Int64 // unix ns of the last frame
	mu    sync.Mutex
	next  uint64
	wait  map[uint64]chan callReply
	lost  bool
}

type callReply struct {
	status  byte
	payload []byte
}

func newCaller(conn net.Conn, wg *tasks, seen func()) (*caller, bool) {
	c := &caller{f: newFrameConn(conn), wait: map[uint64]chan callReply{}}
	ok := wg.Go(c.f.writeLoop) && wg.Go(func() {
		c.f.readLoop(func(frame []byte) error {
			id, status, payload, err := splitReply(frame)
			if err != nil {
				return err
			}
			c.heard.Store(time.Now().UnixNano())
			seen()
			c.mu.Lock()
			ch := c.wait[id]
			delete(c.wait, id)
			c.mu.Unlock()
			if ch != nil {
				ch <- callReply{status, payload}
			}
			return nil
		})
		c.mu.Lock()
		c.lost = true
		for _, ch := range c.wait {
			close(ch)
		}
		clear(c.wait)
		c.mu.Unlock()
	})
	if !ok {
		c.f.close()
	}
	return c, ok
}

func (c *caller) call(ctx context.Context, method string, req []byte) ([]byte, error) {
	ch := make(chan callReply, 1)
	c.mu.Lock()
	if c.lost {
		c.mu.Unlock()
		return nil, errConnLost
	}
	c.next++
	id := c.next
	c.wait[id] = ch
	c.mu.Unlock()
	if err := c.f.send(requestFrame(id, method, req), ctx.Done()); err != nil {
		c.forget(id)
		return nil, err
	}
	select {
	case r, ok := <-ch:
		if !ok {
			return nil, errConnLost
		}
		return decodeReply(r.status, r.payload)
	case <-ctx.Done():
		c.forget(id)
		return nil, ctx.Err()
	}
}

func (c *caller) forget(id uint64) {
	c.mu.Lock()
	delete(c.wait, id)
	c.mu.Unlock()
}

// silent reports that nothing came back for a while: the stream may be one
// that a partition left hanging, and a fresh one is better.
func (c *caller) silent(d time.Duration) bool {
	return time.Since(time.Unix(0, c.heard.Load())) > d
}
