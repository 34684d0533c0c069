package fsm

import (
	"math"
	"slices"
	"time"
)

// Limits of sessions. The bounds of a scan keep one Apply below a millisecond,
// see DESIGN.md.
const (
	// MaxSessionKeys is the most sessions that one command names.
	MaxSessionKeys = 4096
	// MaxSessions is the most sessions that a group has.
	MaxSessions = 10_000_000
	// MaxSessionScan is the most sessions that one command looks at.
	MaxSessionScan = 16_384
	// MaxSessionMoves is the most sessions that one command moves or expires.
	MaxSessionMoves = 512
)

// AssignSessions gives each session that has none an instance, the least
// loaded, and says where the others are. A session whose instance has ended
// gets another one. Whoever asks for the same session gets the same answer, so
// that two nodes never send it to two instances.
type AssignSessions struct {
	Group string `json:"group"`
	// Keys are 16 bytes a session; see [SessionKey].
	Keys []byte `json:"keys"`
	// Wanted says where sessions are already that were placed while the
	// cluster could not agree.
	Wanted []WantedPlace `json:"wanted,omitempty"`
}

// WantedPlace is where a session is already, on one node's word. It counts
// only if the cluster knows no place, and if the instance takes sessions.
type WantedPlace struct {
	// Key is the place of the session in Keys, from 0.
	Key         int    `json:"key"`
	Instance    string `json:"instance"`
	Incarnation int    `json:"incarnation"`
}

// Assignment is where one session lives.
type Assignment struct {
	Slot        uint32 `json:"slot"`
	Instance    string `json:"instance"`
	Incarnation int    `json:"incarnation"`
	// Epoch is how often the session has moved.
	Epoch uint32 `json:"epoch"`
	// Created and Moved say that the command has made or moved the session.
	Created bool `json:"created,omitempty"`
	Moved   bool `json:"moved,omitempty"`
}

// Name implements [Command].
func (AssignSessions) Name() string { return "AssignSessions" }

// Apply implements [Command]; its value is a []Assignment, one for each key.
func (c AssignSessions) Apply(tx *Tx) (any, error) {
	keys, err := tx.stickyKeys(c.Group, c.Keys)
	if err != nil {
		return nil, err
	}
	d := tx.draftSessions(c.Group)
	rows, known := d.set.tree.find(keys)
	if err := checkRoom(c.Group, d.set.tree.count, len(keys)-known); err != nil {
		return nil, err
	}
	a := assigner{sessionDraft: d, now: unixSeconds(tx.Meta.Time), keys: keys, out: make([]Assignment, len(keys))}
	if err := a.want(c.Group, c.Wanted); err != nil {
		return nil, err
	}
	for k := range keys {
		if rows[k] == nil {
			err = a.create(k)
		} else {
			err = a.renew(k)
		}
		if err != nil {
			return nil, err
		}
	}
	d.save()
	return a.out, nil
}

// checkRoom refuses new sessions that would be too many.
func checkRoom(group string, have, more int) error {
	if more > 0 && have+more > MaxSessions {
		return Errorf(Exhausted, "group", group, "would have %d sessions, at most %d are allowed", have+more, MaxSessions).
			WithHint("shorten stickiness.ttl of its service")
	}
	return nil
}

// assigner is the work of one AssignSessions.
type assigner struct {
	*sessionDraft
	now  uint32
	keys [][16]byte
	out  []Assignment
	// wanted is where sessions are already, by their place; nil for none.
	wanted []slotOwner
	// first is the first place of each key, made when two may be the same.
	first map[[16]byte]int
}

// want notes where sessions are already.
func (a *assigner) want(group string, list []WantedPlace) error {
	if len(list) == 0 {
		return nil
	}
	a.wanted = make([]slotOwner, len(a.keys))
	for _, w := range list {
		if w.Key < 0 || w.Key >= len(a.keys) {
			return Errorf(Invalid, "group", group, "got a wanted place for session %d of %d", w.Key, len(a.keys))
		}
		a.wanted[w.Key] = slotOwner{w.Instance, w.Incarnation}
	}
	return nil
}

