package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/httpapi"
	"github.com/pacelinehq/paceline/scaling"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// The calls between nodes that are not the cluster's own.
const (
	callSamples = "samples"
	callLogs    = "logs"
	callBeat    = "heartbeat"
	callAsk     = "ask"    // whether an instance can serve
	callDoubts  = "doubts" // which unhealthy instances the leader spares
)

// maxPulls bounds the nodes that are asked for samples at the same time.
const maxPulls = 16

type samplesRequest struct {
	Within time.Duration `json:"within"`
}

type logsRequest struct {
	Instance string           `json:"instance"`
	Query    httpapi.LogQuery `json:"query"`
}

type beatRequest struct {
	Instance string           `json:"instance"`
	Beat     client.Heartbeat `json:"beat"`
}

// handlePeers answers the other nodes.
func (n *Node) handlePeers() {
	n.handleQuestions()
	n.cluster.Handle(callSamples, func(_ context.Context, raw []byte) ([]byte, error) {
		var req samplesRequest
		if err := json.Unmarshal(raw, &req); err != nil {
			return nil, err
		}
		return json.Marshal(n.samples.Since(time.Now().Add(-req.Within)))
	})
	n.cluster.Handle(callBeat, func(ctx context.Context, raw []byte) ([]byte, error) {
		var req beatRequest
		if err := json.Unmarshal(raw, &req); err != nil {
			return nil, err
		}
		taken, err := n.localBeat(ctx, req.Instance, req.Beat)
		if err != nil {
			return nil, err
		}
		return json.Marshal(taken)
	})
	n.cluster.Handle(callLogs, func(ctx context.Context, raw []byte) ([]byte, error) {
		var req logsRequest
		if err := json.Unmarshal(raw, &req); err != nil {
			return nil, err
		}
		chunk, err := n.localLogs(ctx, req.Instance, req.Query)
		if err != nil {
			return nil, err
		}
		return json.Marshal(chunk)
	})
}

// Collect implements [scaling.Collector]: it asks every node that takes
// instances, all at once, so that a slow one delays nobody.
func (n *Node) Collect(ctx context.Context, within time.Duration) ([]scaling.MetricSample, error) {
	raw, err := json.Marshal(samplesRequest{Within: within})
	if err != nil {
		return nil, err
	}
	var (
		mu       sync.Mutex
		all      []scaling.MetricSample
		problems []error
		wg       sync.WaitGroup
		slots    = make(chan struct{}, maxPulls)
	)
	for name, row := range n.cluster.State().Nodes.All() {
		if row.State == fsm.NodeStateDown {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			list, err := n.pull(ctx, name, raw, within)
			mu.Lock()
			defer mu.Unlock()
			all, problems = append(all, list...), append(problems, err)
		})
	}
	wg.Wait()
	return all, errors.Join(problems...)
}

func (n *Node) pull(ctx context.Context, name string, raw []byte, within time.Duration) (list []scaling.MetricSample, err error) {
	if name == n.cfg.Name {
		return n.samples.Since(time.Now().Add(-within)), nil
	}
	answer, err := n.cluster.Call(ctx, name, callSamples, raw)
	if err != nil {
		return nil, err
	}
	err = json.Unmarshal(answer, &list)
	return list, err
}

// PushMetrics implements [httpapi.MetricsSink].
func (n *Node) PushMetrics(_ context.Context, group string, samples []client.MetricSample) error {
	for _, s := range samples {
		at := s.At
		if at.IsZero() {
			at = time.Now()
		}
		if err := n.samples.Push(group, s.Metric, s.Instance, s.Value, at); err != nil {
			return err
		}
	}
	return nil
}

// Logs implements [httpapi.LogSource]: it reads them here or asks the node
// that runs the instance.
func (n *Node) Logs(ctx context.Context, instance string, q httpapi.LogQuery) (chunk httpapi.LogChunk, err error) {
	i, err := n.cluster.State().Instances.Lookup(instance)
	if err != nil {
		return chunk, err
	}
	if i.Node == n.cfg.Name {
		return n.localLogs(ctx, instance, q)
	}
	raw, err := json.Marshal(logsRequest{Instance: instance, Query: q})
	if err != nil {
		return chunk, err
	}
	answer, err := n.cluster.Call(ctx, i.Node, callLogs, raw)
	if err != nil {
		return chunk, fsm.Errorf(fsm.Unavailable, "instance", instance, "has its log on node %s, which does not answer: %v", i.Node, err)
	}
	err = json.Unmarshal(answer, &chunk)
	return chunk, err
}

// Heartbeat implements [httpapi.Heartbeats]: the node that runs the instance
// takes it. What has ended is told here: its node may be gone.
func (n *Node) Heartbeat(ctx context.Context, instance string, beat client.Heartbeat) (taken client.HeartbeatTaken, err error) {
	i, err := n.cluster.State().Instances.Lookup(instance)
	if err != nil {
		return taken, err
	}
	if i.Node == n.cfg.Name || i.State.Terminal() {
		return n.localBeat(ctx, instance, beat)
	}
	raw, err := json.Marshal(beatRequest{Instance: instance, Beat: beat})
	if err != nil {
		return taken, err
	}
	answer, err := n.cluster.Call(ctx, i.Node, callBeat, raw)
	if err != nil {
		return taken, err
	}
	err = json.Unmarshal(answer, &taken)
	return taken, err
}

func (n *Node) localBeat(ctx context.Context, instance string, beat client.Heartbeat) (client.HeartbeatTaken, error) {
	var failure error
	if beat.Status != client.HeartbeatPass {
		failure = errors.New(cmp.Or(beat.Output, "the instance says so"))
	}
	ttl, err := n.agent.Heartbeat(ctx, instance, failure)
	return client.HeartbeatTaken{TTL: fsm.Duration(ttl)}, err
}

const logPoll = 100 * time.Millisecond

// localLogs reads the log of an instance of this node, waiting for output as
// long as the query says.
func (n *Node) localLogs(ctx context.Context, instance string, q httpapi.LogQuery) (httpapi.LogChunk, error) {
	deadline := time.Now().Add(q.Wait)
	for {
		// The end is looked up first: what is written before it is then read.
		i, ok := n.cluster.State().Instances.Get(instance)
		c, err := n.driver.Logs(ctx, instance, driver.LogQuery{Offset: q.Offset, TailLines: q.Tail})
		if err != nil {
			return httpapi.LogChunk{}, err
		}
		chunk := httpapi.LogChunk{Data: c.Data, Next: c.Next}
		chunk.Ended = len(c.Data) == 0 && (!ok || i.State.Terminal())
		if len(chunk.Data) > 0 || chunk.Ended || ctx.Err() != nil || !time.Now().Before(deadline) {
			return chunk, nil
		}
		sleep(ctx, logPoll)
	}
}
