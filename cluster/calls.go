package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// errNotSent is a request that never left this node.
var errNotSent = errors.New("the node could not be reached")

// lane separates the streams to one node, so that a large reply does not
// stand in the way of the write path.
type lane byte

const (
	laneCore lane = iota // writes, read indexes, votes of confidence
	laneBulk             // what the layers above send
)

type slotKey struct {
	node string
	lane lane
}

// callSlot is the stream to one node, dialled when it is needed.
type callSlot struct {
	busy chan struct{} // a lock that respects a context
	cur  *caller
	addr string
}

// callPool keeps one stream for each node and lane.
type callPool struct {
	hub     *hub
	addrOf  func(node string) (string, bool)
	timeout time.Duration
	wg      tasks

	mu    sync.Mutex
	slots map[slotKey]*callSlot
}

func newCallPool(h *hub, addrOf func(string) (string, bool), timeout time.Duration) *callPool {
	return &callPool{hub: h, addrOf: addrOf, timeout: timeout, slots: map[slotKey]*callSlot{}}
}

func (p *callPool) slot(k slotKey) *callSlot {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.slots[k]
	if s == nil {
		s = &callSlot{busy: make(chan struct{}, 1)}
		p.slots[k] = s
	}
	return s
}

// get returns a live stream to a node.
func (p *callPool) get(ctx context.Context, node string, l lane) (*caller, error) {
	addr, ok := p.addrOf(node)
	if !ok {
		return nil, errors.Join(errNotSent, fsm.Errorf(fsm.NotFound, "node", node, "is not known"))
	}
	s := p.slot(slotKey{node, l})
	select {
	case s.busy <- struct{}{}:
	case <-ctx.Done():
		return nil, errors.Join(errNotSent, ctx.Err())
	}
	defer func() { <-s.busy }()
	if s.cur != nil {
		select {
		case <-s.cur.f.done:
		default:
			if s.addr == addr {
				return s.cur, nil
			}
			s.cur.f.close()
		}
		s.cur = nil
	}
	conn, _, err := p.hub.dial(ctx, addr, kindCall, node)
	if err != nil {
		return nil, errors.Join(errNotSent, err)
	}
	cur, ok := newCaller(conn, &p.wg, func() { p.hub.seen(node) })
	if !ok {
		return nil, errors.Join(errNotSent, errStopped())
	}
	s.cur = cur
	s.cur.heard.Store(time.Now().UnixNano())
	s.addr = addr
	return s.cur, nil
}

// call sends a request to a node and waits for its reply. An error that is
// errNotSent or errNotLeader is definite; others may hide a request that was
// carried out.
func (p *callPool) call(ctx context.Context, node string, l lane, method string, req []byte) ([]byte, error) {
	if len(req)+maxMethod+16 > maxFrame {
		return nil, errors.Join(errNotSent, fsm.Errorf(fsm.TooLarge, "request", method, "has %d bytes, at most %d are allowed", len(req), maxFrame))
	}
	c, err := p.get(ctx, node, l)
	if err != nil {
		return nil, err
	}
	resp, err := c.call(ctx, method, req)
	if err != nil && ctx.Err() != nil && c.silent(p.timeout) {
		c.f.close()
	}
	return resp, err
}

// callFor is call with a time limit.
func (p *callPool) callFor(ctx context.Context, d time.Duration, node, method string, req []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return p.call(ctx, node, laneCore, method, req)
}