// place returns the place of the slot for the session at k: that which it has
// had without the cluster, or the emptiest.
func (a *assigner) place(k int) (at int, err error) {
	if at, err = a.pick(); err != nil || a.wanted == nil {
		return at, err
	}
	if wanted, takes := a.pickOf(a.wanted[k]); takes {
		return wanted, nil
	}
	return at, nil
}

// create makes the session at a place, which was not there before the command.
func (a *assigner) create(k int) error {
	at, err := a.place(k)
	if err != nil {
		return err
	}
	r := sessionRow{key: a.keys[k], slot: a.set.slots[at].number, seen: a.now}
	if !a.add(&r, at) {
		a.out[k] = a.out[a.firstOf(k)] // the command names the key twice
		return nil
	}
	a.set.totals.Assigned++
	a.out[k] = a.answer(&r, at)
	a.out[k].Created = true
	return nil
}

// renew answers for a session that was there before the command.
func (a *assigner) renew(k int) error {
	old := *a.set.tree.get(&a.keys[k])
	if old.seen == a.now { // by this command, or by one of the same second
		if first := a.firstOf(k); first < k {
			a.out[k] = a.out[first]
			return nil
		}
	}
	r := old
	r.seen = a.now
	at, _ := a.set.slotAt(old.slot)
	moves := a.view.life[at] == slotGone
	if moves {
		var err error
		if at, err = a.place(k); err != nil {
			return err
		}
		r.slot, r.epoch = a.set.slots[at].number, r.epoch+1
		a.set.totals.Moved++
	}
	if r != old {
		a.store(&r, at)
	}
	a.out[k] = a.answer(&r, at)
	a.out[k].Moved = moves
	return nil
}

func (a *assigner) answer(r *sessionRow, at int) Assignment {
	slot := &a.set.slots[at]
	return Assignment{Slot: r.slot, Instance: slot.instance, Incarnation: slot.incarnation, Epoch: r.epoch}
}

// firstOf returns the first place of the key that stands at k.
func (a *assigner) firstOf(k int) int {
	if a.first == nil {
		a.first = make(map[[16]byte]int, len(a.keys))
		for j := len(a.keys) - 1; j >= 0; j-- {
			a.first[a.keys[j]] = j
		}
	}
	return a.first[a.keys[k]]
}

// TouchSessions records that sessions were used. Those that are not there are
// left out.
type TouchSessions struct {
	Group string `json:"group"`
	// Keys are 16 bytes a session; see [SessionKey].
	Keys []byte `json:"keys"`
}

// Name implements [Command].
func (TouchSessions) Name() string { return "TouchSessions" }

// Apply implements [Command]; its value is the number of keys that were there.
func (c TouchSessions) Apply(tx *Tx) (any, error) {
	keys, err := tx.stickyKeys(c.Group, c.Keys)
	if err != nil {
		return nil, err
	}
	d, now := tx.draftSessions(c.Group), unixSeconds(tx.Meta.Time)
	rows, n := d.set.tree.find(keys)
	for _, old := range rows {
		if old == nil {
			continue
		}
		if r := *old; r.seen != now {
			r.seen = now
			at, _ := d.set.slotAt(r.slot)
			d.store(&r, at)
		}
	}
	d.save()
	return n, nil
}

// SessionScan is how far a command that goes through a group's sessions has
// come.
type SessionScan struct {
	// Next is where the next command goes on; nil when Done.
	Next []byte `json:"next,omitempty"`
	Done bool   `json:"done"`
	// Scanned sessions were looked at, Changed ones moved or expired.
	Scanned int `json:"scanned"`
	Changed int `json:"changed"`
}

// RehomeSessions moves sessions whose instance has ended to the least loaded
// ones. It does a bounded part of the work; sessions of living instances stay
// where they are.
type RehomeSessions struct {
	Group string `json:"group"`
	// From is where the scan begins: the Next of the command before, or empty.
	From []byte `json:"from,omitempty"`
	// Limit bounds the sessions that are looked at; [MaxSessionScan] when 0.
	Limit int `json:"limit,omitempty"`
}

