package node

import (
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/pacelinehq/paceline/fsm"
)

// Config is everything that one node is told. Its flags, its environment
// variables (PACELINE_ and the flag's name in capitals) and the keys of its
// YAML file are one schema: the flag set that [Config.Flags] fills.
type Config struct {
	Name    string
	Zone    string
	Labels  map[string]string
	DataDir string

	APIAddr         string
	PeerAddr        string
	GossipAddr      string
	TrafficAddr     string
	Advertise       string
	PublicAPI       string
	BootstrapExpect int
	Join            []string
	NonVoter        bool
	MaxVoters       int
	DeadNodeGrace   time.Duration
	Profile         string
	LogStore        string

	TokenFile string
	Insecure  bool

	TrustedProxies []string
	ProxyProtocol  bool
	TrafficCert    string
	TrafficKey     string
	AccessLog      float64

	DNSAddr   string
	DNSDomain string
	DNSTTL    time.Duration

	XDSAddr string

	Allow           []string
	CPU             float64
	MemoryMiB       int64
	InstanceAddress string
	InstancePorts   string

	EvaluationInterval time.Duration
	DebugAddr          string
	LogLevel           string
	LogFormat          string

	// Version is stamped by the build; it is not a flag.
	Version string
	// Logger is where the node logs; nil means as LogLevel and LogFormat say,
	// to standard error.
	Logger *slog.Logger
	// SampleArgs is how the node's own binary is started as the sample
	// application; nil means os.Executable() and "sample".
	SampleArgs []string
	// EndInstances ends the node's instances when the node stops, which
	// otherwise leaves them running for its next process.
	EndInstances bool
}

// WithDefaults returns c with the defaults of the flags.
func (c Config) WithDefaults() Config {
	c.Flags(pflag.NewFlagSet("", pflag.ContinueOnError))
	return c
}

