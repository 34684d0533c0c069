package fsm

import (
	"fmt"
	"time"
)

// Limits of the data that services with shared sessions keep.
const (
	// MaxSessionDataBytes is the most data of one session.
	MaxSessionDataBytes = 4 << 10
	// MaxSessionDataEntries and MaxSessionDataTotal are a group's quota.
	MaxSessionDataEntries = 10_000
	MaxSessionDataTotal   = 32 << 20
	// MaxSessionDataExpiries is the most entries that one command expires.
	MaxSessionDataExpiries = 256

	maxContentType  = 128
	maxSessionTTL   = 30 * 24 * time.Hour
	sessionDataNoun = "session data"
)

// SessionData is what a service with shared sessions keeps for one session, so
// that any of its instances can serve the session.
type SessionData struct {
	Group       string    `json:"group"`
	Session     string    `json:"session"`
	Data        []byte    `json:"data"`
	ContentType string    `json:"contentType,omitempty"`
	ExpiresAt   time.Time `json:"expiresAt"`
	UpdatedAt   time.Time `json:"updatedAt"`
	Revision    uint64    `json:"revision"`
}

var sessionDataTable = tableSpec[SessionData]{
	name: "sessionData", noun: sessionDataNoun, encoded: true, private: true,
	key:   func(d *SessionData) string { return d.Group + "/" + d.Session },
	stamp: func(d *SessionData, r uint64) { d.Revision = r },
}

// Expired reports whether the data no longer counts at a time.
func (d *SessionData) Expired(now time.Time) bool { return !d.ExpiresAt.After(now) }

// size is what the row counts for in the quota.
func (d *SessionData) size() int { return len(d.Session) + len(d.Data) + len(d.ContentType) }

// SessionDataEnd is the index of session data by its end, so that what has
// expired is found without a look at the rest.
type SessionDataEnd struct {
	Group   string    `json:"group"`
	Session string    `json:"session"`
	At      time.Time `json:"at"`
}

var sessionDataEndTable = tableSpec[SessionDataEnd]{
	name: "sessionDataEnds", noun: sessionDataNoun, encoded: true, private: true,
	key: (*SessionDataEnd).key,
}

func (e *SessionDataEnd) key() string {
	return fmt.Sprintf("%s/%020d/%s", e.Group, max(e.At.UnixNano(), 0), e.Session)
}

// SessionUsage is how much of its quota a group uses.
type SessionUsage struct {
	Group   string `json:"group"`
	Entries int    `json:"entries"`
	Bytes   int    `json:"bytes"`
}

var sessionUsageTable = tableSpec[SessionUsage]{
	name: "sessionUsages", noun: sessionDataNoun, private: true, key: func(u *SessionUsage) string { return u.Group },
}

