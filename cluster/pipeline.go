package cluster

import (
	"sync"

	"github.com/hashicorp/raft"
)

// AppendEntriesPipeline implements [raft.Transport].
func (t *raftTransport) AppendEntriesPipeline(id raft.ServerID, to raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.NetworkTransport.AppendEntriesPipeline(id, to)
	if err != nil {
		return nil, err
	}
	return newPipeline(inner, &t.wg), nil
}

// pipeline ends with the first answer that is not a success. Raft stops
// taking answers there, but its sender may be in the middle of a send by then;
// with the library's own pipeline it waits for ever for somebody to take the
// next answer. The follower then gets no entry until its leader is another
// (hashicorp/raft issue 612), and the leader's Raft can not be shut down.
type pipeline struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
}

func newPipeline(inner raft.AppendPipeline, wg *sync.WaitGroup) *pipeline {
	p := &pipeline{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	wg.Go(p.pass)
	return p
}

// pass hands answers on until the pipeline ends.
func (p *pipeline) pass() {
	for {
		select {
		case f := <-p.AppendPipeline.Consumer():
			select {
			case p.answers <- f:
			case <-p.closed:
				return
			}
			if r := f.Response(); !r.Success || r.Term > f.Request().Term {
				_ = p.AppendPipeline.Close() // wakes the sender; Raft itself closes it once more
				return
			}
		case <-p.closed:
			return
		}
	}
}

// Consumer implements [raft.AppendPipeline].
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements [raft.AppendPipeline].
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.closed) })
	return p.AppendPipeline.Close()
}
