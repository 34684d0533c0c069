package proxy

import (
	"bytes"
	"errors"
	"net/http"

	"github.com/pacelinehq/paceline/routing/http1"
)

var (
	errClientGone     = errors.New("the client has gone")
	errUpgrade        = errors.New("the instance switched protocols unasked")
	errTooManyInterim = errors.New("the instance sent too many interim answers")
)

// forward passes the instance's answer on to the client, and reports whether
// the client may send another request.
func (x *exchange) forward(c *upConn) bool {
	now := x.from.now()
	x.status, x.head = c.resp.Status, now-x.began
	took := now - x.attemptAt // the instance is not to blame for what was before
	c.inst.stats.count(x.status, took)
	if x.status == http.StatusSwitchingProtocols {
		if !x.mayUpgrade(c) {
			x.drop(c, unknownLatency)
			return x.failed(&failure{err: errUpgrade})
		}
		x.t.events.upgrades.Add(1)
		rest := x.keepSession()
		x.err = x.to.upgrade(x, c)
		rest()
		_ = c.Close()
		x.release(c, took)
		return false
	}
	// An answer that comes before the body was sent as a whole is the last on
	// its connections: what is left of the body is not read.
	early := x.upload != nil && !x.settleUpload(c)
	again, err := x.to.reply(x, c, early)
	x.joinUpload(c)
	x.err = err
	x.release(c, took)
	// The connection of an answer that was not passed on as a whole ends, and
	// the client's with it, so that nobody takes a part for the whole.
	if err != nil || early || c.resp.Close || c.resp.Body == http1.BodyUntilClose || c.reader.Buffered() > 0 {
		_ = c.Close()
		return again && err == nil
	}
	c.inst.park(c, x.from.now())
	return again
}

// mayUpgrade reports whether the client has asked to switch protocols, and
// nothing of its request is left on the way.
func (x *exchange) mayUpgrade(c *upConn) bool {
	return len(x.upgrade()) > 0 && (x.upload == nil || x.settleUpload(c))
}

// upgrade is what the client wants to switch to. Cleartext HTTP/2 is not passed
// on: it would be a tunnel past the routes and limits.
func (x *exchange) upgrade() []byte {
	up := x.w.req.Upgrade
	for list := range bytes.SplitSeq(up, []byte(",")) {
		if http1.EqualName(bytes.TrimSpace(list), "h2c") {
			return nil
		}
	}
	return up
}

// clientError marks an error of the client's side, which says nothing about
// the instance.
type clientError struct{ err error }

// Error says what the connection said.
func (e *clientError) Error() string { return "the client's connection: " + e.err.Error() }

// Unwrap makes it an [errClientGone].
func (e *clientError) Unwrap() []error { return []error{errClientGone, e.err} }

func asClientGone(err error) error {
	if err == nil {
		return nil
	}
	return &clientError{err}
}

// report counts the request and logs it.
func (x *exchange) report() {
	now := x.from.now()
	x.t.stats.count(x.status, x.head)
	x.t.stats.received.Add(uint64(max(x.received, 0)))
	if x.upload != nil {
		x.t.stats.sent.Add(uint64(max(x.upload.n, 0)))
	} else {
		x.t.stats.sent.Add(uint64(len(x.w.body)))
	}
	if x.err != nil && !errors.Is(x.err, errClientGone) {
		x.t.stats.failures.Add(1)
	}
	x.from.p.access.write(x, now)
}
