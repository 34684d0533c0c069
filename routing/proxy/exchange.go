package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/http1"
)

// exchange is one request, from its head to the end of its answer.
//
//	choose ──► connect ──► send ──► head of the answer ──► forward
//	   ▲          │          │               │
//	   └──────────┴──────────┴───────────────┘ failed or a status to retry,
//	      another instance is left, the request is safe to send again, and
//	      the budget has a retry left
type exchange struct {
	from   *party
	to     downstream
	w      *work
	t      *target
	began  time.Duration
	client netip.Addr // which may be behind a proxy of ours

	replay    bool // the body is in w.body: the request can be sent again
	sent      bool // a part of a body that is not kept has been read
	worked    bool // an instance has had the request, and may have acted on it
	retries   int  // since the beginning, or the last wait of outlast
	before    int  // retries before that
	wait      patience
	session   sessionState
	up        *upstream
	attemptAt time.Duration // when the present attempt began
	upload    *upload

	status   int
	head     time.Duration // from the beginning to the head of the answer
	received int64         // bytes of the answer's body
	err      error
}

// failure is why an attempt has no answer.
type failure struct {
	err error
	// stale says that a connection that was used before has ended without a
	// byte: the instance closed it while it was idle.
	stale bool
	// refused says that there was no connection at all, so that the instance can
	// not have acted on the request.
	refused bool
	// moved says that the instance was found silent while it was waited for.
	moved bool
	// own says that it was for want of something of this machine's.
	own bool
}

// noConnection is the failure of an attempt that got none.
func noConnection(err error) *failure {
	f := &failure{err: err, refused: true, moved: errors.Is(err, errSilent)}
	for _, own := range []error{context.Canceled, syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		f.own = f.own || errors.Is(err, own)
	}
	return f
}

// blames reports whether the failure counts against the instance.
func (f *failure) blames() bool { return !f.moved && !f.own }

// run sends the request until there is an answer, forwards it, and reports
// whether the client's connection may go on.
func (x *exchange) run() bool {
	if err := x.keepBody(); err != nil {
		return x.bodyFailed(err)
	}
	x.openSession()
	x.w.pick.Tried = x.w.tried[:0:maxAttempts]
	x.w.pick.Now = x.began
	for {
		k, u := x.choose()
		switch {
		case x.session.refuse:
			return x.refusedSession()
		case u == nil && x.retries > 0 && x.outlast(errNobodyFree):
			continue
		case u == nil:
			return x.unserved()
		}
		x.up = u
		k, u, c, fail := x.firstAttempt(k, u)
		x.up = u
		if fail != nil && fail.stale && x.repeatable() {
			x.t.claim(u.instance)
			c, fail = x.attempt(u, true)
		}
		x.worked = x.worked || fail == nil || !fail.refused
		switch {
		case fail != nil && x.upload != nil && x.upload.gone:
			return x.bodyFailed(x.upload.err)
		case fail == nil && !x.retryStatus(c, k):
			return x.forward(c)
		case fail == nil: // another instance is asked
		case !x.again(fail, k) && !x.outlast(fail):
			return x.failed(fail)
		}
	}
}

// keepBody reads a small body as a whole, so that it can be sent more than
// once, and together with the head.
func (x *exchange) keepBody() (err error) {
	req := &x.w.req
	x.w.body = nil
	switch {
	case req.Body == http1.BodyNone:
		x.replay = true
	case req.Body == http1.BodyLength && req.Length <= replayLimit && !req.ExpectContinue:
		x.w.body, err = x.to.readSmall(req.Length)
		x.replay = err == nil
	}
	return err
}

