package proxy_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
	"github.com/pacelinehq/paceline/routing/session"
)

// cookieSecret is the secret of the fleets' first key.
var cookieSecret = [session.KeyBytes]byte{1, 2, 3}

// newStickyFleet is a fleet whose service has sessions, and a real manager of
// sessions; b, c and d are its instances, which answer with their names.
func newStickyFleet(t *testing.T, st fsm.Stickiness, more ...func(*fsm.Service)) *fleet {
	t.Helper()
	s := fsm.Service{Stickiness: st, Balancer: fsm.Balancer{Policy: fsm.BalanceRoundRobin}}
	for _, change := range more {
		change(&s)
	}
	f := newSessionFleet(t, s)
	for _, id := range []string{"b", "c", "d"} {
		f.script(id, named(id))
	}
	return f
}

// newSessionFleet is a fleet with a real manager of sessions.
func newSessionFleet(t *testing.T, s fsm.Service) *fleet {
	t.Helper()
	return newFleet(t, s, withConfig(func(cfg *proxy.Config) {
		c := cfg.Cluster.(*cluster)
		c.Must(fsm.RotateSessionKeys{ID: 1, Secret: cookieSecret[:]})
		m := session.NewManager(c, nil)
		t.Cleanup(m.Close)
		cfg.Sessions, cfg.Proposer = m, c
	}))
}

// named answers each request with a name and with the session that the proxy
// said it is of.
func named(id string) func(*rawConn) {
	return func(c *rawConn) {
		for h := c.head(); h != ""; h = c.head() {
			of := ""
			if _, rest, ok := strings.Cut(h, "Paceline-Session: "); ok {
				of, _, _ = strings.Cut(rest, "\r\n")
			}
			c.say("HTTP/1.1 200 OK\r\nX-Session: " + of + "\r\nContent-Length: 1\r\n\r\n" + id)
		}
	}
}

// visit sends a request with a cookie; got is the cookie that the answer sets,
// and nil when it sets none.
func (f *fleet) visit(cookie string) (r reply, got *http.Cookie) {
	f.t.Helper()
	request := "GET / HTTP/1.1\r\nHost: a.test\r\n"
	if cookie != "" {
		request += "Cookie: x=1; paceline=" + cookie + "\r\n"
	}
	r = f.ask(request + "\r\n")
	for _, c := range r.Cookies() {
		if c.Name == "paceline" {
			got = c
		}
	}
	return r, got
}

// first makes a new session and returns its instance and cookie.
func (f *fleet) first() (instance, cookie string) {
	f.t.Helper()
	r, c := f.visit("")
	if r.StatusCode != 200 || c == nil {
		f.t.Fatalf("a new session got %d and the cookie %v", r.StatusCode, c)
	}
	return r.body, c.Value
}

// stays visits several times and wants one instance, and no new cookie.
func (f *fleet) stays(cookie, instance string) {
	f.t.Helper()
	for range 6 {
		r, c := f.visit(cookie)
		r.want(f.t, 200, instance)
		if c != nil {
			f.t.Fatalf("a session that is where it was got the cookie %v", c)
		}
	}
}

