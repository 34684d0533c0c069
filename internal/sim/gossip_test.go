package sim_test

import (
	"cmp"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/internal/sim"
)

// lan is a good path between two machines of a room.
var lan = sim.Path{Delay: 150 * time.Microsecond, Jitter: 250 * time.Microsecond}

// crowd is the gossip of some nodes, as a node configures it, on a network
// that loses packets. Nothing else of the nodes runs.
type crowd struct {
	t     testing.TB
	net   *sim.Network
	list  []*memberlist.Memberlist
	hosts []string

	packets  atomic.Int64
	suspects atomic.Int64 // suspicions that a node came to by its own probes

	mu   sync.Mutex
	gone map[string]bool      // those that were taken from the network
	dead map[string]int       // how often a living node was taken for dead
	when map[string]time.Time // the last time
	seen map[string]time.Time // real deaths, by who learnt of it
}

// Write takes memberlist's log, which tells of suspicions.
func (c *crowd) Write(b []byte) (int, error) {
	if strings.Contains(string(b), "Suspect ") {
		c.suspects.Add(1)
	}
	return len(b), nil
}

// view is one node's eye on the others.
type view struct {
	c    *crowd
	name string
}

// NotifyJoin implements [memberlist.EventDelegate].
func (v *view) NotifyJoin(*memberlist.Node) {}

// NotifyUpdate implements [memberlist.EventDelegate].
func (v *view) NotifyUpdate(*memberlist.Node) {}

// NotifyLeave implements [memberlist.EventDelegate].
func (v *view) NotifyLeave(n *memberlist.Node) {
	v.c.mu.Lock()
	defer v.c.mu.Unlock()
	switch {
	case v.c.gone[v.name]: // what it thinks reaches nobody
	case v.c.gone[n.Name]:
		v.c.seen[v.name] = time.Now()
	default:
		// What one node says of another goes round, and is one death.
		if now := time.Now(); v.c.when[n.Name].IsZero() || now.Sub(v.c.when[n.Name]) > 10*time.Second {
			v.c.dead[n.Name]++
			v.c.when[n.Name] = now
		}
	}
}

// counted counts the packets that a node sends.
type counted struct {
	memberlist.NodeAwareTransport
	c *crowd
}

func (t *counted) WriteTo(b []byte, addr string) (time.Time, error) {
	t.c.packets.Add(1)
	return t.NodeAwareTransport.WriteTo(b, addr)
}

func (t *counted) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	t.c.packets.Add(1)
	return t.NodeAwareTransport.WriteToAddress(b, a)
}