// Name implements [Command].
func (RehomeSessions) Name() string { return "RehomeSessions" }

// Apply implements [Command]; its value is a [SessionScan].
func (c RehomeSessions) Apply(tx *Tx) (any, error) {
	if _, err := tx.stickyGroup(c.Group); err != nil {
		return nil, err
	}
	scan, err := newScan(c.Group, c.From, c.Limit)
	if err != nil {
		return nil, err
	}
	d := tx.draftSessions(c.Group)
	if d.view.homeless == 0 {
		return SessionScan{Done: true}, nil
	}
	gone := d.gone()
	err = d.edit(scan, func(r *sessionRow) bool {
		_, is := slices.BinarySearch(gone, r.slot)
		return is
	}, func(r *sessionRow) error {
		at, err := d.pick()
		if err != nil {
			return err
		}
		r.slot, r.epoch = d.set.slots[at].number, r.epoch+1
		d.count(at, 1)
		d.set.totals.Moved++
		return nil
	})
	if err != nil {
		return nil, err
	}
	d.save()
	if d.view.homeless == 0 {
		scan.Next, scan.Done = nil, true
	}
	return scan.SessionScan, nil
}

// gone lists the slots whose instance has ended, in order. They are few, so
// that to ask for each session whether it is in one of them costs little.
func (d *sessionDraft) gone() (numbers []uint32) {
	for at, life := range d.view.life {
		if life == slotGone {
			numbers = append(numbers, d.set.slots[at].number)
		}
	}
	return numbers
}

// ExpireSessions removes sessions that were not used for the time to live of
// the group's service. It does a bounded part of the work. A group whose
// service is no longer sticky loses its sessions in this way.
type ExpireSessions struct {
	Group string `json:"group"`
	// From is where the scan begins: the Next of the command before, or empty.
	From []byte `json:"from,omitempty"`
	// Limit bounds the sessions that are looked at; [MaxSessionScan] when 0.
	Limit int `json:"limit,omitempty"`
}

// Name implements [Command].
func (ExpireSessions) Name() string { return "ExpireSessions" }

// Apply implements [Command]; its value is a [SessionScan].
func (c ExpireSessions) Apply(tx *Tx) (any, error) {
	g, err := tx.Groups.Lookup(c.Group)
	if err != nil {
		return nil, err
	}
	scan, err := newScan(c.Group, c.From, c.Limit)
	if err != nil {
		return nil, err
	}
	set := tx.Sessions.get(c.Group)
	if set == nil {
		return SessionScan{Done: true}, nil
	}
	last := tx.Meta.Time.Add(-g.sessionTTL()).Unix()
	old := scan.find(&set.tree, func(r *sessionRow) bool { return int64(r.seen) <= last })
	if len(old) > 0 {
		d := tx.draftSessions(c.Group)
		for k := range old {
			d.drop(&old[k].key)
		}
		d.set.totals.Expired += uint64(len(old))
		d.save()
	}
	return scan.SessionScan, nil
}

// sessionTTL is how long an unused session is remembered.
func (g *Group) sessionTTL() time.Duration {
	var s Service
	if g.Service != nil {
		s = *g.Service
	}
	return s.WithDefaults().Stickiness.TTL.Std()
}

// DeleteSessions removes sessions. Those that are not there are left out; it is an
// error when that leaves none.
type DeleteSessions struct {
	Group string `json:"group"`
	// Keys are 16 bytes a session; see [SessionKey].
	Keys []byte `json:"keys"`
}

// Name implements [Command].
func (DeleteSessions) Name() string { return "DeleteSessions" }

