package cluster

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"time"
)

// watchDigests compares this node's state with that of others at one index,
// again and again. Replicas that applied the same log are equal; one that is
// not has read damaged memory or disk, and must not answer.
func (c *Cluster) watchDigests(ctx context.Context) {
	for pause(ctx, c.cfg.Timing.Digest/2+rand.N(c.cfg.Timing.Digest)) {
		if c.apply.stop.Load() == nil {
			c.compareDigests(ctx)
		}
	}
}

// compareDigests does one comparison.
func (c *Cluster) compareDigests(ctx context.Context) {
	s := c.State()
	// The others get a moment to reach the index as well.
	if s.Index() == 0 || !pause(ctx, c.cfg.Timing.Heartbeat/2) {
		return
	}
	mine := s.Digest()
	voices := map[uint64][]string{mine: {c.cfg.Name}}
	answers := make(chan voice, maxDigestPeers)
	asked := 0
	for _, name := range c.digestPeers() {
		asked++
		if !c.wg.Go(func() { answers <- c.askDigest(ctx, name, s.Index()) }) {
			return
		}
	}
	heard := 1
	for range asked {
		if v := <-answers; v.known {
			voices[v.digest] = append(voices[v.digest], v.node)
			heard++
		}
	}
	if len(voices) == 1 {
		c.setAlarm("")
		return
	}
	c.met.mismatches.Inc()
	c.judge(s.Index(), mine, voices, heard)
}

// judge decides who is wrong. Only a majority of those heard, of three or
// more, can tell.
func (c *Cluster) judge(index, mine uint64, voices map[uint64][]string, heard int) {
	for digest, names := range voices {
		if heard < 3 || len(names)*2 <= heard {
			continue
		}
		if digest != mine {
			c.log.Error("this node's state differs from the majority's; it stops answering and heals", "index", index, "majority", strings.Join(names, ","))
			c.heal.from(names)
			c.apply.diverged(errDiverged)
			return
		}
		var wrong []string
		for d, n := range voices {
			if d != mine {
				wrong = append(wrong, n...)
			}
		}
		c.setAlarm("the state of node " + strings.Join(wrong, ", ") + " differs from the majority's")
		return
	}
	c.setAlarm("nodes differ in their state and no majority says which is right")
}

// voice is a node's digest at the index of the comparison.
type voice struct {
	node   string
	digest uint64
	known  bool
}

func (c *Cluster) askDigest(ctx context.Context, node string, index uint64) voice {
	resp, err := c.pool.callFor(ctx, c.cfg.Timing.PeerTimeout, node, methodDigest, binary.AppendUvarint(nil, index))
	if err != nil || len(resp) != 8 {
		return voice{}
	}
	return voice{node, binary.BigEndian.Uint64(resp), true}
}

// digestPeers picks whom to ask: living nodes of the configuration.
func (c *Cluster) digestPeers() []string {
	var list []string
	for _, s := range c.raft.GetConfiguration().Configuration().Servers {
		name := string(s.ID)
		row, ok := c.dir.get(name)
		if name != c.cfg.Name && ok && row.status(false, c.cfg.Timing.PeerTimeout) == StatusAlive {
			list = append(list, name)
		}
	}
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:min(len(list), maxDigestPeers)]
}

func (c *Cluster) serveDigests() {
	c.Handle(methodDigest, func(_ context.Context, req []byte) ([]byte, error) {
		index, n := binary.Uvarint(req)
		if n <= 0 {
			return nil, errBadFrame
		}
		digest, known := c.apply.machine.DigestAt(index)
		if !known || c.apply.stop.Load() != nil {
			return nil, nil
		}
		return binary.BigEndian.AppendUint64(nil, digest), nil
	})
}

func (c *Cluster) setAlarm(text string) {
	c.mu.Lock()
	fresh := c.alarm != text && text != ""
	c.alarm = text
	c.mu.Unlock()
	if fresh {
		c.log.Error("digest alarm: " + text)
	}
}

// healWait separates the attempts to heal.
const healWait = 200 * time.Millisecond
