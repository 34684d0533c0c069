package cluster

import (
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// peerInfo is what a node says about itself: the gossip metadata, and a line
// of the address book that nodes exchange when they join.
type peerInfo struct {
	Name     string `json:"n,omitempty"`
	Zone     string `json:"z,omitempty"`
	Cluster  string `json:"c,omitempty"`
	Peer     string `json:"p"`
	Gossip   string `json:"g,omitempty"`
	API      string `json:"a,omitempty"`
	Inc      uint64 `json:"i"`
	Expect   int    `json:"e,omitempty"`
	NonVoter bool   `json:"v,omitempty"`
	// Tentative says that the process has not made sure yet that no other
	// uses its name. Until then it takes nobody's place, as an IPv6 address
	// does not during duplicate address detection (RFC 4862).
	Tentative bool `json:"t,omitempty"`
}

// encodeMeta is the form of a peerInfo in the gossip metadata, where
// memberlist carries the name.
func encodeMeta(i peerInfo) []byte {
	i.Name = ""
	b, err := json.Marshal(i)
	if err != nil {
		return nil // a struct of strings and numbers always encodes
	}
	return b
}

func decodeMeta(name string, meta []byte) (peerInfo, error) {
	var i peerInfo
	err := json.Unmarshal(meta, &i)
	i.Name = name
	return i, err
}

// MemberStatus is what is known of a member's process.
type MemberStatus string

// The states of a member's process.
const (
	// StatusAlive answers.
	StatusAlive MemberStatus = "alive"
	// StatusSuspect was not heard of for a while.
	StatusSuspect MemberStatus = "suspect"
	// StatusDead is confirmed to be gone.
	StatusDead MemberStatus = "dead"
	// StatusLeft said that it stops.
	StatusLeft MemberStatus = "left"
)

// peerRow is one line of the address book with what this node saw itself.
type peerRow struct {
	peerInfo
	gossip MemberStatus // what gossip says of this incarnation; "" for nothing
	since  time.Time    // of gossip
	heard  time.Time    // last byte from it
}

// directory is the node's address book. A name belongs to the process with
// the highest incarnation that was heard of, so that a node which comes back
// under another address is found at once, before gossip has agreed that the
// old one is dead.
type directory struct {
	self    string
	changed signal

	mu   sync.RWMutex
	rows map[string]*peerRow
	// twin is another process that uses this node's name.
	twin peerInfo
}

func newDirectory(self peerInfo) *directory {
	d := &directory{self: self.Name, rows: map[string]*peerRow{}}
	d.rows[self.Name] = &peerRow{peerInfo: self, gossip: StatusAlive, since: time.Now(), heard: time.Now()}
	return d
}

// setSelf replaces the node's own line.
func (d *directory) setSelf(change func(*peerInfo)) {
	d.mu.Lock()
	change(&d.rows[d.self].peerInfo)
	d.mu.Unlock()
	d.changed.fire()
}

// me returns the node's own line.
func (d *directory) me() peerInfo {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.rows[d.self].peerInfo
}

// learn takes a line from somebody else's book. Lines of foreign clusters and
// of older processes are ignored.
func (d *directory) learn(i peerInfo) {
	d.mu.Lock()
	me := d.rows[d.self]
	switch row := d.rows[i.Name]; {
	case i.Name == "" || i.Peer == "" || foreign(me.Cluster, i.Cluster):
	case i.Name == d.self:
		if i.Inc != me.Inc {
			d.twin = i
		}
	case row == nil:
		if len(d.rows) < maxMembers {
			d.rows[i.Name] = &peerRow{peerInfo: i}
		}
	case i.Inc > row.Inc:
		if !i.Tentative || row.gossip == StatusDead || row.gossip == StatusLeft {
			row.peerInfo, row.gossip = i, ""
		}
	case i.Inc == row.Inc:
		if i.Cluster == "" {
			i.Cluster = row.Cluster
		}
		row.peerInfo = i
	}
	d.mu.Unlock()
	d.changed.fire()
}

// mark records what gossip says about one incarnation of a node.
func (d *directory) mark(name string, inc uint64, s MemberStatus) {
	d.mu.Lock()
	if row := d.rows[name]; row != nil && row.Inc == inc && name != d.self && row.gossip != s {
		row.gossip, row.since = s, time.Now()
		if s == StatusAlive {
			row.heard = row.since
		}
	}
	d.mu.Unlock()
	d.changed.fire()
}

// seen records that a node was heard.
func (d *directory) seen(name string) {
	now := time.Now()
	d.mu.Lock()
	if row := d.rows[name]; row != nil {
		row.heard = now
	}
	d.mu.Unlock()
}

// forget drops a node that was removed, so that it is not offered again.
func (d *directory) forget(name string) {
	d.mu.Lock()
	if name != d.self {
		delete(d.rows, name)
	}
	d.mu.Unlock()
	d.changed.fire()
}

// get returns a node's line.
func (d *directory) get(name string) (peerRow, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	row := d.rows[name]
	if row == nil {
		return peerRow{}, false
	}
	return *row, true
}

// alone reports whether this node knows of no other.
func (d *directory) alone() bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return len(d.rows) == 1
}

// all returns every line in order of the names.
func (d *directory) all() []peerRow {
	d.mu.RLock()
	defer d.mu.RUnlock()
	list := make([]peerRow, 0, len(d.rows))
	for _, name := range slices.Sorted(maps.Keys(d.rows)) {
		list = append(list, *d.rows[name])
	}
	return list
}

// book returns the lines worth telling others: processes that are not known
// to be gone.
func (d *directory) book() []peerInfo {
	var list []peerInfo
	for _, row := range d.all() {
		if row.gossip != StatusDead && row.gossip != StatusLeft {
			list = append(list, row.peerInfo)
		}
	}
	return list
}

// addr returns the address of a node's peer port.
func (d *directory) addr(name string) (string, bool) {
	row, ok := d.get(name)
	return row.Peer, ok
}

// addressMark begins what Raft is given for an address. Its transport falls
// back to the address in Raft's configuration for a node that is not in the
// book, which may be another node's by now, or this one's: a vote asked for
// there would be counted as that of the node that was meant. So Raft dials
// names, and [raftStream] alone turns them into addresses.
const addressMark = "@"

// raftAddress is what Raft is told as a node's address.
func raftAddress(name string) raft.ServerAddress { return raft.ServerAddress(addressMark + name) }

// ServerAddr implements [raft.ServerAddressProvider]; it gives the name, which
// is looked up at each dial.
func (d *directory) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raftAddress(string(id)), nil
}

// status is the node's view of a member: gossip, corrected by what was heard
// since.
func (r peerRow) status(self bool, quiet time.Duration) MemberStatus {
	switch {
	case self:
		return StatusAlive
	case r.gossip == StatusLeft, r.gossip == StatusDead && r.heard.Before(r.since):
		return r.gossip
	case r.gossip == "" && r.heard.IsZero(), time.Since(r.heard) > quiet && r.gossip != StatusAlive:
		return StatusSuspect
	}
	return StatusAlive
}