// PutSessionData creates or replaces the data of a session. Data that has
// expired counts as absent, whether it was removed already or not.
type PutSessionData struct {
	Group       string `json:"group"`
	Session     string `json:"session"`
	Data        []byte `json:"data"`
	ContentType string `json:"contentType,omitempty"`
	// TTL is how long the data is kept; that of the service's sessions when 0.
	TTL        Duration `json:"ttl,omitzero"`
	IfRevision *uint64  `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (PutSessionData) Name() string { return "PutSessionData" }

// Validate returns every problem of the command as one error.
func (c *PutSessionData) Validate() error {
	if err := CheckSessionID(c.Session); err != nil {
		return err
	}
	if len(c.Data) > MaxSessionDataBytes {
		return Errorf(TooLarge, sessionDataNoun, "", "has %d bytes, at most %d are allowed", len(c.Data), MaxSessionDataBytes).
			WithHint("keep large data elsewhere and its address in the session")
	}
	var f fieldErrors
	f.check(len(c.ContentType) <= maxContentType && printable(c.ContentType), "contentType", "must be at most %d printable ASCII characters", maxContentType)
	f.check(c.TTL == 0 || c.TTL.Std() >= time.Second && c.TTL.Std() <= maxSessionTTL, "ttl", "must be 0 (that of the service's sessions) or between 1s and %s", maxSessionTTL)
	return f.err(sessionDataNoun, "")
}

func printable(s string) bool {
	for k := range len(s) {
		if s[k] < ' ' || s[k] > '~' {
			return false
		}
	}
	return true
}

// Apply implements [Command]; its value is the [*SessionData]. The session's
// id is no part of an error, because it may let a client in.
func (c PutSessionData) Apply(tx *Tx) (any, error) {
	g, err := tx.groupWith(c.Group, StickyShared)
	if err != nil {
		return nil, err
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	old, had := tx.SessionData.Get(c.Group + "/" + c.Session)
	var have uint64
	if had && !old.Expired(tx.Meta.Time) {
		have = old.Revision
	}
	if err := checkRevision(sessionDataNoun, "", c.IfRevision, have); err != nil {
		return nil, err
	}
	d := &SessionData{
		Group: c.Group, Session: c.Session, Data: c.Data, ContentType: c.ContentType,
		ExpiresAt: tx.Meta.Time.Add(c.TTL.or(g.sessionTTL()).Std()), UpdatedAt: tx.Meta.Time,
	}
	usage := tx.sessionUsage(c.Group)
	usage.Entries, usage.Bytes = usage.Entries+1, usage.Bytes+d.size()
	if had {
		usage.Entries, usage.Bytes = usage.Entries-1, usage.Bytes-old.size()
	}
	if usage.Entries > MaxSessionDataEntries || usage.Bytes > MaxSessionDataTotal {
		return nil, Errorf(Exhausted, "group", c.Group, "would have %d entries of session data with %d bytes, at most %d with %d are allowed",
			usage.Entries, usage.Bytes, MaxSessionDataEntries, MaxSessionDataTotal).
			WithHint("delete sessions that have ended, or give the data a shorter ttl")
	}
	if had {
		tx.dropDataEnd(old)
	}
	put(tx, &tx.State.SessionUsages, usage)
	put(tx, &tx.State.SessionDataEnds, &SessionDataEnd{Group: d.Group, Session: d.Session, At: d.ExpiresAt})
	return put(tx, &tx.State.SessionData, d), nil
}

// sessionUsage returns a copy of a group's usage.
func (tx *Tx) sessionUsage(group string) *SessionUsage {
	if u, ok := tx.SessionUsages.Get(group); ok {
		c := *u
		return &c
	}
	return &SessionUsage{Group: group}
}

func (tx *Tx) dropDataEnd(d *SessionData) {
	end := SessionDataEnd{Group: d.Group, Session: d.Session, At: d.ExpiresAt}
	del(tx, &tx.State.SessionDataEnds, end.key())
}

// dropData removes data and what the group uses for it.
func (tx *Tx) dropData(list []*SessionData) {
	if len(list) == 0 {
		return
	}
	usage := tx.sessionUsage(list[0].Group)
	for _, d := range list {
		tx.dropDataEnd(d)
		del(tx, &tx.State.SessionData, d.Group+"/"+d.Session)
		usage.Entries, usage.Bytes = usage.Entries-1, usage.Bytes-d.size()
	}
	if usage.Entries == 0 {
		del(tx, &tx.State.SessionUsages, usage.Group)
		return
	}
	put(tx, &tx.State.SessionUsages, usage)
}

// DeleteSessionData removes the data of a session.
type DeleteSessionData struct {
	Group      string  `json:"group"`
	Session    string  `json:"session"`
	IfRevision *uint64 `json:"ifRevision,omitempty"`
}

// Name implements [Command].
func (DeleteSessionData) Name() string { return "DeleteSessionData" }

// Apply implements [Command].
func (c DeleteSessionData) Apply(tx *Tx) (any, error) {
	d, ok := tx.SessionData.Get(c.Group + "/" + c.Session)
	if !ok || d.Expired(tx.Meta.Time) {
		return nil, notFound(sessionDataNoun, "")
	}
	if err := checkRevision(sessionDataNoun, "", c.IfRevision, d.Revision); err != nil {
		return nil, err
	}
	tx.dropData([]*SessionData{d})
	return nil, nil
}

// ExpireSessionData removes data whose time is over, the oldest first.
type ExpireSessionData struct {
	Group string `json:"group"`
	// Limit bounds how much is removed; [MaxSessionDataExpiries] when 0.
	Limit int `json:"limit,omitempty"`
}

// Name implements [Command].
func (ExpireSessionData) Name() string { return "ExpireSessionData" }

// Apply implements [Command]; its value is a [SessionScan], which is done when
// nothing is left that has expired.
func (c ExpireSessionData) Apply(tx *Tx) (any, error) {
	if !tx.Groups.Has(c.Group) {
		return nil, notFound("group", c.Group)
	}
	limit := c.Limit
	if limit <= 0 || limit > MaxSessionDataExpiries {
		limit = MaxSessionDataExpiries
	}
	scan := SessionScan{Done: true}
	var ended []*SessionData
	for _, end := range tx.SessionDataEnds.Prefix(c.Group + "/") {
		if end.At.After(tx.Meta.Time) {
			break
		}
		if len(ended) == limit {
			scan.Done = false
			break
		}
		if d, ok := tx.SessionData.Get(c.Group + "/" + end.Session); ok {
			ended = append(ended, d)
		}
	}
	tx.dropData(ended)
	scan.Scanned, scan.Changed = len(ended), len(ended)
	return scan, nil
}