// Apply implements [Command]; its value is the number of sessions removed.
func (c DeleteSessions) Apply(tx *Tx) (any, error) {
	if _, err := tx.Groups.Lookup(c.Group); err != nil {
		return nil, err
	}
	keys, err := splitKeys(c.Group, c.Keys)
	if err != nil {
		return nil, err
	}
	if tx.Sessions.get(c.Group) == nil {
		return nil, ErrUnknownSession
	}
	d, n := tx.draftSessions(c.Group), 0
	rows, _ := d.set.tree.find(keys)
	for k := range keys {
		if rows[k] != nil && d.drop(&keys[k]) {
			n++
		}
	}
	if n == 0 {
		return nil, ErrUnknownSession
	}
	d.set.totals.Deleted += uint64(n)
	d.save()
	return n, nil
}

// ErrUnknownSession says that the cluster does not know a session. Its id is no part
// of the error, because it may let a client in.
var ErrUnknownSession error = Errorf(NotFound, "session", "", "does not exist").WithHint("POST …/route places it")

// dropSessions removes all that a group's sessions have left.
func (tx *Tx) dropSessions(group string) {
	if tx.Sessions.get(group) != nil {
		tx.State.Sessions.put(tx, group, nil)
	}
	delPrefix(tx, &tx.State.SessionData, group+"/")
	delPrefix(tx, &tx.State.SessionDataEnds, group+"/")
	del(tx, &tx.State.SessionUsages, group)
}

// stickyGroup returns a group whose service assigns sessions.
func (tx *Tx) stickyGroup(group string) (*Group, error) { return tx.groupWith(group, StickyTable) }

// groupWith returns a group whose service has a strategy.
func (tx *Tx) groupWith(group, strategy string) (*Group, error) {
	g, err := tx.Groups.Lookup(group)
	if err != nil {
		return nil, err
	}
	if g.Service == nil || g.Service.Stickiness.Strategy != strategy {
		return nil, Errorf(Conflict, "group", group, "has no service whose sessions are %s", strategy).
			WithHint("set service.stickiness.strategy of the group to %q", strategy)
	}
	return g, nil
}

func (tx *Tx) stickyKeys(group string, raw []byte) ([][16]byte, error) {
	if _, err := tx.stickyGroup(group); err != nil {
		return nil, err
	}
	return splitKeys(group, raw)
}

func splitKeys(group string, raw []byte) ([][16]byte, error) {
	n := len(raw) / 16
	if n == 0 || len(raw)%16 != 0 || n > MaxSessionKeys {
		return nil, Errorf(Invalid, "group", group, "got %d bytes of session keys, not 16 for each of 1 to %d sessions", len(raw), MaxSessionKeys)
	}
	keys := make([][16]byte, n)
	for k := range keys {
		keys[k] = [16]byte(raw[16*k:])
	}
	return keys, nil
}

// unixSeconds is a log time as a session remembers it.
func unixSeconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

// sessionScanner is the bounded walk of one command.
type sessionScanner struct {
	SessionScan
	from  [16]byte
	limit int
}

func newScan(group string, from []byte, limit int) (*sessionScanner, error) {
	s := &sessionScanner{limit: limit}
	if len(from) != 0 && len(from) != len(s.from) {
		return nil, Errorf(Invalid, "group", group, "got a cursor of %d bytes, not %d", len(from), len(s.from))
	}
	copy(s.from[:], from)
	if limit <= 0 || limit > MaxSessionScan {
		s.limit = MaxSessionScan
	}
	return s, nil
}

// step says what the command does with the next row.
func (s *sessionScanner) step(r *sessionRow, want func(*sessionRow) bool) editStep {
	if s.Scanned == s.limit || s.Changed == MaxSessionMoves {
		s.Next, s.Done = append([]byte(nil), r.key[:]...), false
		return editEnd
	}
	s.Scanned++
	if !want(r) {
		return editPass
	}
	s.Changed++
	return editChange
}

// find collects the rows that the command is about, until a bound is reached.
func (s *sessionScanner) find(t *sessionTree, want func(*sessionRow) bool) (rows []sessionRow) {
	s.Done = true
	t.scan(&s.from, func(r *sessionRow) bool {
		step := s.step(r, want)
		if step == editChange {
			rows = append(rows, *r)
		}
		return step != editEnd
	})
	return rows
}