// Flags defines the node's flags on a flag set, with the values of c as
// defaults for those that are set.
func (c *Config) Flags(f *pflag.FlagSet) {
	f.StringVar(&c.Name, "name", c.Name, "name of this node, its identity in the cluster (default: the host name)")
	f.StringVar(&c.Zone, "zone", c.Zone, "zone that this node stands in; instances are spread over zones")
	f.StringToStringVar(&c.Labels, "label", c.Labels, "label of this node, key=value; repeatable")
	f.StringVar(&c.DataDir, "data-dir", or(c.DataDir, "data"), "directory of the Raft log, snapshots and instances")

	f.StringVar(&c.APIAddr, "api-addr", or(c.APIAddr, "127.0.0.1:7700"), "address of the HTTP API")
	f.StringVar(&c.PeerAddr, "peer-addr", or(c.PeerAddr, "127.0.0.1:7701"), "address for Raft and forwarding between nodes")
	f.StringVar(&c.GossipAddr, "gossip-addr", or(c.GossipAddr, "127.0.0.1:7702"), "address for gossip, TCP and UDP")
	f.StringVar(&c.TrafficAddr, "traffic-addr", or(c.TrafficAddr, "127.0.0.1:7780"), "address where the services' HTTP traffic is accepted, or \"off\"; services with ports of their own use its host")
	f.StringVar(&c.Advertise, "advertise", c.Advertise, "IP address that other nodes reach this one at, or \"auto\"")
	f.StringVar(&c.PublicAPI, "public-api", c.PublicAPI, "host:port of the API as clients see it (default: the advertised address)")

	f.IntVar(&c.BootstrapExpect, "bootstrap-expect", or(c.BootstrapExpect, 1), "number of nodes that found the cluster together; the same on all of them")
	f.StringSliceVar(&c.Join, "join", c.Join, "gossip addresses of nodes to join; may hold this one")
	f.BoolVar(&c.NonVoter, "non-voter", c.NonVoter, "never become a voter of Raft")
	f.IntVar(&c.MaxVoters, "max-voters", or(c.MaxVoters, 5), "further nodes are non-voters")
	f.DurationVar(&c.DeadNodeGrace, "dead-node-grace", or(c.DeadNodeGrace, 10*time.Minute), "how long a voter may be dead before the leader removes it")
	f.StringVar(&c.Profile, "profile", or(c.Profile, "lan"), "timers of Raft and gossip: lan or wan")
	f.StringVar(&c.LogStore, "raft-log-store", or(c.LogStore, "boltdb"), "store of the Raft log: boltdb, or wal for shorter and more writes; it is chosen for good when the data directory is new")

	f.StringVar(&c.TokenFile, "token-file", c.TokenFile, "file of API tokens, a line each: role:token")
	f.BoolVar(&c.Insecure, "insecure", c.Insecure, "allow other addresses than loopback without TLS and tokens")

	f.StringSliceVar(&c.TrustedProxies, "trusted-proxies", c.TrustedProxies, "networks of proxies in front whose X-Forwarded-* fields are believed, such as 10.0.0.0/8; repeatable")
	f.BoolVar(&c.ProxyProtocol, "proxy-protocol", c.ProxyProtocol, "connections of trusted proxies begin with a PROXY protocol header, version 2")
	f.StringVar(&c.TrafficCert, "traffic-cert", c.TrafficCert, "PEM file of the traffic address's certificate chain; it then speaks TLS and HTTP/2")
	f.StringVar(&c.TrafficKey, "traffic-key", c.TrafficKey, "PEM file of that certificate's key")
	f.Float64Var(&c.AccessLog, "access-log", c.AccessLog, "share of the proxied requests that are logged, 0 to 1; failed ones are always, when it is above 0")

	f.StringVar(&c.DNSAddr, "dns-addr", or(c.DNSAddr, trafficOff), "address of the DNS server for services, UDP and TCP, such as 127.0.0.1:7753, or \"off\"")
	f.StringVar(&c.DNSDomain, "dns-domain", or(c.DNSDomain, "paceline"), "domain that the DNS server answers for: GROUP.DOMAIN")
	f.DurationVar(&c.DNSTTL, "dns-ttl", c.DNSTTL, "how long clients may keep answers of the DNS server")

	f.StringVar(&c.XDSAddr, "xds-addr", or(c.XDSAddr, trafficOff), "address of the xDS server for gRPC clients, such as 127.0.0.1:7754, or \"off\"; needs a binary built with xDS")

	f.StringSliceVar(&c.Allow, "allow", c.Allow, "executable that templates may run: an absolute path, or a directory ending in /; repeatable")
	f.Float64Var(&c.CPU, "cpu", c.CPU, "cores offered to instances (default: all)")
	f.Int64Var(&c.MemoryMiB, "memory", c.MemoryMiB, "MiB of memory offered to instances (default: all)")
	f.StringVar(&c.InstanceAddress, "instance-address", c.InstanceAddress, "IP address that instances listen on (default: the advertised one)")
	f.StringVar(&c.InstancePorts, "instance-ports", or(c.InstancePorts, "20000-29999"), "range of ports given to instances")

	f.DurationVar(&c.EvaluationInterval, "evaluation-interval", or(c.EvaluationInterval, 5*time.Second), "time between two evaluations of the policies")
	f.StringVar(&c.DebugAddr, "debug-addr", c.DebugAddr, "loopback address for Go's profiles (/debug/pprof); empty for none")
	f.StringVar(&c.LogLevel, "log-level", or(c.LogLevel, "info"), "debug, info, warn or error")
	f.StringVar(&c.LogFormat, "log-format", or(c.LogFormat, "auto"), "text, json, or auto: text on a terminal")
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// normalise fills in what depends on the machine and refuses what can not
// work, naming every problem at once.
func (c *Config) normalise() error {
	var problems []string
	bad := func(flag, format string, args ...any) {
		problems = append(problems, "--"+flag+" "+fmt.Sprintf(format, args...))
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			bad("name", "is not set and the host name is not known: %v", err)
		}
		c.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if !fsm.ValidName(c.Name) {
		bad("name", "%q must match %s", c.Name, fsm.NamePattern)
	}
	if c.Zone != "" && !fsm.ValidName(c.Zone) {
		bad("zone", "%q must match %s", c.Zone, fsm.NamePattern)
	}
	if c.BootstrapExpect < 1 {
		bad("bootstrap-expect", "must be 1 or more")
	}
	if c.BootstrapExpect > 1 && len(c.Join) == 0 {
		bad("join", "is required when --bootstrap-expect is above 1; give every node the same list")
	}
	if c.Profile != "lan" && c.Profile != "wan" {
		bad("profile", "must be lan or wan")
	}
	if c.EvaluationInterval < 100*time.Millisecond {
		bad("evaluation-interval", "must be 100ms or more")
	}
	if _, _, err := c.portRange(); err != nil {
		bad("instance-ports", "%v", err)
	}
	for _, a := range c.Allow {
		if !filepath.IsAbs(a) {
			bad("allow", "%q must be an absolute path", a)
		}
	}
	c.checkBinds(bad)
	c.checkTraffic(bad)
	if c.XDSAddr != trafficOff && !hasXDS {
		bad("xds-addr", "can not be used: this binary was built without xDS; build it with `make build XDS=1`")
	}
	if c.DebugAddr != "" && !isLoopback(c.DebugAddr) {
		bad("debug-addr", "%q must be a loopback address: profiles are for whoever is on the machine", c.DebugAddr)
	}
	if len(problems) > 0 {
		return fsm.Errorf(fsm.Invalid, "configuration", "", "%s", strings.Join(problems, "; "))
	}
	dir, err := filepath.Abs(c.DataDir)
	c.DataDir = dir
	return err
}

// checkBinds refuses to serve strangers by accident.
func (c *Config) checkBinds(bad func(flag, format string, args ...any)) {
	for _, b := range [][2]string{{"api-addr", c.APIAddr}, {"peer-addr", c.PeerAddr}, {"gossip-addr", c.GossipAddr}, {"xds-addr", c.XDSAddr}} {
		flag, addr := b[0], b[1]
		if flag == "xds-addr" && addr == trafficOff {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			bad(flag, "%q is not host:port", addr)
			continue
		}
		if !isLoopback(addr) && !c.Insecure {
			bad(flag, "%s can be reached by other machines, and there is no TLS between nodes yet; bind to loopback, or say --insecure on a network you trust", addr)
		}
	}
}

// trafficOff is the value of --traffic-addr, --dns-addr and --xds-addr for a
// node without a proxy, a DNS server or an xDS server.
const trafficOff = "off"

// checkTraffic checks what the proxy is told. Its address may be reached by
// strangers: that is what it is for.
func (c *Config) checkTraffic(bad func(flag, format string, args ...any)) {
	if c.TrafficAddr != trafficOff {
		if _, _, err := net.SplitHostPort(c.TrafficAddr); err != nil {
			bad("traffic-addr", "%q is not host:port, nor %q", c.TrafficAddr, trafficOff)
		}
	}
	if c.DNSAddr != trafficOff {
		if _, _, err := net.SplitHostPort(c.DNSAddr); err != nil {
			bad("dns-addr", "%q is not host:port, nor %q", c.DNSAddr, trafficOff)
		}
	}
	if _, err := c.trusted(); err != nil {
		bad("trusted-proxies", "%v", err)
	}
	if c.ProxyProtocol && len(c.TrustedProxies) == 0 {
		bad("proxy-protocol", "needs --trusted-proxies: anybody could name any client otherwise")
	}
	if (c.TrafficCert == "") != (c.TrafficKey == "") {
		bad("traffic-cert", "and --traffic-key belong together")
	}
	if c.AccessLog < 0 || c.AccessLog > 1 {
		bad("access-log", "must be between 0 and 1")
	}
}

// trusted parses the networks of trusted proxies; an address is a network of
// one.
func (c *Config) trusted() ([]netip.Prefix, error) {
	var list []netip.Prefix
	for _, s := range c.TrustedProxies {
		p, err := netip.ParsePrefix(s)
		if a, err2 := netip.ParseAddr(s); err2 == nil {
			p, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil {
			return nil, fmt.Errorf("has %q, which is neither a network such as 10.0.0.0/8 nor an address", s)
		}
		list = append(list, p)
	}
	return list, nil
}

func (c *Config) portRange() (from, to int, err error) {
	if _, err := fmt.Sscanf(c.InstancePorts, "%d-%d", &from, &to); err != nil || from < 1 || to > 65535 || from > to {
		return 0, 0, fmt.Errorf("%q must be a range such as 20000-29999", c.InstancePorts)
	}
	return from, to, nil
}

// isLoopback reports whether only this machine reaches an address.
func isLoopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || (ip != nil && ip.IsLoopback()))
}
