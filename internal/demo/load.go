package demo

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/client"
	"github.com/pacelinehq/paceline/fsm"
)

// load drives real HTTP requests at a group through the proxies of all nodes,
// at a fixed rate as long as the instances keep up. The requests are those of
// users, each with a session, who take the nodes in turn.
type load struct {
	http    *http.Client
	rate    int
	workMs  int
	proxies []string
	users   []*user

	sent, failed, retried atomic.Int64
	stop                  context.CancelFunc
	wg                    sync.WaitGroup
}

// user is one client with one session.
type user struct {
	mu       sync.Mutex // held during a request: a user has one at a time
	cookie   string
	instance string // that answered last
	next     int    // the proxy to ask
}

const (
	// loadWorkers bounds the requests under way.
	loadWorkers = 16
	loadUsers   = 60
	loadTries   = 3
)

// startLoad begins to request from a group through proxies. Each request burns
// workMs of CPU time.
func startLoad(ctx context.Context, proxies []string, rate, workMs int) *load {
	ctx, cancel := context.WithCancel(ctx)
	l := &load{http: &http.Client{Timeout: 5 * time.Second}, rate: rate, workMs: workMs, proxies: proxies, stop: cancel}
	for k := range loadUsers {
		l.users = append(l.users, &user{next: k})
	}
	due := make(chan struct{}, loadWorkers)
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

func (l *load) work(ctx context.Context, due <-chan struct{}) {
	for {
		select {
		case <-due:
		case <-ctx.Done():
			return
		}
		n := int(l.sent.Add(1))
		if !l.ask(ctx, l.users[n%len(l.users)]) && ctx.Err() == nil {
			l.failed.Add(1)
		}
	}
}

// ask makes one request of a user. A node that does not answer is left for the
// next one, as a browser does with a name of several addresses.
func (l *load) ask(ctx context.Context, u *user) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	for try := range loadTries {
		if try > 0 {
			l.retried.Add(1)
		}
		proxy := l.proxies[u.next%len(l.proxies)]
		u.next++
		instance, err := l.get(ctx, u, fmt.Sprintf("http://%s/work?ms=%d", proxy, l.workMs))
		if err == nil {
			u.instance = instance
			return true
		}
		if ctx.Err() != nil {
			return true
		}
	}
	return false
}

// get makes a request with the user's cookie, and returns the instance that
// answered.
func (l *load) get(ctx context.Context, u *user, url string) (instance string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	if u.cookie != "" {
		req.Header.Set("Cookie", u.cookie)
	}
	resp, err := l.http.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close() //nolint:errcheck // nothing to lose
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return "", err
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("status %d", resp.StatusCode)
	}
	for _, c := range resp.Cookies() {
		u.cookie = c.Name + "=" + c.Value
	}
	instance, _, _ = strings.Cut(string(body), " ")
	return instance, nil
}

// places returns where each user's session lives.
func (l *load) places() []string {
	list := make([]string, len(l.users))
	for k, u := range l.users {
		u.mu.Lock()
		list[k] = u.instance
		u.mu.Unlock()
	}
	return list
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