// repeatable reports whether sending the request again can do no harm: its
// method is idempotent (RFC 9110, 9.2.2) and its body is kept.
func (x *exchange) repeatable() bool {
	if !x.replay {
		return false
	}
	switch string(x.w.req.Method) {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// attempt sends the request to an instance and reads the head of the answer.
// It uses an idle connection, unless a fresh one is asked for.
func (x *exchange) attempt(u *upstream, fresh bool) (*upConn, *failure) {
	p := x.from.p
	x.attemptAt = p.clock.now()
	c, err := x.t.connect(p, u, fresh)
	if err != nil {
		x.t.release(u.instance, x.attemptAt, unknownLatency)
		return nil, noConnection(err)
	}
	fail := x.exchangeHeads(c)
	switch {
	case fail == nil:
		return c, nil
	case isTimeout(fail.err): // it is slow, and how slow is known
		x.drop(c, x.from.now()-x.attemptAt)
	default:
		x.drop(c, unknownLatency)
	}
	return nil, fail
}

// exchangeHeads sends the request, or its head while the body follows, and
// reads the head of the answer.
func (x *exchange) exchangeHeads(c *upConn) *failure {
	now := x.from.now()
	x.w.up = x.appendHead(x.w.up[:0])
	if x.replay {
		x.w.up = append(x.w.up, x.w.body...)
	}
	c.writeIn(now, x.t.spec.Timeouts.Stall.Std())
	if _, err := c.Conn.Write(x.w.up); err != nil {
		return &failure{err: err, stale: c.used}
	}
	wait := x.t.answerWait()
	c.readIn(now, wait)
	if !x.replay {
		x.sent = true
		c.moved.Store(int64(now))
		x.startUpload(c)
	}
	c.await(now, x.repeatable())
	fail := x.readHead(c, wait)
	if !c.awaited() {
		return &failure{err: errSilent, moved: true}
	}
	return fail
}

// readHead reads the head of the final answer and passes interim ones on.
func (x *exchange) readHead(c *upConn, wait time.Duration) *failure {
	interim := func() error {
		if x.to.interim(x, c) != nil {
			return errClientGone
		}
		return nil
	}
	fail := c.answerHead(x.w.req.Method, interim)
	for fail != nil && isTimeout(fail.err) && x.uploading(c, wait) {
		fail = c.answerHead(x.w.req.Method, interim)
	}
	return fail
}

// uploading reports whether a body was still on its way within the wait for the
// answer, which then begins anew: an instance that reads is not slow to answer.
func (x *exchange) uploading(c *upConn, wait time.Duration) bool {
	if x.upload == nil {
		return false
	}
	left := time.Duration(c.moved.Load()) + wait - x.from.now()
	if left <= 0 {
		return false
	}
	c.readBy = 0
	c.readIn(x.from.now(), left)
	return true
}

// drop closes a connection whose exchange has failed.
func (x *exchange) drop(c *upConn, latency time.Duration) {
	_ = c.Close()
	x.joinUpload(c)
	x.release(c, latency)
}

// release ends what counts as in flight at an instance.
func (x *exchange) release(c *upConn, latency time.Duration) {
	x.t.release(c.inst, x.from.now(), latency)
}

// retryStatus reports whether an answer is thrown away because another
// instance may do better.
func (x *exchange) retryStatus(c *upConn, k int) bool {
	status := c.resp.Status
	if status < len(x.t.retryOn) && x.t.retryOn[status] {
		x.from.p.noteFailure(x.t, c.inst, false)
		if x.repeatable() && x.spend(k) {
			c.inst.stats.count(status, x.from.now()-x.attemptAt)
			x.discard(c)
			return true
		}
		return false
	}
	c.inst.ejection.succeeded()
	return false
}

// discard reads a small answer to its end, to keep the connection, and closes
// a large one's.
func (x *exchange) discard(c *upConn) {
	small := c.resp.Body == http1.BodyNone || c.resp.Body == http1.BodyLength && c.resp.Length <= drainLimit
	if small && !c.resp.Close {
		_, err := c.reader.CopyBody(io.Discard, c.resp.Body, c.resp.Length, http1.CopyOptions{})
		if err == nil && c.reader.Buffered() == 0 {
			x.release(c, unknownLatency) // an error may come fast
			c.inst.park(c, x.from.now())
			return
		}
	}
	x.drop(c, unknownLatency)
}

// again notes a failed attempt, and reports whether there is to be another.
func (x *exchange) again(fail *failure, k int) bool {
	if errors.Is(fail.err, errClientGone) {
		return false
	}
	if fail.blames() {
		x.from.p.noteFailure(x.t, x.up.instance, fail.refused)
	}
	if !(fail.refused && !x.sent || x.repeatable()) {
		return false
	}
	return x.more(k, fail.moved)
}

// errNobodyFree is the failure of a request that some instances have refused, when
// the others are full.
var errNobodyFree = &failure{refused: true}

// outlast waits when no attempt has found an instance that takes a connection, and
// reports whether to begin anew.
func (x *exchange) outlast(fail *failure) bool {
	if x.worked || !fail.refused || fail.own || !x.from.p.outlast(x.t, &x.wait) {
		return false
	}
	t := x.from.p.plan.Load().targets[x.t.group]
	if t == nil {
		return false
	}
	x.t, x.before, x.retries, x.session.failed = t, x.before+x.retries, 0, false
	x.w.pick.Tried = x.w.tried[:0:maxAttempts]
	return true
}

// replan takes the service as the newest plan has it: its instances may have been
// replaced, or found silent together with the request's. It returns the place that
// this one has now; no instance before it has been tried.
func (x *exchange) replan(k int) int {
	t := x.from.p.plan.Load().targets[x.t.group]
	if t == nil || t == x.t {
		return k
	}
	x.t = t
	x.w.pick.Tried = x.w.tried[:0:maxAttempts]
	return slices.IndexFunc(t.ups, func(u *upstream) bool { return u.instance == x.up.instance })
}

// spend asks for one more attempt, on another instance than the last.
func (x *exchange) spend(k int) bool { return x.more(k, false) }

// more is spend; free is an attempt that takes the place of one that nobody
// has worked on, which therefore is no additional load on the service.
func (x *exchange) more(k int, free bool) bool {
	if k < 0 { // the session's; the balancer must not choose it again
		k = slices.Index(x.t.ups, x.up)
	}
	k = x.replan(k)
	if k >= 0 && !slices.Contains(x.w.pick.Tried, int32(k)) {
		x.w.pick.Tried = append(x.w.pick.Tried, int32(k))
	}
	x.session.failed = true
	if x.retries+1 >= min(x.t.spec.Retry.Attempts, maxAttempts) || x.t.set.Len() <= len(x.w.pick.Tried) {
		return false
	}
	if !free && !x.t.budget.spend() {
		x.t.events.noBudget.Add(1)
		return false
	}
	if free {
		x.t.events.moved.Add(1)
	}
	x.retries++
	x.t.events.retries.Add(1)
	return true
}

// failed answers a request that no instance has answered.
func (x *exchange) failed(fail *failure) bool {
	x.err = fail.err
	if errors.Is(fail.err, errClientGone) {
		x.t.events.clientGone.Add(1)
		return false
	}
	a := answer{status: http.StatusBadGateway, code: "unavailable"}
	var timeout net.Error
	switch {
	case fail.refused && x.from.p.hopeless(x.t):
		return x.unserved()
	case fail.refused:
		a.message, a.retryAfter = "no connection to an instance could be made", time.Second
	case errors.Is(fail.err, os.ErrDeadlineExceeded), errors.As(fail.err, &timeout) && timeout.Timeout():
		a.status, a.message = http.StatusGatewayTimeout, "the instance did not answer in time"
	default:
		a.message = "the instance broke the connection off"
	}
	return x.own(a)
}

// unserved answers a request for which there is no instance.
func (x *exchange) unserved() bool {
	a := answer{
		status: http.StatusServiceUnavailable, code: "unavailable", message: "no instance of the service can take the request",
		retryAfter: time.Second,
	}
	if x.from.p.hopeless(x.t) {
		a.message = "the service is to have no instances: its group has maxSize 0 or is being deleted"
	}
	return x.own(a)
}

// own sends an answer of the proxy itself.
func (x *exchange) own(a answer) bool {
	x.status = a.status
	x.head = x.from.now() - x.began
	a.close = a.close || x.sent || !x.replay
	return x.to.answer(a)
}

// bodyFailed answers a request whose body did not arrive.
func (x *exchange) bodyFailed(err error) bool {
	x.err = asClientGone(err)
	var bad *http1.Error
	switch {
	case errors.As(err, &bad):
		if bad.Status == http.StatusRequestEntityTooLarge {
			x.t.events.tooLarge.Add(1)
		}
		return x.own(answer{status: bad.Status, code: "invalid", message: bad.Reason, close: true})
	case errors.Is(err, os.ErrDeadlineExceeded):
		return x.own(answer{status: http.StatusRequestTimeout, code: "timeout", message: "the body did not arrive in time", close: true})
	}
	x.t.events.clientGone.Add(1)
	return false
}

// choose picks an instance: that of the session, or the balancer's. When there
// is none it waits for one. The request counts as in flight at the instance
// from then on.
func (x *exchange) choose() (int, *upstream) {
	u := x.ofSession()
	if x.session.refuse {
		return -1, nil
	}
	if u != nil {
		x.t.claim(u.instance)
		return -1, u
	}
	r := &x.w.pick
	switch {
	case x.session.id != "" && x.t.spec.Stickiness.Strategy == fsm.StickyHash:
		r.Hash = xxh3.HashString(x.session.id)
	case x.retries == 0:
		r.Hash = x.t.hash.of(x.client, &x.w.req)
	}
	k, u := x.t.pick(r)
	if u != nil || x.retries > 0 {
		return k, u
	}
	return x.await()
}

// await holds a request until there is an instance for it.
func (x *exchange) await() (k int, u *upstream) {
	k = -1
	x.from.p.hold(x.t, &x.wait, func(woken bool) bool {
		k, u = x.retarget(woken)
		return u != nil || k == goneTarget || x.session.refuse
	})
	return k, u
}

// goneTarget is the place of an instance of a service that is there no more.
const goneTarget = -2

// retarget takes the service as the newest plan has it, and picks again. A
// sticky session that has waited gets its place first: its very first request
// would else go to an instance that the next one does not.
func (x *exchange) retarget(woken bool) (int, *upstream) {
	t := x.from.p.plan.Load().targets[x.t.group]
	if t == nil {
		return goneTarget, nil
	}
	x.t = t
	if woken {
		if u := x.ofSession(); u != nil || x.session.refuse {
			if u != nil {
				x.t.claim(u.instance)
			}
			return -1, u
		}
	}
	x.w.pick.Tried = x.w.tried[:0:maxAttempts]
	return x.t.pick(&x.w.pick)
}
