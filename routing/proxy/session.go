package proxy

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/http1"
	"github.com/pacelinehq/paceline/routing/session"
)

// Sessions assigns clients to instances; [session.Manager] does.
type Sessions interface {
	// Keys seal and open the cookies; nil before there are any.
	Keys() *session.Keys
	// Use takes the keys of a state.
	Use(s *fsm.State)
	// AssignAt returns where a session lives. One that the cluster does not
	// know lives where it is already, if that can be; at is zero for nowhere.
	AssignAt(ctx context.Context, group string, key [16]byte, at session.Place) (fsm.Assignment, error)
	// Touch notes that a session was used.
	Touch(group string, key [16]byte)
}

// sessionField tells the instance the session's id.
const sessionField = "Paceline-Session"

// provisionalTTL is how long a session that the cluster has not agreed on may
// go without asking again.
const provisionalTTL = 30 * time.Second

// sessionState is what one request knows of its session.
//
//	no cookie ──► assigned by the cluster ──► cookie
//	                 └─ no quorum ──► hashed ──► provisional cookie ──► assigned later
//	cookie ──► its instance lives ──► that instance
//	              └─ it has ended ──► assigned anew ──► cookie
type sessionState struct {
	ticket session.Ticket
	known  bool // the ticket names a session
	placed bool // the ticket names an instance
	seal   bool // the answer carries a new cookie
	failed bool // its instance did not answer: another is asked this time
	refuse bool // there is no quorum, and the service wants none without
	id     string
}

// openSession finds out which session the request belongs to.
func (x *exchange) openSession() {
	st := &x.t.spec.Stickiness
	if st.Strategy == fsm.StickyStateless {
		return
	}
	cookie := http1.CookieValue(x.w.req.Fields, st.CookieName)
	s := &x.session
	if st.Strategy != fsm.StickyTable {
		// The cookie is nothing but the session's id: whoever makes one up
		// only makes up a session.
		if id := string(cookie); session.ValidID(id) {
			s.id = id
		} else {
			s.id, s.seal = newSessionID(), true
		}
		return
	}
	if cookie == nil {
		return
	}
	keys := x.from.p.sessionKeys()
	if keys == nil {
		return
	}
	t, err := keys.Open(x.t.group, cookie, x.from.p.unix(x.began))
	if err != nil {
		x.t.events.badCookies.Add(1)
		return
	}
	s.ticket, s.known, s.placed = t, true, true
}

// newSessionID makes the id of a session: its key, in hexadecimal digits.
func newSessionID() string {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails: it ends the process instead
	return hex.EncodeToString(key[:])
}

// ofSession returns the instance that a sticky session lives on, or nil when
// the balancer is to choose.
func (x *exchange) ofSession() *upstream {
	s := &x.session
	if x.t.spec.Stickiness.Strategy != fsm.StickyTable || s.failed || x.from.p.sessionKeys() == nil {
		return nil // before there are keys no cookie could tell of the session
	}
	if s.placed {
		u := x.t.tags[s.ticket.Instance]
		lives := u != nil && u.Incarnation == int(s.ticket.Incarnation)
		if lives && !s.ticket.Provisional {
			if x.late() && !x.refresh(u) {
				return x.assign()
			}
			if u.ejection.out.Load() {
				return nil // it keeps the session, and another answers for now
			}
			return u
		}
	}
	return x.assign()
}

// ttl is how long a session lives without use, in the unit of cookies.
func (x *exchange) ttl() uint32 { return uint32(x.t.spec.Stickiness.TTL.Std() / time.Second) }

// late reports whether the session's cookie is due to be made anew: it is in the
// second half of its time, or of a time that was longer than it is now.
func (x *exchange) late() bool {
	ttl, left := x.ttl(), x.session.ticket.Expires-x.from.p.unix(x.began)
	return !x.session.seal && (2*left <= ttl+1 || left > ttl)
}

// refresh gives the session a new cookie and notes its use. It reports false when
// the cluster knows nothing of it, or has it elsewhere: a note would be lost.
func (x *exchange) refresh(u *upstream) bool {
	s, p := &x.session, x.from.p
	row, ok := p.cfg.Cluster.State().Session(x.t.group, s.ticket.Session)
	if !ok || row.Instance != u.Instance {
		return false
	}
	s.ticket.Expires, s.seal = p.unix(x.began)+x.ttl(), true
	p.cfg.Sessions.Touch(x.t.group, s.ticket.Session)
	return true
}

// keepSession notes the use of a sticky session again and again until it is told
// to rest: a tunnel may last longer than a session that nobody uses, and its
// instance must not be taken for one without sessions.
func (x *exchange) keepSession() (rest func()) {
	s := &x.session
	if x.t.spec.Stickiness.Strategy != fsm.StickyTable || !s.placed || s.ticket.Provisional {
		return func() {}
	}
	sessions, group, key, every := x.from.p.cfg.Sessions, x.t.group, s.ticket.Session, x.t.spec.Stickiness.TTL.Std()/4
	var mu sync.Mutex // the first may be due before t is known
	mu.Lock()
	defer mu.Unlock()
	over := false
	var t *time.Timer
	t = time.AfterFunc(every, func() {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			sessions.Touch(group, key)
			t.Reset(every)
		}
	})
	return func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
		t.Stop()
	}
}

