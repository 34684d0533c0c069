package cluster

import (
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/fsm"
)

// The log stores that a data directory may hold.
const (
	// LogStoreBolt keeps the log in one bbolt file.
	LogStoreBolt = "boltdb"
	// LogStoreWAL keeps it in segment files that are appended to.
	LogStoreWAL = "wal"
)

// Config says what one node is and how it reaches the others.
type Config struct {
	// Name is the node's identity, unique in the cluster and kept for ever.
	Name string
	// Zone is where the node stands; voters are spread over zones.
	Zone string
	// DataDir holds the log, the snapshots and the identity file.
	DataDir string
	// Incarnation tells the processes of a node apart: it must grow with
	// every start, as the time of the start in nanoseconds does.
	Incarnation uint64

	// PeerAddr and GossipAddr are the addresses to listen on.
	PeerAddr   string
	GossipAddr string
	// AdvertisePeer and AdvertiseGossip are what other nodes dial: "" for the
	// address listened on, "auto" for the IP address that leads to the join
	// peers, or a host or host:port.
	AdvertisePeer   string
	AdvertiseGossip string
	// APIAddr is where clients reach this node; the others learn it by gossip.
	APIAddr string

	// BootstrapExpect is the number of nodes that found the cluster.
	BootstrapExpect int
	// Join lists gossip addresses. It may hold this node's own.
	Join []string

	// NonVoter keeps this node from ever becoming a voter.
	NonVoter bool
	// MaxVoters bounds the voters; further nodes hold the state only.
	MaxVoters int
	// DeadVoterGrace is how long a voter may be dead before it is removed.
	DeadVoterGrace time.Duration

	// Timing is the profile of timers; the zero value means LAN.
	Timing Timing
	// LogStore names the store of the Raft log, "boltdb" by default.
	LogStore string

	// Logger takes the node's log; nil discards it.
	Logger *slog.Logger
	// Metrics is where the node's metrics are registered; nil for nowhere.
	Metrics prometheus.Registerer
	// Network and Storage replace the real ones; nil means the real ones.
	Network Network
	Storage Storage
}

// Timing is a profile of timers that fit each other.
type Timing struct {
	// Heartbeat, Election, Lease and Commit are Raft's.
	Heartbeat, Election, Lease, Commit time.Duration
	// DiskStall is how long an append or an apply may take before a leader
	// hands over.
	DiskStall time.Duration
	// PeerTimeout bounds a call between nodes that has no other deadline.
	PeerTimeout time.Duration
	// Redial bounds the dial that decides whether a silent leader is dead,
	// and Stagger separates the candidates after it.
	Redial, Stagger time.Duration
	// Probe, ProbeTimeout, Gossip and PushPull are memberlist's, as is
	// SuspicionMult.
	Probe, ProbeTimeout, Gossip, PushPull time.Duration
	SuspicionMult                         int
	// Rejoin is the time between two attempts to reach join peers that are
	// not members.
	Rejoin time.Duration
	// Reconcile is the time between two looks of the leader at the members.
	Reconcile time.Duration
	// Digest is the time between two comparisons of the state.
	Digest time.Duration
	// SnapshotInterval, SnapshotThreshold and TrailingLogs say when the log
	// is cut.
	SnapshotInterval                time.Duration
	SnapshotThreshold, TrailingLogs uint64
}

// LAN returns the timers for machines within a few milliseconds of each other.
func LAN() Timing {
	return Timing{
		Heartbeat: 200 * time.Millisecond, Election: 200 * time.Millisecond, Lease: 150 * time.Millisecond,
		Commit: 25 * time.Millisecond, DiskStall: 350 * time.Millisecond, PeerTimeout: 2 * time.Second,
		Redial: 50 * time.Millisecond, Stagger: 40 * time.Millisecond,
		Probe: 500 * time.Millisecond, ProbeTimeout: 200 * time.Millisecond, Gossip: 100 * time.Millisecond,
		PushPull: 7 * time.Second, SuspicionMult: 3,
		Rejoin: 4 * time.Second, Reconcile: 500 * time.Millisecond, Digest: 2 * time.Second,
		SnapshotInterval: 30 * time.Second, SnapshotThreshold: 8192, TrailingLogs: 4096,
	}
}