// ticket opens a cookie.
func ticket(t testing.TB, cookie string) session.Ticket {
	t.Helper()
	k, err := session.NewKeys([]session.Secret{{ID: 1, Key: cookieSecret}})
	if err != nil {
		t.Fatal(err)
	}
	opened, err := k.Open("web", []byte(cookie), uint32(time.Now().Unix()))
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

// seal makes the cookie of a ticket.
func seal(t testing.TB, group string, secret session.Secret, change func(*session.Ticket), of session.Ticket) string {
	t.Helper()
	k, err := session.NewKeys([]session.Secret{secret})
	if err != nil {
		t.Fatal(err)
	}
	change(&of)
	return string(k.Append(nil, group, &of))
}

var sticky = fsm.Stickiness{Strategy: fsm.StickyTable}

// TestSticky: each client stays where the cluster has placed it, and the
// clients are spread.
func TestSticky(t *testing.T) {
	f := newStickyFleet(t, sticky)
	on := map[string]int{}
	for range 9 {
		at, cookie := f.first()
		on[at]++
		f.stays(cookie, at)
		v, ok := f.State().Session("web", ticket(t, cookie).Session)
		if !ok || v.Instance != at {
			t.Errorf("the cluster has the session at %+v, it is at %s", v, at)
		}
	}
	if on["b"] != 3 || on["c"] != 3 || on["d"] != 3 {
		t.Errorf("sessions by instance: %v", on)
	}
	r, c := f.visit("")
	if id := r.Header.Get("X-Session"); len(id) != 32 {
		t.Errorf("the instance was told of the session %q", id)
	}
	if c.Path != "/" || !c.HttpOnly || c.SameSite != http.SameSiteLaxMode || c.Secure || c.MaxAge != 1800 {
		t.Errorf("the cookie is %v", c)
	}
}

// TestCookieRefused: a cookie that does not count is as none, and is counted.
func TestCookieRefused(t *testing.T) {
	f := newStickyFleet(t, sticky)
	at, cookie := f.first()
	own := session.Secret{ID: 1, Key: cookieSecret}
	as := ticket(t, cookie)
	none := func(*session.Ticket) {}
	for name, bad := range map[string]string{
		"garbage":        "hello",
		"truncated":      cookie[:len(cookie)-1],
		"longer":         cookie + "A",
		"bit flipped":    cookie[:40] + flip(cookie[40]) + cookie[41:],
		"another group":  seal(t, "other", own, none, as),
		"another secret": seal(t, "web", session.Secret{ID: 1, Key: [16]byte{9}}, none, as),
		"unknown key":    seal(t, "web", session.Secret{ID: 7, Key: cookieSecret}, none, as),
		"expired":        seal(t, "web", own, func(k *session.Ticket) { k.Expires = uint32(time.Now().Unix()) - 1 }, as),
	} {
		before := f.p.Event("web", "bad_cookie")
		r, c := f.visit(bad)
		if r.StatusCode != 200 || c == nil || ticket(t, c.Value).Session == as.Session {
			t.Errorf("%s: %d, cookie %v", name, r.StatusCode, c)
		}
		if n := f.p.Event("web", "bad_cookie") - before; n != 1 {
			t.Errorf("%s: counted %d times", name, n)
		}
	}
	// One of an earlier launch is real, but leads nowhere: the cluster knows
	// where the session is.
	old := seal(t, "web", own, func(k *session.Ticket) { k.Incarnation-- }, as)
	r, c := f.visit(old)
	r.want(t, 200, at)
	if c == nil || ticket(t, c.Value).Session != as.Session {
		t.Errorf("an old incarnation: cookie %v", c)
	}
}

func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

// TestStickyInstanceEnds: its sessions move once, and no others.
func TestStickyInstanceEnds(t *testing.T) {
	f := newStickyFleet(t, sticky)
	type client struct{ at, cookie string }
	var clients []client
	for range 12 {
		at, cookie := f.first()
		clients = append(clients, client{at, cookie})
	}
	f.Report("b", fsm.Failed, "")
	f.sync()
	moved := 0
	for _, c := range clients {
		if c.at != "b" {
			f.stays(c.cookie, c.at)
			continue
		}
		moved++
		r, again := f.visit(c.cookie)
		if r.StatusCode != 200 || r.body == "b" || again == nil {
			t.Fatalf("a session of the ended instance got %d from %q, cookie %v", r.StatusCode, r.body, again)
		}
		was, is := ticket(t, c.cookie), ticket(t, again.Value)
		if is.Session != was.Session || is.Epoch <= was.Epoch {
			t.Errorf("it was %+v and is %+v", was, is)
		}
		f.stays(again.Value, r.body)
		// A second tab with the old cookie ends up at the same place.
		r2, _ := f.visit(c.cookie)
		r2.want(t, 200, r.body)
	}
	if moved != 4 {
		t.Errorf("%d sessions have moved, not 4", moved)
	}
}

// TestStickyDrain: an instance that drains keeps its sessions and gets no new
// ones.
func TestStickyDrain(t *testing.T) {
	f := newStickyFleet(t, sticky)
	at, cookie := f.first()
	f.Drain(at, fsm.Unknown)
	f.sync()
	f.stays(cookie, at)
	for range 6 {
		if other, _ := f.first(); other == at {
			t.Fatal("a new session was placed on the instance that drains")
		}
	}
}

// atE starts an instance e, and returns the cookie of a session that the
// cluster has placed there, and who has answered its first request.
func (f *fleet) atE(start func()) (cookie, answered string) {
	f.t.Helper()
	for range 3 { // new sessions go to the instance that has the fewest
		f.first()
	}
	start()
	r, c := f.visit("")
	r.want(f.t, 200, "*")
	if v, ok := f.State().Session("web", ticket(f.t, c.Value).Session); !ok || v.Instance != "e" {
		f.t.Fatalf("the session is at %+v", v)
	}
	return c.Value, r.body
}

// TestStickySilent: a session whose instance does not answer is served by
// another, and is back as soon as its own answers.
func TestStickySilent(t *testing.T) {
	f := newStickyFleet(t, sticky, func(s *fsm.Service) {
		s.Retry = fsm.Retry{BudgetPercent: 100}
		s.Health = fsm.ServiceHealth{EjectFor: fsm.Duration(50 * time.Millisecond)}
	})
	addr := refusing(t)
	cookie, _ := f.atE(func() { f.instance("e", addr) })
	listenAt(t, addr, named("e"), f.stop)
	eventually(t, "the session is back", func() bool {
		r, _ := f.visit(cookie)
		r.want(t, 200, "*")
		return r.body == "e"
	})
	f.stays(cookie, "e")
}

// TestStickyEjected: an ejected instance is not asked for its sessions either.
func TestStickyEjected(t *testing.T) {
	f := newStickyFleet(t, sticky, func(s *fsm.Service) {
		s.Health = fsm.ServiceHealth{EjectFor: fsm.Duration(time.Minute)}
	})
	cookie, _ := f.atE(func() { f.instance("e", refusing(t)) })
	before := f.p.Failures("web", "e")
	for range 6 {
		r, _ := f.visit(cookie)
		r.want(t, 200, "*")
	}
	if n := f.p.Failures("web", "e") - before; n != 0 {
		t.Errorf("it was asked %d times", n)
	}
}

// TestStickyRetry: the second attempt goes to another instance, also when the
// session's own is not ejected.
func TestStickyRetry(t *testing.T) {
	f := newStickyFleet(t, sticky, func(s *fsm.Service) {
		s.Retry = fsm.Retry{Attempts: 2, BudgetPercent: 100}
		s.Health = fsm.ServiceHealth{ConsecutiveFailures: 1000}
	})
	cookie, answered := f.atE(func() { f.script("e", func(c *rawConn) { c.head(); c.reset() }) })
	r, _ := f.visit(cookie)
	r.want(t, 200, "*")
	if n := f.p.Failures("web", "e"); n != 2 || answered == "e" {
		t.Errorf("%d attempts at the session's instance in two requests; the first was answered by %s", n, answered)
	}
}

// TestStickyRefresh: a cookie in the second half of its time is made anew.
func TestStickyRefresh(t *testing.T) {
	f := newStickyFleet(t, sticky)
	at, cookie := f.first()
	late := seal(t, "web", session.Secret{ID: 1, Key: cookieSecret}, func(k *session.Ticket) { k.Expires -= 1000 }, ticket(t, cookie))
	r, c := f.visit(late)
	r.want(t, 200, at)
	if c == nil || ticket(t, c.Value).Expires < ticket(t, late).Expires+900 {
		t.Fatalf("the cookie was not made anew: %v", c)
	}
	f.stays(c.Value, at)
}

// TestTunnelsUseTheirSession: a session is in use as long as its WebSocket.
func TestTunnelsUseTheirSession(t *testing.T) {
	s := fsm.Service{Stickiness: fsm.Stickiness{Strategy: fsm.StickyTable, TTL: fsm.Duration(time.Second)}}
	used := make(chan [16]byte)
	f := newFleet(t, s, withConfig(func(cfg *proxy.Config) {
		c := cfg.Cluster.(*cluster)
		c.Must(fsm.RotateSessionKeys{ID: 1, Secret: cookieSecret[:]})
		m := session.NewManager(c, nil)
		t.Cleanup(m.Close)
		cfg.Sessions = uses{m, used}
	}))
	f.script("b", func(c *rawConn) {
		c.head()
		c.say("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		c.head()
	})
	c := dial(t, f.addr)
	r := c.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
	key := ticket(t, r.Cookies()[0].Value).Session
	for range 3 {
		if got := <-used; got != key {
			t.Errorf("the use of %x was noted, not of %x", got, key)
		}
	}
	_ = c.Close()
	f.quiet()
}

// uses tells of each use that is noted.
type uses struct {
	*session.Manager
	noted chan<- [16]byte
}

// Touch implements proxy.Sessions.
func (u uses) Touch(_ string, key [16]byte) {
	select {
	case u.noted <- key:
	case <-time.After(patience):
	}
}

// TestForgottenByTheCluster: a session that the cluster has forgotten, but whose
// client has its cookie, is known again with the next new cookie, where it was.
func TestForgottenByTheCluster(t *testing.T) {
	f := newStickyFleet(t, sticky)
	var cookies []string
	var key [16]byte
	at := ""
	for range 5 {
		where, cookie := f.first()
		cookies, at, key = append(cookies, cookie), where, ticket(t, cookie).Session
	}
	f.Must(fsm.DeleteSessions{Group: "web", Keys: key[:]})
	late := seal(t, "web", session.Secret{ID: 1, Key: cookieSecret}, func(k *session.Ticket) { k.Expires -= 1000 }, ticket(t, cookies[4]))
	r, c := f.visit(late)
	r.want(t, 200, at)
	if v, ok := f.State().Session("web", key); !ok || v.Instance != at || c == nil {
		t.Errorf("the cluster has it at %+v (%v), cookie %v", v, ok, c)
	}
}

// TestWithoutQuorum: old sessions go on; new ones are provisional, and stay where
// they are when the cluster agrees again.
func TestWithoutQuorum(t *testing.T) {
	f := newStickyFleet(t, sticky)
	at, cookie := f.first()
	f.lose(true)
	f.stays(cookie, at)
	type client struct{ at, cookie string }
	var clients []client
	for range 20 {
		at, cookie := f.first()
		if k := ticket(t, cookie); !k.Provisional {
			t.Fatalf("a session that nobody has agreed on: %+v", k)
		}
		r, _ := f.visit(cookie)
		r.want(t, 200, at)
		clients = append(clients, client{at, cookie})
	}
	f.lose(false)
	for _, c := range clients {
		r, again := f.visit(c.cookie)
		r.want(t, 200, c.at)
		if again == nil {
			t.Fatal("no cookie for a session that the cluster has agreed on")
		}
		if is, was := ticket(t, again.Value), ticket(t, c.cookie); is.Provisional || is.Session != was.Session {
			t.Errorf("it was %+v and is %+v", was, is)
		}
		f.stays(again.Value, c.at)
	}
	if n := f.State().SessionStats("web").Sessions; n != len(clients)+1 {
		t.Errorf("the cluster knows %d sessions", n)
	}
}

// TestLongOutage: a provisional session that is used outlasts its cookie's time.
func TestLongOutage(t *testing.T) {
	f := newStickyFleet(t, sticky)
	f.lose(true)
	at, cookie := f.first()
	old := seal(t, "web", session.Secret{ID: 1, Key: cookieSecret}, func(k *session.Ticket) { k.Expires -= 20 }, ticket(t, cookie))
	r, c := f.visit(old)
	r.want(t, 200, at)
	if c == nil || ticket(t, c.Value).Expires < ticket(t, cookie).Expires || !ticket(t, c.Value).Provisional {
		t.Fatalf("its cookie was not made anew: %v", c)
	}
}

// TestShortTTL: a session that is used lives on, however short its time is, and
// also when that was longer once.
func TestShortTTL(t *testing.T) {
	f := newStickyFleet(t, fsm.Stickiness{Strategy: fsm.StickyTable, TTL: fsm.Duration(10 * time.Second)})
	at, cookie := f.first()
	own := session.Secret{ID: 1, Key: cookieSecret}
	now := uint32(time.Now().Unix())
	for name, left := range map[string]uint32{"half over": 5, "nearly over": 1, "from a longer ttl": 86400} {
		r, c := f.visit(seal(t, "web", own, func(k *session.Ticket) { k.Expires = now + left }, ticket(t, cookie)))
		r.want(t, 200, at)
		if c == nil {
			t.Errorf("%s: the cookie was not made anew", name)
		}
	}
}

// TestRefuseWithoutQuorum: a service may want no provisional sessions.
func TestRefuseWithoutQuorum(t *testing.T) {
	f := newStickyFleet(t, fsm.Stickiness{Strategy: fsm.StickyTable, RefuseWithoutQuorum: true})
	at, cookie := f.first()
	f.lose(true)
	f.stays(cookie, at)
	r, c := f.visit("")
	if r.StatusCode != 503 || r.Header.Get("Retry-After") == "" || c != nil {
		t.Errorf("a new session: %d %q, cookie %v", r.StatusCode, r.body, c)
	}
}

// TestHashSessions: the id alone says where a session goes; with shared
// sessions it does not, and the instance is told the id.
func TestHashSessions(t *testing.T) {
	for _, strategy := range []string{fsm.StickyHash, fsm.StickyShared} {
		t.Run(strategy, func(t *testing.T) {
			f := newStickyFleet(t, fsm.Stickiness{Strategy: strategy})
			_, cookie := f.first()
			var on []string
			for range 6 {
				r, c := f.visit(cookie)
				if c != nil || r.Header.Get("X-Session") != cookie {
					t.Fatalf("the instance was told %q of %q, new cookie %v", r.Header.Get("X-Session"), cookie, c)
				}
				on = append(on, r.body)
			}
			slices.Sort(on)
			if n := len(slices.Compact(on)); strategy == fsm.StickyHash && n != 1 || strategy == fsm.StickyShared && n != 3 {
				t.Errorf("the session was at %d instances", n)
			}
			spread := map[string]bool{}
			for range 40 {
				at, _ := f.first()
				spread[at] = true
			}
			if len(spread) != 3 {
				t.Errorf("40 sessions are at %d instances", len(spread))
			}
			// An id that is none is not sent on.
			r, c := f.visit(strings.Repeat("a", 257))
			if c == nil || r.Header.Get("X-Session") != c.Value {
				t.Errorf("an id that is too long: told %q, cookie %v", r.Header.Get("X-Session"), c)
			}
		})
	}
}
