package proxy

import (
	"net/http"
	"net/netip"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
)

// request answers the request whose head was read, and reports whether the
// connection may go on.
func (c *conn) request() bool {
	c.cut.Store(false)
	again := c.p.dispatch(&c.party, c, c.w, c.count)
	return again && !c.w.req.Close
}

// dispatch finds the service that a request is for and lets an exchange answer
// it. count makes what the request came by count for the service, and reports
// whether that is allowed. It reports whether the client may send another
// request.
func (p *Proxy) dispatch(from *party, to downstream, w *work, count func(*target, time.Duration) bool) bool {
	req, now := &w.req, p.clock.now()
	if m := string(req.Method); m == http.MethodConnect || m == http.MethodTrace {
		return decline(to, w, nil, answer{status: http.StatusMethodNotAllowed, code: "invalid", message: "the method is not proxied"})
	}
	pl := p.plan.Load()
	group, ok := pl.routes.HTTP(from.port, req.Host, req.Path)
	if !ok {
		p.stats.unrouted.Add(1)
		return decline(to, w, nil, answer{status: http.StatusNotFound, code: "not_found", message: "no service takes this host and path"})
	}
	t := pl.targets[group]
	if !count(t, now) {
		t.events.connLimited.Add(1)
		return decline(to, w, t, answer{status: http.StatusServiceUnavailable, code: "exhausted",
			message: "the service has as many connections as it allows", retryAfter: time.Second, close: true})
	}
	client := from.clientOf(req)
	if a, refused := admit(t, client, req, now); refused {
		return decline(to, w, t, a)
	}
	t.budget.earn(t.spec.Retry.BudgetPercent)
	t.stats.inflight.Add(1)
	x := exchange{from: from, to: to, w: w, t: t, began: now, client: client}
	again := x.run()
	t.stats.inflight.Add(-1)
	x.report()
	return again
}

// admit asks the limits of a service's requests, and says what to answer when
// they refuse.
func admit(t *target, client netip.Addr, req *http1.Request, now time.Duration) (answer, bool) {
	limits := &t.spec.Limits
	for _, l := range [...]struct {
		perSecond int
		perClient bool
	}{{limits.RequestsPerSecond, false}, {limits.RequestsPerSecondPerClient, true}} {
		if l.perSecond == 0 {
			continue
		}
		wait, ok := time.Duration(0), false
		if l.perClient {
			wait, ok = t.client.take(client, now, l.perSecond)
		} else {
			wait, ok = t.rate.take(now, l.perSecond)
		}
		if !ok {
			t.events.rateLimited.Add(1)
			return answer{status: http.StatusTooManyRequests, code: "exhausted", message: "the service's request rate is used up", retryAfter: wait}, true
		}
	}
	if limits.MaxBodyMiB > 0 && req.Body == http1.BodyLength && req.Length > int64(limits.MaxBodyMiB)<<20 {
		t.events.tooLarge.Add(1)
		return answer{status: http.StatusRequestEntityTooLarge, code: "too_large", message: "the body is larger than the service allows"}, true
	}
	return answer{}, false
}

// decline answers a request that goes to no instance. A body that the client
// may be sending is not waited for.
func decline(to downstream, w *work, t *target, a answer) bool {
	a.close = a.close || w.req.Body != http1.BodyNone
	if t != nil {
		t.stats.count(a.status, 0)
	}
	return to.answer(a)
}
