package proxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"math"
	"net"
	"slices"
	"sync"
	"syscall"
	"time"
)

// A machine that loses power or its cable says nothing: requests on idle
// connections to its instances would wait for an answer until their time is
// over. A stopped process is as quiet. So the janitor finds instances that
// answer nobody while somebody waits, and looks at them and at their node.
//
//	answers ── none for a while, and a request waits ──► in doubt
//	   ▲                                                       │ look
//	   ├─ it takes connections, and its node answers ◄─────────┤ (slow, and no more)
//	   │                                                       ▼
//	   └── an answer, or a later look ◄── out: those that wait are moved
//
// Nothing is looked at that answers, or that nobody waits for: there is no
// probing but by those who are in doubt, and one look at a node at a time.

// errSilent ends the wait for an instance that was found silent.
var errSilent = errors.New("the instance does not answer, and takes no connections or its node does not answer either")

// What a look finds.
type found int

const (
	foundOpen    found = iota // it takes connections; a node also answers
	foundRefused              // it refuses them, so the machine lives
	foundMute                 // it takes them and says nothing
	foundSilent               // nothing came back at all
)

var looksNames = [...]string{"answer", "refusal", "mute", "silence"}

// quiet is since when an instance has given no answer.
type quiet struct {
	answers uint64
	since   time.Duration
}

// dialling is a connection that is being made.
type dialling struct {
	since  time.Duration
	cancel context.CancelCauseFunc
}

// dial makes a connection, unless the instance is found silent meanwhile.
func (i *instance) dial(ctx context.Context, clk clock, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	d := &dialling{clk.now(), cancel}
	i.mu.Lock()
	if i.dials == nil {
		i.dials = map[*dialling]struct{}{}
	}
	i.dials[d] = struct{}{}
	i.mu.Unlock()
	dialer := net.Dialer{Timeout: timeout, KeepAlive: -1}
	nc, err := dialer.DialContext(ctx, "tcp", i.addr)
	i.mu.Lock()
	delete(i.dials, d)
	i.mu.Unlock()
	if err != nil && context.Cause(ctx) == errSilent { //nolint:errorlint // the very value
		err = errSilent
	}
	return nc, err
}

// awaitsMoved is what a connection awaits once its request was moved.
const awaitsMoved = math.MinInt64

// await notes that the head of an answer is awaited; negative is the time of a
// request that can not be sent again.
func (c *upConn) await(now time.Duration, repeatable bool) {
	since := max(int64(now), 1)
	if !repeatable {
		since = -since
	}
	c.awaits.Store(since)
}

// awaited notes that it is no longer awaited, and reports false when the
// connection was ended because the instance is silent.
func (c *upConn) awaited() bool { return c.awaits.Swap(0) != awaitsMoved }

// waits reports whether somebody waits for the instance since before a time:
// for a connection, or for an answer.
func (i *instance) waits(before time.Duration) bool {
	i.mu.Lock()
	for d := range i.dials {
		if d.since <= before {
			i.mu.Unlock()
			return true
		}
	}
	i.mu.Unlock()
	old := false
	i.dialled.each(func(c *upConn) {
		if c.inst != i {
			return
		}
		since := c.awaits.Load()
		old = old || since != 0 && since != awaitsMoved && max(since, -since) <= int64(before)
	})
	return old
}

// release ends the waits for a silent instance, so that the requests are sent
// to others; those that can not be sent again only with all.
func (i *instance) release(all bool) {
	i.mu.Lock()
	for d := range i.dials {
		d.cancel(errSilent)
	}
	i.mu.Unlock()
	i.dialled.each(func(c *upConn) {
		since := c.awaits.Load()
		if c.inst != i || since == 0 || since == awaitsMoved || since < 0 && !all {
			return
		}
		if c.awaits.CompareAndSwap(since, awaitsMoved) {
			_ = c.Conn.Close()
		}
	})
}

// looking is which nodes are being looked at, and when each may be again.
type looking struct {
	mu    sync.Mutex
	nodes map[string]time.Duration
}

// may reports whether a node may be looked at now, and keeps others from it.
func (l *looking) may(node string, now time.Duration, pl *plan) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nodes == nil {
		l.nodes = map[string]time.Duration{}
	}
	maps.DeleteFunc(l.nodes, func(name string, _ time.Duration) bool { _, is := pl.nodes[name]; return !is })
	if now < l.nodes[node] {
		return false
	}
	l.nodes[node] = math.MaxInt64
	return true
}

func (l *looking) done(node string, next time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.nodes[node] = next
}

// suspect is an instance of a node in doubt, and how many answers it had given
// when the look began.
type suspect struct {
	t       *target
	u       *upstream
	answers uint64
}

// answered reports whether it has given an answer since.
func (s suspect) answered() bool { return s.u.stats.requests.Load() != s.answers }

// lookWhereQuiet looks at the nodes of instances that answer nobody while
// somebody waits.
func (p *Proxy) lookWhereQuiet(pl *plan, now time.Duration) {
	doubt := map[string][]suspect{}
	for _, t := range pl.targets {
		for _, u := range t.all {
			n := u.stats.requests.Load()
			if n != u.quiet.answers || u.stats.inflight.Load() == 0 {
				u.quiet = quiet{n, now}
			}
			if now-u.quiet.since >= p.waits.doubt && u.waits(now-p.waits.doubt) {
				doubt[u.Node] = append(doubt[u.Node], suspect{t, u, n})
			}
		}
	}
	for node, list := range doubt {
		if p.looking.may(node, now, pl) {
			p.look(pl, node, list)
		}
	}
}