// gather starts nodes that all know each other. It must be called in a bubble,
// and what it returns must be parted there.
func gather(t testing.TB, seed uint64, n int, config func() *memberlist.Config) *crowd {
	t.Helper()
	c := &crowd{t: t, net: sim.NewNetwork(seed), gone: map[string]bool{}, dead: map[string]int{}, when: map[string]time.Time{}}
	for k := range n {
		c.hosts = append(c.hosts, fmt.Sprintf("10.0.%d.%d", k/250, k%250+1))
	}
	c.weather(0)
	for k, host := range c.hosts {
		m := config()
		m.Name = fmt.Sprint("n", k+1)
		transport, err := c.net.Host(host).Gossip(net.JoinHostPort(host, "7702"))
		if err != nil {
			t.Fatal(err)
		}
		m.Transport = &counted{transport, c}
		m.AdvertiseAddr, m.AdvertisePort, m.BindAddr, m.BindPort = host, 7702, host, 7702
		m.Events, m.Logger = &view{c, m.Name}, log.New(c, "", 0)
		list, err := memberlist.Create(m)
		if err != nil {
			t.Fatal(err)
		}
		c.list = append(c.list, list)
		if k > 0 {
			if _, err := list.Join([]string{net.JoinHostPort(c.hosts[0], "7702")}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(10 * time.Minute); !c.complete(); {
		if time.Now().After(deadline) {
			t.Fatal("the nodes do not find each other")
		}
		c.pass(time.Second)
	}
	return c
}

// pass lets virtual time pass.
func (c *crowd) pass(d time.Duration) {
	time.Sleep(d) //archtest:ok virtual time of testing/synctest
}

func (c *crowd) complete() bool {
	for _, l := range c.list {
		if l.NumMembers() < len(c.list) {
			return false
		}
	}
	return true
}

// weather makes every path lose packets, and parts of streams.
func (c *crowd) weather(loss float64) {
	p := lan
	p.Loss, p.StreamLoss = loss, loss
	for _, a := range c.hosts {
		for _, b := range c.hosts {
			if a != b {
				c.net.SetPath(a, b, p)
			}
		}
	}
}

// vanish takes a node from the network, without a word to anybody, and returns
// how long the first and the last of the others took to hold it for dead.
func (c *crowd) vanish(k int, loss float64) (first, last time.Duration) {
	c.t.Helper()
	c.mu.Lock()
	c.gone, c.seen = map[string]bool{fmt.Sprint("n", k+1): true}, map[string]time.Time{}
	c.mu.Unlock()
	cut := sim.Path{CutPackets: true, CutStreams: true}
	for _, other := range c.hosts {
		if other != c.hosts[k] {
			c.net.SetPath(c.hosts[k], other, cut)
			c.net.SetPath(other, c.hosts[k], cut)
		}
	}
	at := time.Now()
	for deadline := at.Add(5 * time.Minute); ; c.pass(10 * time.Millisecond) {
		c.mu.Lock()
		done := len(c.seen) == len(c.hosts)-1
		c.mu.Unlock()
		if done {
			break
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("only %d of %d have noticed", len(c.seen), len(c.hosts)-1)
		}
	}
	first = time.Hour
	for _, when := range c.seen {
		first, last = min(first, when.Sub(at)), max(last, when.Sub(at))
	}
	c.weather(loss)
	for deadline := time.Now().Add(10 * time.Minute); !c.complete(); c.pass(time.Second) {
		if time.Now().After(deadline) {
			c.t.Fatal("the node is not taken back")
		}
		// The node's own process tries its join peers, as cluster does.
		_, _ = c.list[k].Join([]string{net.JoinHostPort(c.hosts[(k+1)%len(c.hosts)], "7702")})
	}
	c.mu.Lock()
	c.gone = map[string]bool{}
	c.mu.Unlock()
	return first, last
}

// falseDeaths is how often a living node was taken for dead.
func (c *crowd) falseDeaths() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.dead {
		n += k
	}
	return n
}

// part ends the nodes.
func (c *crowd) part() {
	for _, l := range c.list {
		if err := l.Shutdown(); err != nil {
			c.t.Error(err)
		}
	}
	c.pass(time.Minute) // what waits for an answer gives up
}

// TestGossipAtLoss has nodes gossip while a quarter of the packets is lost: next
// to no living one is taken for dead, and one that vanishes is, soon. Three nodes are
// the hardest: each piece of news has the fewest ways to go round.
func TestGossipAtLoss(t *testing.T) {
	const span, deaths = 8 * time.Minute, 3
	for _, tt := range []struct {
		nodes  int
		loss   float64
		within time.Duration // until all have noticed a death
	}{{3, 0, 4 * time.Second}, {3, 0.25, 8 * time.Second}, {7, 0.25, 8 * time.Second}} {
		t.Run(fmt.Sprintf("%d nodes, %g lost", tt.nodes, tt.loss), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := gather(t, 1, tt.nodes, func() *memberlist.Config { return cluster.GossipConfig(cluster.LAN()) })
				defer c.part()
				c.weather(tt.loss)
				c.pass(span * 3 / time.Duration(tt.nodes))
				// One is seen in some ten node-hours; without enough repetition
				// of the news it is a dozen in each.
				if n := c.falseDeaths(); n > 2 || n > 0 && tt.loss == 0 {
					t.Errorf("living nodes were taken for dead %d times: %v", n, c.dead)
				}
				if suspects := c.suspects.Load(); tt.loss > 0 && suspects == 0 {
					t.Error("nobody was ever suspected: the test has shown nothing")
				}
				for k := range deaths {
					if _, last := c.vanish(k%tt.nodes, tt.loss); last > tt.within {
						t.Errorf("the death of a node was known to all after %s, want %s", last, tt.within)
					}
				}
			})
		})
	}
}

