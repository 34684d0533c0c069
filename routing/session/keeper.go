package session

import (
	"context"
	"crypto/rand"
	"iter"
	"log/slog"
	"maps"
	"time"

	"github.com/pacelinehq/paceline/fsm"
)

// Watched is a [Cluster] whose changes can be followed.
type Watched interface {
	Cluster
	// Watch yields the changes after an index, until ctx ends.
	Watch(ctx context.Context, from uint64) iter.Seq2[fsm.ChangeSet, error]
}

// Keeper is the leader's housekeeping of sessions: it rotates the keys, moves
// the sessions of instances that have ended, and ends those that nobody uses.
// It looks at the local state first and proposes only where there is something
// to do, so that a quiet cluster writes nothing.
type Keeper struct {
	cluster Watched
	log     *slog.Logger
	expired map[string]time.Time // when a group was looked through last
}

// NewKeeper returns a keeper. It works while Run does.
func NewKeeper(c Watched, log *slog.Logger) *Keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cluster: c, log: log.With("part", "sessions"), expired: map[string]time.Time{}}
}

// Run works until ctx ends, which is with the leadership. Its commands need no
// fence: each checks in the state whether there still is something to do.
func (k *Keeper) Run(ctx context.Context, _ uint64) error {
	ctx = fsm.WithActor(ctx, "session keeper")
	clear(k.expired)
	for ctx.Err() == nil {
		s := k.cluster.State()
		k.round(ctx, s)
		k.await(ctx, s.Index())
	}
	return ctx.Err()
}

// await returns when an instance may have ended since an index, or when it is
// time for the next round.
func (k *Keeper) await(run context.Context, from uint64) {
	ctx, cancel := context.WithTimeout(run, keepEvery)
	defer cancel()
	for set, err := range k.cluster.Watch(ctx, from) {
		if err != nil || set.Reset || ended(set) {
			break
		}
	}
	t := time.NewTimer(keepPause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-run.Done():
	}
}

// ended reports whether an instance has stopped serving.
func ended(set fsm.ChangeSet) bool {
	for _, c := range set.Changes {
		if c.Table != "instances" {
			continue
		}
		before, _ := c.Old().(*fsm.Instance)
		after, _ := c.New().(*fsm.Instance)
		old, served := before.Endpoint()
		now, serves := after.Endpoint()
		if served && (!serves || old.Incarnation != now.Incarnation) {
			return true
		}
	}
	return false
}

func (k *Keeper) round(ctx context.Context, s *fsm.State) {
	sticky, period := false, rotateEvery
	for name, g := range s.Groups.All() {
		if ctx.Err() != nil {
			return
		}
		service := fsm.Service{}
		if g.Service != nil {
			service = *g.Service
		}
		st := service.WithDefaults().Stickiness
		if st.Strategy == fsm.StickyTable {
			sticky, period = true, max(period, st.TTL.Std())
			if s.SessionStats(name).Homeless > 0 && len(s.SessionTakers(name)) > 0 {
				k.rehome(ctx, name)
			}
		}
		k.expire(ctx, s, name, st.TTL.Std())
		k.expireData(ctx, s, name)
	}
	maps.DeleteFunc(k.expired, func(name string, _ time.Time) bool { return !s.Groups.Has(name) })
	// The first key is made with the cluster, so that a service that becomes
	// sticky is so from its first request on.
	keys := s.CookieKeys()
	if len(keys) == 0 || sticky && time.Since(keys[0].CreatedAt) >= period {
		k.rotate(ctx, s)
	}
}

// rotate makes a new key.
func (k *Keeper) rotate(ctx context.Context, s *fsm.State) {
	secret := make([]byte, KeyBytes)
	_, _ = rand.Read(secret) // never fails: it ends the process instead
	if k.propose(ctx, fsm.RotateSessionKeys{ID: s.NextCookieKey(), Secret: secret}) != nil {
		k.log.Info("the session keys were rotated")
	}
}

// rehome moves all sessions of instances that have ended.
func (k *Keeper) rehome(ctx context.Context, group string) {
	began, moved := time.Now(), 0
	var from []byte
	for {
		scan, ok := k.propose(ctx, fsm.RehomeSessions{Group: group, From: from}).(fsm.SessionScan)
		if !ok {
			return // it is tried again with the next round
		}
		moved += scan.Changed
		if from = scan.Next; scan.Done {
			break
		}
	}
	if moved > 0 {
		k.log.Info("sessions of ended instances were moved", "group", group, "moved", moved, "took", time.Since(began))
	}
}

// expire ends the sessions of a group that were not used for its time to live.
// Each command goes on at the first of them, past those that are in use.
func (k *Keeper) expire(ctx context.Context, s *fsm.State, group string, ttl time.Duration) {
	now := time.Now()
	if last, ok := k.expired[group]; ok && now.Sub(last) < max(ttl/expireShare, keepEvery) {
		return
	}
	k.expired[group] = now
	var from [16]byte
	for {
		first, ok := firstUnused(s, group, from, now.Add(-ttl))
		if !ok {
			return
		}
		scan, ok := k.propose(ctx, fsm.ExpireSessions{Group: group, From: first[:]}).(fsm.SessionScan)
		if !ok || scan.Done {
			return
		}
		s, from = k.cluster.State(), [16]byte(scan.Next)
	}
}

// firstUnused returns the first session of a group, from a key on, that was
// not used since a time.
func firstUnused(s *fsm.State, group string, from [16]byte, since time.Time) (key [16]byte, ok bool) {
	for at, v := range s.SessionsFrom(group, from) {
		if !v.Seen.After(since) {
			return at, true
		}
	}
	return key, false
}

// expireData ends the session data whose time is over: until then it counts
// for the group's quota.
func (k *Keeper) expireData(ctx context.Context, s *fsm.State, group string) {
	for _, end := range s.SessionDataEnds.Prefix(group + "/") { // the oldest is the first
		if end.At.After(time.Now()) {
			return
		}
		break // it has expired
	}
	for s.SessionUsages.Has(group) && ctx.Err() == nil {
		scan, ok := k.propose(ctx, fsm.ExpireSessionData{Group: group}).(fsm.SessionScan)
		if !ok || scan.Done {
			return
		}
	}
}

// propose returns the command's value, or nil after an error, which is logged.
func (k *Keeper) propose(ctx context.Context, c fsm.Command) any {
	limited, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	res, err := k.cluster.Propose(limited, c)
	if err != nil {
		if ctx.Err() == nil {
			k.log.Warn("sessions could not be kept in order", "command", c.Name(), "err", err)
		}
		return nil
	}
	return res.Value
}
