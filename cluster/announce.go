package cluster

import (
	"context"
	"encoding/binary"
	"sync"
	"time"
)

// announceAfter is how long the leader waits for a further entry, which would
// tell the followers of the commits before it by itself.
const announceAfter = time.Millisecond

// announceCommits tells the followers of the last commit when no further entry
// follows it. Raft would do so with its next message, which without other
// writes is as late as the commit timeout: that long the proxies of other nodes
// would route by what was before. It runs on the leader; a follower that misses
// a word hears of the commit from Raft.
func (c *Cluster) announceCommits(ctx context.Context, term uint64) error {
	var calls sync.WaitGroup
	defer calls.Wait()
	slots := map[string]chan struct{}{} // a node that does not answer is asked once at a time
	told := c.apply.position()
	for {
		moved := c.apply.moved.wait()
		if c.apply.position() <= told {
			select {
			case <-moved:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		if !pause(ctx, announceAfter) {
			return nil
		}
		at := c.apply.position()
		if c.raft.LastIndex() > at { // the next entry brings the news
			told = at
			continue
		}
		told = at
		word := append(binary.AppendUvarint(binary.AppendUvarint(nil, term), at), c.cfg.Name...)
		for _, s := range c.raft.GetConfiguration().Configuration().Servers {
			name := string(s.ID)
			if name == c.cfg.Name {
				continue
			}
			slot := slots[name]
			if slot == nil {
				slot = make(chan struct{}, 1)
				slots[name] = slot
			}
			select {
			case slot <- struct{}{}:
				calls.Go(func() {
					defer func() { <-slot }()
					_, _ = c.pool.callFor(ctx, c.cfg.Timing.Heartbeat, name, methodCommitted, word)
				})
			default:
			}
		}
	}
}

// handleCommitted takes a leader's word on a commit. Raft judges it as it does
// any message of a leader: one of an earlier term is nothing to it.
func (c *Cluster) handleCommitted(_ context.Context, req []byte) ([]byte, error) {
	term, n := binary.Uvarint(req)
	if n <= 0 {
		return nil, errBadFrame
	}
	index, k := binary.Uvarint(req[n:])
	if k <= 0 {
		return nil, errBadFrame
	}
	c.follow.aim(notice{leader: string(req[n+k:]), term: term, index: index})
	return nil, nil
}
