package fsm

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"time"
	"unicode/utf8"
)

// maxSessionID bounds the text by which a client names its session.
const maxSessionID = 256

// SessionKey is the key of a session in the replicated state. 32 hexadecimal
// digits are the key itself, so that a proxy can make both; any other text is
// hashed. See [CheckSessionID] for the texts that are allowed.
func SessionKey(id string) (key [16]byte) {
	if len(id) == 2*len(key) {
		if _, err := hex.Decode(key[:], []byte(id)); err == nil {
			return key
		}
	}
	sum := sha256.Sum256([]byte(id))
	return [16]byte(sum[:])
}

// CheckSessionID refuses a text that can not name a session.
func CheckSessionID(id string) error {
	if id == "" || len(id) > maxSessionID || !utf8.ValidString(id) {
		return Errorf(Invalid, "session", "", "has an id of %d bytes, which is not UTF-8 text of 1 to %d bytes", len(id), maxSessionID)
	}
	return nil
}

// SessionView is one session and where it lives.
type SessionView struct {
	Instance    string `json:"instance"`
	Incarnation int    `json:"incarnation"`
	Slot        uint32 `json:"slot"`
	// Epoch is how often the session has moved.
	Epoch uint32 `json:"epoch"`
	// Seen is the log time of the last use that was recorded, in seconds.
	Seen time.Time `json:"seen"`
	// Lives is false when the instance has ended: the next AssignSessions or
	// RehomeSessions moves the session.
	Lives bool `json:"lives"`
}

// Session returns a session of a group.
func (s *State) Session(group string, key [16]byte) (SessionView, bool) {
	set := s.Sessions.get(group)
	if set == nil {
		return SessionView{}, false
	}
	r := set.tree.get(&key)
	if r == nil {
		return SessionView{}, false
	}
	return s.sessionView(set, r), true
}

func (s *State) sessionView(set *sessionSet, r *sessionRow) SessionView {
	at, _ := set.slotAt(r.slot)
	slot := &set.slots[at]
	return SessionView{
		Instance: slot.instance, Incarnation: slot.incarnation, Slot: r.slot, Epoch: r.epoch,
		Seen: time.Unix(int64(r.seen), 0).UTC(), Lives: s.slotLives(slot),
	}
}

// slotLives reports whether the process that a slot stands for still serves.
func (s *State) slotLives(slot *sessionSlot) bool {
	i, _ := s.Instances.Get(slot.instance)
	e, serves := i.Endpoint()
	return serves && e.Incarnation == slot.incarnation
}

// SessionsFrom yields the sessions of a group whose key is from or greater, in
// the order of their keys.
func (s *State) SessionsFrom(group string, from [16]byte) iter.Seq2[[16]byte, SessionView] {
	return func(yield func([16]byte, SessionView) bool) {
		set := s.Sessions.get(group)
		if set == nil {
			return
		}
		set.tree.scan(&from, func(r *sessionRow) bool { return yield(r.key, s.sessionView(set, r)) })
	}
}

// ResolveSlot returns the incarnation of an instance that a slot of a group
// stands for. It may have ended; ok is false when it has and no session is
// left, or when there never was such a slot.
func (s *State) ResolveSlot(group string, slot uint32) (instance string, incarnation int, ok bool) {
	set := s.Sessions.get(group)
	if set == nil {
		return "", 0, false
	}
	at, ok := set.slotAt(slot)
	if !ok {
		return "", 0, false
	}
	return set.slots[at].instance, set.slots[at].incarnation, true
}

// SessionStats says how many sessions a group has, and where.
type SessionStats struct {
	Group    string `json:"group"`
	Sessions int    `json:"sessions"`
	// Homeless sessions are those whose instance has ended.
	Homeless int `json:"homeless"`
	SessionTotals
	Slots []SlotStats `json:"slots"`
}

// SlotStats is one incarnation of an instance and its sessions.
type SlotStats struct {
	Slot        uint32 `json:"slot"`
	Instance    string `json:"instance"`
	Incarnation int    `json:"incarnation"`
	Sessions    int    `json:"sessions"`
	Lives       bool   `json:"lives"`
}

// SessionStats returns the statistics of a group, all zero when it has no
// sessions.
func (s *State) SessionStats(group string) SessionStats {
	stats := SessionStats{Group: group, Slots: []SlotStats{}}
	set := s.Sessions.get(group)
	if set == nil {
		return stats
	}
	stats.Sessions, stats.SessionTotals = set.tree.count, set.totals
	for k := range set.slots {
		slot := &set.slots[k]
		row := SlotStats{
			Slot: slot.number, Instance: slot.instance, Incarnation: slot.incarnation,
			Sessions: int(slot.count), Lives: s.slotLives(slot),
		}
		if !row.Lives {
			stats.Homeless += row.Sessions
		}
		stats.Slots = append(stats.Slots, row)
	}
	return stats
}
