package main

import (
	"errors"
	"slices"
	"sync"
	"time"
)

// loadResult is what a closed loop of clients did in its measured window.
type loadResult struct {
	ops     int
	errs    int
	text    string // one of the errors, in words
	window  time.Duration
	latency []time.Duration // in order of length
}

// perSecond is the rate of successful operations.
func (r *loadResult) perSecond() float64 { return float64(r.ops) / r.window.Seconds() }

// quantile is the latency that a share of the operations did not exceed.
func (r *loadResult) quantile(q float64) time.Duration { return quantile(r.latency, q) }

// quantile picks from a sorted list by the nearest rank.
func quantile[T any](sorted []T, q float64) (v T) {
	if len(sorted) == 0 {
		return v
	}
	rank := int(q*float64(len(sorted)) + 0.999999)
	return sorted[min(max(rank-1, 0), len(sorted)-1)]
}

// closedLoop lets every client do one operation after the other. What ends
// within the window after the warm-up counts.
func closedLoop(clients int, warm, window time.Duration, do func(client, i int) error) *loadResult {
	parts := make([]loadResult, clients)
	from := time.Now().Add(warm)
	to := from.Add(window)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			r := &parts[c]
			for i := 0; ; i++ {
				begin := time.Now()
				if begin.After(to) {
					return
				}
				err := do(c, i)
				end := time.Now()
				if end.Before(from) || end.After(to) {
					continue
				}
				r.add(end.Sub(begin), err)
			}
		})
	}
	wg.Wait()
	return merge(parts, window)
}

func (r *loadResult) add(took time.Duration, err error) {
	if err != nil {
		r.errs++
		r.text = err.Error()
		return
	}
	r.ops++
	if len(r.latency) < maxSamples {
		r.latency = append(r.latency, took)
	}
}

func merge(parts []loadResult, window time.Duration) *loadResult {
	all := &loadResult{window: window}
	for i := range parts {
		p := &parts[i]
		all.ops += p.ops
		all.errs += p.errs
		if p.text != "" {
			all.text = p.text
		}
		all.latency = append(all.latency, p.latency...)
	}
	slices.Sort(all.latency)
	return all
}

// spread runs a fixed number of operations over many clients and returns the
// first error; it is used to load data that is then measured.
func spread(clients, total int, do func(client, i int) error) error {
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for c := range clients {
		wg.Go(func() {
			for i := c; i < total; i += clients {
				if err := do(c, i); err != nil {
					errs[c] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