var (
	gossipHours  = flag.Float64("gossip.hours", 1, "node-hours of each line of TestMeasureGossip")
	gossipTrials = flag.Int("gossip.trials", 20, "deaths of each line of TestMeasureGossip")
	gossipOnly   = flag.String("gossip.only", "", "configurations of TestMeasureGossip, by comma: memberlist, paceline, few news, quicker")
	gossipSizes  = flag.String("gossip.sizes", "3,10", "numbers of nodes")
	gossipLoss   = flag.String("gossip.loss", "0,0.1,0.25", "shares of packets that are lost")
	gossipSeed   = flag.Uint64("gossip.seed", 1, "seed")
)

// variants are what paceline's gossip is compared with.
func variants() map[string]func() *memberlist.Config {
	return map[string]func() *memberlist.Config{
		"memberlist": memberlist.DefaultLANConfig,
		"paceline":   func() *memberlist.Config { return cluster.GossipConfig(cluster.LAN()) },
		"few news": func() *memberlist.Config {
			m := cluster.GossipConfig(cluster.LAN())
			m.RetransmitMult = 4 // memberlist's own
			return m
		},
		"quicker": func() *memberlist.Config {
			m := cluster.GossipConfig(cluster.LAN())
			m.ProbeInterval, m.ProbeTimeout, m.SuspicionMult = 200*time.Millisecond, 80*time.Millisecond, 8
			return m
		},
	}
}

// TestMeasureGossip prints what configurations of gossip are good for.
func TestMeasureGossip(t *testing.T) {
	if *gossipOnly == "" {
		t.Skip("runs with -gossip.only")
	}
	all := variants()
	for _, name := range strings.Split(*gossipOnly, ",") {
		for _, size := range strings.Split(*gossipSizes, ",") {
			for _, loss := range strings.Split(*gossipLoss, ",") {
				n, _ := strconv.Atoi(size)
				p, _ := strconv.ParseFloat(loss, 64)
				measureGossip(t, name, all[name], n, p)
			}
		}
	}
}

func measureGossip(t *testing.T, name string, config func() *memberlist.Config, n int, loss float64) {
	synctest.Test(t, func(t *testing.T) {
		c := gather(t, *gossipSeed, n, config)
		defer c.part()
		c.weather(loss)
		c.packets.Store(0)
		c.suspects.Store(0)
		began := time.Now()
		c.pass(time.Duration(*gossipHours / float64(n) * float64(time.Hour)))
		span := time.Since(began)
		hours := span.Hours() * float64(n)
		bad, suspects, packets := c.falseDeaths(), c.suspects.Load(), c.packets.Load()
		var first, last []time.Duration
		for k := range *gossipTrials {
			c.weather(0)
			for !c.complete() {
				c.pass(time.Second)
			}
			c.weather(loss)
			c.pass(time.Duration(5000+137*k%1000) * time.Millisecond)
			a, b := c.vanish(k%n, loss)
			first, last = append(first, a), append(last, b)
		}
		fmt.Fprintf(os.Stderr, "%-9s n=%-3d loss=%-4g false deaths %d in %.1f node-hours, suspicions/h %.1f, packets/s %.1f; first p50 %s max %s; all p50 %s p99 %s max %s\n",
			name, n, loss, bad, hours, float64(suspects)/hours, float64(packets)/span.Seconds()/float64(n),
			at(first, 0.5), at(first, 1), at(last, 0.5), at(last, 0.99), at(last, 1))
	})
}

// at is a quantile.
func at(list []time.Duration, q float64) time.Duration {
	if len(list) == 0 {
		return 0
	}
	slices.SortFunc(list, cmp.Compare)
	return list[min(len(list)-1, int(q*float64(len(list))))].Round(10 * time.Millisecond)
}
