package cluster_test

import (
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/cluster"
)

// refusing is a follower that refuses every append.
func refusing(t *testing.T) raft.ServerAddress {
	t.Helper()
	trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case rpc := <-trans.Consumer():
				rpc.Respond(&raft.AppendEntriesResponse{Term: 1}, nil)
			case <-ended:
				return
			}
		}
	})
	t.Cleanup(func() {
		close(ended)
		wg.Wait()
		if err := trans.Close(); err != nil {
			t.Error(err)
		}
	})
	return trans.LocalAddr()
}

// TestPipelineEnds sends on after Raft has stopped taking answers, as its
// sender does when a follower refuses an entry. With the library's pipeline
// the third send never returns.
func TestPipelineEnds(t *testing.T) {
	to := refusing(t)
	trans, err := raft.NewTCPTransport("127.0.0.1:0", nil, 1, time.Minute, nil)
	if err != nil {
		t.Fatal(err)
	}
	inner, err := trans.AppendEntriesPipeline("f", to)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	p := cluster.NewPipeline(inner, &wg)
	send := func() error {
		_, err := p.AppendEntries(&raft.AppendEntriesRequest{Term: 1}, &raft.AppendEntriesResponse{})
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if f := <-p.Consumer(); f.Response().Success {
		t.Fatal("the follower was meant to refuse")
	}
	for sent := 0; send() == nil; sent++ {
		if sent > 1000 {
			t.Fatal("the pipeline still takes entries that nobody will hear the answers of")
		}
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if err := trans.Close(); err != nil {
		t.Error(err)
	}
}