// look asks a node, and knocks at those of its instances that are in doubt.
func (p *Proxy) look(pl *plan, node string, doubt []suspect) {
	select {
	case p.probes <- struct{}{}:
	default: // too many under way; the next tick tries again
		p.looking.done(node, 0)
		return
	}
	doubt = doubt[:min(len(doubt), maxKnocks)]
	var all []suspect
	for _, t := range pl.targets {
		for _, u := range t.all {
			if u.Node == node {
				all = append(all, suspect{t, u, u.stats.requests.Load()})
			}
		}
	}
	began := p.clock.now()
	p.wg.Go(func() {
		knocks := make([]found, len(doubt))
		host := foundOpen
		defer func() {
			next := p.clock.now()
			if host == foundOpen || host == foundRefused { // the instances are slow, and may be so for long
				next += lookAgain
			}
			p.looking.done(node, next)
			<-p.probes
		}()
		var wg sync.WaitGroup
		for k, s := range doubt {
			wg.Go(func() { knocks[k] = p.knock(s.u.addr, p.waits.look) })
		}
		wg.Go(func() { host = p.askNode(pl.nodes[node].api) })
		wg.Wait()
		if p.life.Err() == nil {
			p.judge(doubt, all, knocks, host)
			if host == foundMute {
				p.judgeFrozen(all, began)
			}
		}
	})
}

// judge draws the conclusions of a look.
func (p *Proxy) judge(doubt, all []suspect, knocks []found, host found) {
	p.stats.looks[host].Add(1)
	silent := func(f found) bool { return f == foundSilent }
	if silent(host) && !slices.ContainsFunc(knocks, func(f found) bool { return !silent(f) }) &&
		!slices.ContainsFunc(all, suspect.answered) {
		for _, s := range all { // what else the machine has need not be tried
			p.silence(s, true, "nothing on its node answers")
		}
		p.moveAll(all)
		return
	}
	var out []suspect
	for k, f := range knocks {
		s, why := doubt[k], ""
		switch {
		case s.answered(): // meanwhile
		case silent(f):
			why = "no answer and no connection"
		case f == foundRefused:
			why = "no answer, and connections are refused"
		}
		if why != "" {
			p.silence(s, false, why)
			out = append(out, s)
		}
	}
	p.moveAll(out)
}

// judgeFrozen draws the conclusions of a look at a node whose system takes
// connections for a process that says nothing: the instances that have given no
// answer since the look began are as frozen, if somebody waited all the time.
func (p *Proxy) judgeFrozen(all []suspect, began time.Duration) {
	var out []suspect
	for _, s := range all {
		if !s.answered() && s.u.waits(began) {
			p.silence(s, false, "no answer, and its node gives none either")
			out = append(out, s)
		}
	}
	p.moveAll(out)
}

// moveAll moves the requests that wait for silent instances, by a plan that
// sends them to none of these.
func (p *Proxy) moveAll(list []suspect) {
	if len(list) == 0 {
		return
	}
	p.replanNow()
	for _, s := range list {
		s.u.release(false)
	}
}

// silence takes an instance that was found silent out of the plans.
func (p *Proxy) silence(s suspect, gone bool, why string) {
	e := &s.u.ejection
	e.silent.Store(true)
	if gone {
		e.gone.Store(true)
	}
	p.eject(s.t, s.u.instance, min(lookAgain, s.t.spec.Health.EjectFor.Std()), gone, why)
	if !e.out.Load() { // the cap forbids it: it is judged anew at the next look
		e.silent.Store(false)
	}
}

// knock looks whether an address takes connections. It sends more than one
// request for a connection, since one may be lost on a bad network.
func (p *Proxy) knock(addr string, within time.Duration) found {
	nc, f := p.open(addr, within)
	if nc != nil {
		_ = nc.Close()
	}
	return f
}

func (p *Proxy) open(addr string, within time.Duration) (net.Conn, found) {
	ctx, cancel := context.WithTimeout(p.life, within)
	defer cancel()
	type outcome struct {
		nc  net.Conn
		err error
	}
	results, under := make(chan outcome), 0
	try := func() {
		under++
		p.wg.Go(func() {
			d := net.Dialer{KeepAlive: -1}
			nc, err := d.DialContext(ctx, "tcp", addr)
			results <- outcome{nc, err}
		})
	}
	try()
	again := time.NewTicker(knockAgain)
	defer again.Stop()
	var nc net.Conn
	f := foundSilent
	for under > 0 {
		select {
		case <-again.C:
			if f == foundSilent && ctx.Err() == nil {
				try()
			}
			continue
		case r := <-results:
			under--
			switch {
			case r.err == nil && nc == nil:
				nc, f = r.nc, foundOpen
				cancel() // the others
			case r.err == nil:
				_ = r.nc.Close()
			case errors.Is(r.err, syscall.ECONNREFUSED) && f == foundSilent:
				f = foundRefused
				cancel()
			}
		}
	}
	return nc, f
}

// askNode asks a node's API whether its process runs. Any byte tells, and so
// does the end of the connection: it need not be an answer that we understand.
func (p *Proxy) askNode(api string) found {
	if api == "" {
		return foundOpen // there is nobody to ask
	}
	nc, f := p.open(api, p.waits.look)
	if nc == nil {
		return f
	}
	defer nc.Close() //nolint:errcheck // it was for a look only
	stop := context.AfterFunc(p.life, func() { _ = nc.Close() })
	defer stop()
	_ = nc.SetDeadline(time.Now().Add(p.waits.ask))
	if _, err := io.WriteString(nc, "GET /livez HTTP/1.1\r\nHost: "+api+"\r\nConnection: close\r\n\r\n"); err != nil {
		return foundMute
	}
	var b [1]byte
	if _, err := nc.Read(b[:]); isTimeout(err) {
		return foundMute
	}
	return foundOpen
}
