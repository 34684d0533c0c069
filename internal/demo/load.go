package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// load drives real HTTP requests at the instances of a group, at a fixed rate
// as long as they keep up.
type load struct {
	http    *http.Client
	rate    int
	workMs  int
	targets atomic.Pointer[[]string]

	sent, failed atomic.Int64
	stop         context.CancelFunc
	wg           sync.WaitGroup
}

// loadWorkers bounds the requests under way.
const loadWorkers = 16

// startLoad begins to request from the healthy instances, which it asks the
// cluster for twice a second. Each request burns workMs of CPU time.
func startLoad(ctx context.Context, c *client.Client, group string, rate, workMs int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{http: &http.Client{Timeout: 5 * time.Second}, rate: rate, workMs: workMs, stop: cancel}
	l.targets.Store(&[]string{})
	due := make(chan struct{}, loadWorkers)
	l.wg.Go(func() { l.follow(ctx, c, group) })
	l.wg.Go(func() { l.pace(ctx, due) })
	for range loadWorkers {
		l.wg.Go(func() { l.work(ctx, due) })
	}
	return l
}

// pace says when a request is due.
func (l *load) pace(ctx context.Context, due chan<- struct{}) {
	tick := time.NewTicker(time.Second / time.Duration(l.rate))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			select {
			case due <- struct{}{}:
			default: // the instances are behind; their CPU shows it
			}
		case <-ctx.Done():
			return
		}
	}
}

// end stops the load and waits for its last requests.
func (l *load) end() {
	l.stop()
	l.wg.Wait()
	l.http.CloseIdleConnections()
}

func (l *load) follow(ctx context.Context, c *client.Client, group string) {
	for {
		if st, err := c.GroupStatus(ctx, group); err == nil {
			var addrs []string
			for _, i := range st.Instances {
				if i.State == fsm.Running && i.Health == fsm.Healthy {
					addrs = append(addrs, i.Address)
				}
			}
			l.targets.Store(&addrs)
		}
		if wait(ctx, 500*time.Millisecond) != nil {
			return
		}
	}
}

func (l *load) work(ctx context.Context, due <-chan struct{}) {
	for {
		select {
		case <-due:
		case <-ctx.Done():
			return
		}
		targets := *l.targets.Load()
		if len(targets) == 0 {
			continue
		}
		n := int(l.sent.Add(1))
		err := l.get(ctx, fmt.Sprintf("http://%s/work?ms=%d", targets[n%len(targets)], l.workMs))
		if err != nil && ctx.Err() == nil {
			l.failed.Add(1)
		}
	}
}

func (l *load) get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing to lose
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", resp.StatusCode)
	}
	return err
}

// probe writes to the cluster at a steady rate and remembers when each write
// was begun and acknowledged. Writes of a rate do not wait for each other.
type probe struct {
	client *client.Client
	mu     sync.Mutex
	writes []write
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

type write struct {
	began, acked time.Time
	err          error
}

const (
	probeRate    = 100 // writes per second
	probeWorkers = 32
	probeName    = "demo-probe"
)

func startProbe(ctx context.Context, c *client.Client) *probe {
	ctx, cancel := context.WithCancel(ctx)
	p := &probe{client: c, stop: cancel}
	due := make(chan time.Time, probeWorkers)
	p.wg.Go(func() {
		defer close(due)
		tick := time.NewTicker(time.Second / probeRate)
		defer tick.Stop()
		for {
			select {
			case at := <-tick.C:
				select {
				case due <- at:
				default: // all workers wait; this tick is lost to the rate, not to the cluster
				}
			case <-ctx.Done():
				return
			}
		}
	})
	for k := range probeWorkers {
		p.wg.Go(func() {
			for at := range due {
				p.write(context.WithoutCancel(ctx), k, at)
			}
		})
	}
	return p
}

func (p *probe) write(ctx context.Context, worker int, at time.Time) {
	t := fsm.Template{
		Name: fmt.Sprintf("%s-%d", probeName, worker), Driver: "process", Command: fsm.SampleCommand,
		Labels: map[string]string{"at": fmt.Sprint(at.UnixNano())},
	}
	w := write{began: time.Now()}
	_, w.err = p.client.PutTemplate(ctx, t)
	w.acked = time.Now()
	p.mu.Lock()
	p.writes = append(p.writes, w)
	p.mu.Unlock()
}

// end stops the writes, waits for their answers, and removes what they wrote.
func (p *probe) end(ctx context.Context) {
	p.stop()
	p.wg.Wait()
	for k := range probeWorkers {
		_ = p.client.DeleteTemplate(ctx, fmt.Sprintf("%s-%d", probeName, k))
	}
}

// failover is what the writes saw of a failure at a time: how long it took
// until a write that began after it was acknowledged, the longest pause
// between two acknowledgements around it, and how many writes failed.
func (p *probe) failover(at time.Time) (first, gap time.Duration, failed, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var acks []time.Time
	for _, w := range p.writes {
		total++
		if w.err != nil {
			failed++
			continue
		}
		acks = append(acks, w.acked)
		if d := w.acked.Sub(at); w.began.After(at) && (first == 0 || d < first) {
			first = d
		}
	}
	slices.SortFunc(acks, time.Time.Compare)
	for k := 1; k < len(acks); k++ {
		if acks[k].After(at) && acks[k-1].Before(at.Add(5*time.Second)) {
			gap = max(gap, acks[k].Sub(acks[k-1]))
		}
	}
	return first, gap, failed, total
}