// assign asks the cluster for the session's instance.
func (x *exchange) assign() *upstream {
	s, p := &x.session, x.from.p
	if !s.known {
		_, _ = rand.Read(s.ticket.Session[:]) // never fails: it ends the process instead
		s.known = true
	}
	ctx, cancel := context.WithTimeout(p.life, assignTimeout)
	defer cancel()
	a, err := p.cfg.Sessions.AssignAt(ctx, x.t.group, s.ticket.Session, x.place())
	if err != nil {
		return x.provisional(err)
	}
	tag := session.InstanceTag(a.Instance)
	u := x.t.tags[tag]
	if u == nil { // the plan is a moment behind the state
		if t := p.replanned(x.t.group); t != nil {
			x.t = t
			u = t.tags[tag]
		}
	}
	s.ticket.Instance, s.ticket.Incarnation, s.ticket.Epoch = tag, uint32(a.Incarnation), a.Epoch
	s.ticket.Expires, s.ticket.Provisional = p.unix(p.clock.now())+x.ttl(), false
	s.seal, s.placed = true, true
	return u
}

// place is where the session's cookie says that it is, if that process still
// serves: the client may have something there already, whether the cluster knows
// of it or not.
func (x *exchange) place() session.Place {
	s := &x.session
	if !s.placed {
		return session.Place{}
	}
	u := x.t.tags[s.ticket.Instance]
	if u == nil || u.Incarnation != int(s.ticket.Incarnation) {
		return session.Place{}
	}
	return session.Place{Instance: u.Instance, Incarnation: u.Incarnation}
}

// provisional places a session without the cluster, when it can not agree:
// every node hashes it to the same instance, as long as they see the same
// ones. The next request asks the cluster again.
func (x *exchange) provisional(err error) *upstream {
	s := &x.session
	if kind := fsm.KindOf(err); kind != fsm.NoLeader && kind != fsm.UnknownOutcome {
		s.placed = false
		return nil // no instance takes sessions: the request waits for one
	}
	if x.t.spec.Stickiness.RefuseWithoutQuorum {
		s.refuse = true
		return nil
	}
	u := x.t.tags[s.ticket.Instance]
	if !s.placed || u == nil || u.Incarnation != int(s.ticket.Incarnation) { // it has no place yet
		u = x.t.hashed(s.ticket.Session)
	}
	if u == nil {
		return nil
	}
	s.ticket.Instance, s.ticket.Incarnation = session.InstanceTag(u.Instance), uint32(u.Incarnation)
	s.ticket.Expires = x.from.p.unix(x.began) + uint32(provisionalTTL/time.Second)
	s.ticket.Provisional, s.placed, s.seal = true, true, true
	return u
}

// hashed returns the instance with the highest hash for a session (rendezvous
// hashing), of those that may get requests.
func (t *target) hashed(key [16]byte) (best *upstream) {
	var most uint64
	seed := xxh3.Hash(key[:])
	for _, u := range t.ups {
		if h := xxh3.HashStringSeed(u.Instance, seed); best == nil || h > most {
			best, most = u, h
		}
	}
	return best
}

var errRefused = errors.New("the cluster has no quorum to place a new session")

// unix is a time of the proxy's clock in seconds of Unix time.
func (p *Proxy) unix(at time.Duration) uint32 {
	return uint32(p.clock.base.Add(at).Unix())
}

func (p *Proxy) sessionKeys() *session.Keys {
	if p.cfg.Sessions == nil {
		return nil
	}
	return p.cfg.Sessions.Keys()
}

// replanned returns a group's target by the newest state, for which it makes a
// plan if there is none yet.
func (p *Proxy) replanned(group string) *target {
	if p.plan.Load().index < p.cfg.Cluster.State().Index() {
		p.replanNow()
	}
	return p.plan.Load().targets[group]
}

// appendSessionField tells the instance which session the request is of.
func (x *exchange) appendSessionField(b []byte) []byte {
	s := &x.session
	switch {
	case s.id != "":
		return http1.AppendField(b, sessionField, s.id)
	case s.known:
		b = append(b, sessionField+": "...)
		b = hex.AppendEncode(b, s.ticket.Session[:])
		return append(b, "\r\n"...)
	}
	return b
}

// appendCookie appends the field that sets the session's cookie, if it is to
// be set.
func (x *exchange) appendCookie(b []byte) []byte {
	if !x.session.seal {
		return b
	}
	mark := len(b)
	b = append(b, "Set-Cookie: "...)
	value := len(b)
	if b = x.appendSetCookie(b); len(b) == value {
		return b[:mark]
	}
	return append(b, "\r\n"...)
}

// appendSetCookie appends the value of that field.
func (x *exchange) appendSetCookie(b []byte) []byte {
	s, st := &x.session, &x.t.spec.Stickiness
	if !s.seal {
		return b
	}
	keys := x.from.p.sessionKeys()
	if st.Strategy == fsm.StickyTable && keys == nil {
		return b
	}
	b = append(append(b, st.CookieName...), '=')
	if st.Strategy == fsm.StickyTable {
		b = keys.Append(b, x.t.group, &s.ticket)
	} else {
		b = append(b, s.id...)
	}
	b = append(b, "; Path="...)
	if p := x.t.spec.PathPrefix; p != "" {
		b = append(b, p...)
	} else {
		b = append(b, '/')
	}
	b = append(b, "; Max-Age="...)
	b = strconv.AppendInt(b, int64(st.TTL.Std()/time.Second), 10)
	b = append(b, "; HttpOnly; SameSite=Lax"...)
	if x.secure() && !st.Insecure {
		b = append(b, "; Secure"...)
	}
	return b
}

// refusedSession answers a new session that can not be placed.
func (x *exchange) refusedSession() bool {
	x.err = errRefused
	return x.own(answer{status: http.StatusServiceUnavailable, code: "no_leader", message: errRefused.Error(), retryAfter: time.Second})
}
