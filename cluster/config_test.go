package cluster_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/fsm"
)

func goodConfig(t *testing.T) cluster.Config {
	return cluster.Config{
		Name: "n1", DataDir: t.TempDir(), Incarnation: 1, PeerAddr: "127.0.0.1:0", GossipAddr: "127.0.0.1:0",
		APIAddr: "127.0.0.1:1", BootstrapExpect: 1,
	}
}

func TestConfigNamesEveryBadField(t *testing.T) {
	if _, err := cluster.Open(goodConfig(t)); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	cases := []struct {
		what   string
		change func(*cluster.Config)
		fields []string
	}{
		{"nothing set", func(c *cluster.Config) { *c = cluster.Config{} }, []string{"name", "dataDir", "incarnation", "peerAddr", "gossipAddr", "bootstrapExpect"}},
		{"no peers", func(c *cluster.Config) { c.BootstrapExpect = 3 }, []string{"join"}},
		{"bad names", func(c *cluster.Config) { c.Name, c.Zone = "N1", "a b" }, []string{"name", "zone"}},
		{"any address", func(c *cluster.Config) { c.PeerAddr, c.GossipAddr = "0.0.0.0:1", ":2" }, []string{"advertisePeer", "advertiseGossip"}},
		{"loopback to elsewhere", func(c *cluster.Config) { c.Join = []string{"10.0.0.1:1"} }, []string{"advertisePeer", "advertiseGossip"}},
		{"any address, advertised", func(c *cluster.Config) {
			c.PeerAddr, c.GossipAddr, c.AdvertisePeer, c.AdvertiseGossip = "0.0.0.0:1", "0.0.0.0:2", "10.0.0.9", "auto"
		}, nil},
		{"no ports", func(c *cluster.Config) { c.PeerAddr, c.Join = "127.0.0.1", []string{"x"} }, []string{"peerAddr", "join"}},
		{"too few voters", func(c *cluster.Config) { c.BootstrapExpect, c.MaxVoters, c.Join = 5, 3, []string{"127.0.0.1:1"} }, []string{"maxVoters"}},
		{"timers that do not fit", func(c *cluster.Config) {
			c.Timing = cluster.LAN()
			c.Timing.Lease, c.Timing.Election = time.Second, time.Millisecond
		}, []string{"timing.election", "timing.lease"}},
		{"a log store that is not", func(c *cluster.Config) { c.LogStore = "tape" }, []string{"logStore"}},
		{"too much gossip", func(c *cluster.Config) { c.APIAddr = strings.Repeat("a", 600) + ":1" }, []string{"apiAddr"}},
	}
	for _, c := range cases {
		cfg := goodConfig(t)
		c.change(&cfg)
		_, err := cluster.Open(cfg)
		var e *fsm.Error
		if c.fields == nil {
			if err != nil {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if !errors.As(err, &e) || e.Kind != fsm.Invalid {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		for _, f := range c.fields {
			if !slices.ContainsFunc(e.Fields, func(fe fsm.FieldError) bool { return fe.Field == f }) {
				t.Errorf("%s: %s is not named in %v", c.what, f, e)
			}
		}
	}
}

func TestProfilesAreValid(t *testing.T) {
	for _, timing := range []cluster.Timing{cluster.LAN(), cluster.WAN()} {
		cfg := goodConfig(t)
		cfg.Timing = timing
		if _, err := cluster.Open(cfg); err != nil {
			t.Error(err)
		}
	}
}

func TestDataDirectoriesThatAreRefused(t *testing.T) {
	cases := map[string]func(dir string) error{
		"newer format": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "cluster.json"), []byte(`{"format":99,"name":"n1"}`), 0o600)
		},
		"belongs to node": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "cluster.json"), []byte(`{"format":1,"name":"n2"}`), 0o600)
		},
		"damaged": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "cluster.json"), []byte(`{"format":`), 0o600)
		},
		"left its cluster": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "cluster.json"), []byte(`{"format":1,"name":"n1","left":true}`), 0o600)
		},
		"log of the wal store": func(dir string) error { return os.Mkdir(filepath.Join(dir, "wal"), 0o700) },
		"can not be opened": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "raft.db"), []byte("this is not a database, and long enough to be looked at"), 0o600)
		},
	}
	for what, prepare := range cases {
		cfg := goodConfig(t)
		if err := prepare(cfg.DataDir); err != nil {
			t.Fatal(err)
		}
		c, err := cluster.Open(cfg)
		if err == nil {
			err = c.Start(within(t))
			c.Kill()
		}
		var e *fsm.Error
		if !errors.As(err, &e) || e.Hint == "" || !(strings.Contains(err.Error(), what) || what == "newer format") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestMetricsArePresentAtZero(t *testing.T) {
	reg := prometheus.NewRegistry()
	cfg := goodConfig(t)
	cfg.Metrics = reg
	if _, err := cluster.Open(cfg); err != nil {
		t.Fatal(err)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, want := range []string{
		"proposals_total", "proposal_seconds", "commit_seconds", "batch_commands", "log_store_seconds", "queue_commands",
		"forward_retries_total", "leader_gains_total", "read_rounds_total", "readers_total", "digest_mismatches_total",
		"heals_total", "disk_handovers_total", "crash_elections_total", "term", "applied_index", "leader", "stale_seconds", "serving",
	} {
		if !names["paceline_cluster_"+want] {
			t.Errorf("paceline_cluster_%s is missing", want)
		}
	}
}

func TestNodeThatNeverStarted(t *testing.T) {
	c, err := cluster.Open(goodConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	if s := c.Status(); s.Problem == "" || s.Node != "n1" {
		t.Errorf("the status is %+v", s)
	}
	if _, _, ok := c.Leader(); ok {
		t.Error("it knows a leader")
	}
	if c.Ready() == nil {
		t.Error("it is ready")
	}
	if err := c.Stop(within(t)); err != nil {
		t.Error(err)
	}
	if err := c.Start(within(t)); err == nil {
		t.Error("it starts after its stop")
	}
}
