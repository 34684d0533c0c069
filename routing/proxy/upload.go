package proxy

import (
	"sync/atomic"
	"time"
)

// upload sends a body that is too large to be kept while the answer is already
// waited for: an instance may refuse it before it has come to its end.
type upload struct {
	done chan struct{}
	n    int64
	err  error
	// gone says that the client's side failed, and not because the upload was
	// interrupted.
	gone        bool
	interrupted atomic.Bool
}

// startUpload begins to send the body to the instance. The reader of the
// client's connection belongs to the upload until joinUpload has returned.
func (x *exchange) startUpload(c *upConn) {
	u := &upload{done: make(chan struct{})}
	x.upload = u
	req, stall := &x.w.req, x.t.spec.Timeouts.Stall.Std()
	limit := int64(x.t.spec.Limits.MaxBodyMiB) << 20
	go func() {
		defer close(u.done)
		n, gone, err := x.to.sendBody(c, req, stall, limit)
		u.n, u.gone, u.err = n, gone && !u.interrupted.Load(), err
		if u.gone {
			// The instance must not take a part of the body for the whole,
			// and whoever waits for its answer need not wait any longer.
			_ = c.Close()
		}
	}()
}

// ended reports whether the body has been sent, or can not be.
func (u *upload) ended() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// joinUpload ends an upload that is under way and waits for it.
//
// The instance's connection is closed as well: the upload may be waiting for an
// instance that does not read.
func (x *exchange) joinUpload(c *upConn) {
	u := x.upload
	if u == nil {
		return
	}
	if !u.ended() {
		u.interrupted.Store(true)
		x.to.interruptBody()
		_ = c.Close()
		<-u.done
	}
}

// settleUpload reports whether the whole body has been sent. It waits a moment
// for one whose answer has begun: most bodies are at their end by then, and the
// connections can go on.
func (x *exchange) settleUpload(c *upConn) bool {
	if !x.upload.ended() {
		if c.resp.Status >= 300 || c.resp.Close {
			return false
		}
		t := time.NewTimer(uploadGrace)
		defer t.Stop()
		select {
		case <-x.upload.done:
		case <-t.C:
			return false
		}
	}
	return x.upload.err == nil
}