// WAN returns the timers for machines up to about 200 ms apart.
func WAN() Timing {
	t := LAN()
	t.Heartbeat, t.Election, t.Lease = 1500*time.Millisecond, 1500*time.Millisecond, time.Second
	t.Commit, t.DiskStall, t.PeerTimeout = 50*time.Millisecond, 1500*time.Millisecond, 8*time.Second
	t.Redial, t.Stagger = 600*time.Millisecond, 400*time.Millisecond
	t.Probe, t.ProbeTimeout, t.Gossip = 2*time.Second, time.Second, 300*time.Millisecond
	t.PushPull, t.SuspicionMult = 20*time.Second, 4
	t.Rejoin, t.Reconcile, t.Digest = 10*time.Second, 2*time.Second, 5*time.Second
	return t
}

// fields collects every problem of a configuration.
type fields []fsm.FieldError

func (f *fields) check(ok bool, field, format string, args ...any) {
	if !ok {
		*f = append(*f, fsm.FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
}

// normalised returns c with its defaults, or one error about every bad field.
func (c Config) normalised() (Config, error) {
	if c.Timing == (Timing{}) {
		c.Timing = LAN()
	}
	c.MaxVoters = orDefault(c.MaxVoters, 5)
	c.DeadVoterGrace = orDefault(c.DeadVoterGrace, 10*time.Minute)
	c.LogStore = orDefault(c.LogStore, LogStoreBolt)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	var f fields
	f.check(fsm.ValidName(c.Name), "name", "must match %s", fsm.NamePattern)
	f.check(c.Zone == "" || fsm.ValidName(c.Zone), "zone", "must match %s", fsm.NamePattern)
	f.check(c.DataDir != "" || c.Storage != nil, "dataDir", "is required")
	f.check(c.Incarnation > 0, "incarnation", "is required")
	f.address("peerAddr", c.PeerAddr)
	f.address("gossipAddr", c.GossipAddr)
	f.advertise("advertisePeer", c.AdvertisePeer, c.PeerAddr, c.Join)
	f.advertise("advertiseGossip", c.AdvertiseGossip, c.GossipAddr, c.Join)
	f.check(c.BootstrapExpect >= 1 && c.BootstrapExpect <= 9, "bootstrapExpect", "must be 1 to 9")
	f.check(c.BootstrapExpect <= 1 || len(c.Join) > 0, "join", "is required when more than one node is expected")
	for _, j := range c.Join {
		f.address("join", j)
	}
	f.check(c.MaxVoters >= 1 && c.MaxVoters <= 9, "maxVoters", "must be 1 to 9")
	f.check(c.MaxVoters >= c.BootstrapExpect, "maxVoters", "must not be below bootstrapExpect")
	f.check(c.DeadVoterGrace > 0, "deadVoterGrace", "must be positive")
	f.check(slices.Contains([]string{LogStoreBolt, LogStoreWAL}, c.LogStore), "logStore", "must be boltdb or wal")
	f.check(len(encodeMeta(c.self())) <= maxGossipMeta, "apiAddr", "is too long: zone and addresses must fit in %d bytes of gossip", maxGossipMeta)
	f = append(f, c.Timing.problems()...)
	if len(f) > 0 {
		return c, &fsm.Error{Kind: fsm.Invalid, Noun: "node configuration", Key: c.Name, Message: "is not valid", Fields: f}
	}
	return c, nil
}

// self is the node's entry in the address book, before it listens.
func (c Config) self() peerInfo {
	return peerInfo{
		Name: c.Name, Zone: c.Zone, Inc: c.Incarnation, Expect: c.BootstrapExpect, NonVoter: c.NonVoter, Tentative: true,
		Peer: orDefault(c.AdvertisePeer, c.PeerAddr), Gossip: orDefault(c.AdvertiseGossip, c.GossipAddr), API: c.APIAddr,
	}
}

func (t Timing) problems() (f fields) {
	f.check(t.Heartbeat >= 10*time.Millisecond, "timing.heartbeat", "must be at least 10ms")
	f.check(t.Election >= t.Heartbeat, "timing.election", "must not be below the heartbeat")
	f.check(t.Lease > 0 && t.Lease <= t.Heartbeat, "timing.lease", "must be positive and not above the heartbeat")
	f.check(t.Commit >= time.Millisecond && t.Commit < t.Lease, "timing.commit", "must be at least 1ms and below the lease")
	for name, d := range map[string]time.Duration{
		"diskStall": t.DiskStall, "peerTimeout": t.PeerTimeout, "redial": t.Redial, "stagger": t.Stagger,
		"probe": t.Probe, "probeTimeout": t.ProbeTimeout, "gossip": t.Gossip, "pushPull": t.PushPull,
		"rejoin": t.Rejoin, "reconcile": t.Reconcile, "digest": t.Digest, "snapshotInterval": t.SnapshotInterval,
	} {
		f.check(d > 0, "timing."+name, "must be positive")
	}
	f.check(t.SuspicionMult > 0, "timing.suspicionMult", "must be positive")
	f.check(t.SnapshotThreshold > 0, "timing.snapshotThreshold", "must be positive")
	slices.SortFunc(f, func(a, b fsm.FieldError) int { return compareStrings(a.Field, b.Field) })
	return f
}

func (f *fields) address(field, addr string) {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	f.check(err == nil, field, "%q is not host:port", addr)
}

// advertise refuses addresses that other nodes can not dial.
func (f *fields) advertise(field, advertise, bind string, join []string) {
	host, _, err := net.SplitHostPort(bind)
	if err != nil || advertise == "auto" {
		return
	}
	if advertise != "" {
		host = hostOf(advertise)
	}
	ip := net.ParseIP(host)
	if host == "" || (ip != nil && ip.IsUnspecified()) {
		f.check(false, field, "other nodes can not dial %q; set it to this machine's address, or to \"auto\"", host)
		return
	}
	if ip == nil || !ip.IsLoopback() {
		return
	}
	for _, j := range join {
		if other := net.ParseIP(hostOf(j)); other != nil && !other.IsLoopback() {
			f.check(false, field, "is a loopback address, which %s can not dial; set it to this machine's address, or to \"auto\"", j)
			return
		}
	}
}

// hostOf returns the host of host or host:port.
func hostOf(addr string) string {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		return host
	}
	return addr
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

func compareStrings(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// advertised completes an advertised address after the node listens on bound:
// it finds the host for "auto", and the port where none was given.
func advertised(want string, bound net.Addr, join []string) (string, error) {
	host, port, err := net.SplitHostPort(bound.String())
	if err != nil {
		return "", fmt.Errorf("listening address %q: %w", bound, err)
	}
	switch {
	case want == "":
	case want == "auto":
		if host, err = routeTo(join); err != nil {
			return "", err
		}
	default:
		host = hostOf(want)
		if _, p, err := net.SplitHostPort(want); err == nil && p != "0" {
			port = p
		}
	}
	return net.JoinHostPort(host, port), nil
}

// AdvertisedHost returns the host that other nodes reach this one at, from what
// is to be advertised, the address to listen on, and the join peers: as the
// node itself finds it for its peer port.
func AdvertisedHost(want, bind string, join []string) (string, error) {
	addr, err := advertised(want, listenAddr(bind), join)
	return hostOf(addr), err
}

// listenAddr is a configured host:port as a [net.Addr].
type listenAddr string

func (listenAddr) Network() string  { return "tcp" }
func (a listenAddr) String() string { return string(a) }

// routeTo returns the local IP address from which the first reachable join
// peer is reached. No packet is sent.
func routeTo(join []string) (string, error) {
	var last error
	for _, j := range join {
		conn, err := net.Dial("udp", j)
		if err != nil {
			last = err
			continue
		}
		host := hostOf(conn.LocalAddr().String())
		if err := conn.Close(); err != nil {
			return "", err
		}
		return host, nil
	}
	return "", fsm.Errorf(fsm.Invalid, "advertised address", "auto", "can not be found: no route to a join peer (%v)", last).
		WithHint("set the advertised address to this machine's address")
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
