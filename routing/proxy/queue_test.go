package proxy_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/proxy"
)

// Requests for which there is no instance are held, and served when there is.
func TestHeldUntilThereIsAnInstance(t *testing.T) {
	f := newFleet(t, fsm.Service{})
	f.Run("web", "i0", "n1", refusing(t), fsm.Unknown)
	const n = 20
	replies := make(chan reply, n)
	for range n {
		go func() { replies <- f.ask(get) }()
	}
	eventually(t, "all wait", func() bool { return f.p.Counts().Waiting == n })
	f.handler("i1", echo)
	for range n {
		r := <-replies
		r.want(t, 200, "*")
	}
}

func TestQueueIsBounded(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Limits: fsm.ServiceLimits{MaxQueue: 1}, Timeouts: fsm.Timeouts{Queue: fsm.Duration(200 * time.Millisecond)},
	})
	first := make(chan reply, 1)
	go func() { first <- f.ask(get) }()
	eventually(t, "one waits", func() bool { return f.p.Counts().Waiting == 1 })
	r := f.ask(get)
	if r.want(t, 503, "*"); r.Header.Get("Retry-After") != "1" || f.p.Event("web", "queue_full") != 1 {
		t.Errorf("a full queue answers %v", r.Header)
	}
	r = <-first
	if r.want(t, 503, "*"); r.Header.Get("Retry-After") != "1" || f.p.Event("web", "queue_timeout") != 1 {
		t.Errorf("a wait that was too long answers %v", r.Header)
	}
}

// A request that is held when its service goes is told so at once.
func TestServiceGoesWhileHeld(t *testing.T) {
	f := newFleet(t, fsm.Service{Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Hour)}})
	got := make(chan reply, 1)
	go func() { got <- f.ask(get) }()
	eventually(t, "it waits", func() bool { return f.p.Counts().Waiting == 1 })
	f.Group("web", nil)
	r := <-got
	r.want(t, 503, "*")
	f.ask(get).want(t, 404, "*")
}

// An instance never has more requests than it may, also while connections to
// it are made, and none of those that wait is forgotten.
func TestMaxInFlight(t *testing.T) {
	f := newFleet(t, fsm.Service{Limits: fsm.ServiceLimits{MaxInFlightPerInstance: 2}})
	var mu sync.Mutex
	busy := map[string]int{}
	instance := func(id string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			busy[id]++
			n := busy[id]
			mu.Unlock()
			defer func() {
				mu.Lock()
				busy[id]--
				mu.Unlock()
			}()
			if n > 2 {
				w.WriteHeader(500)
			}
		}
	}
	f.handler("i1", instance("i1"))
	f.handler("i2", instance("i2"))
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			c := dial(t, f.addr)
			for range 50 {
				if r := c.ask(get); r.StatusCode != 200 {
					t.Errorf("got %d: an instance has too many", r.StatusCode)
				}
			}
		})
	}
	wg.Wait()
}

// However many instances are full, one that is free is found.
func TestOneIsFree(t *testing.T) {
	f := newFleet(t, fsm.Service{
		Limits: fsm.ServiceLimits{MaxInFlightPerInstance: 1}, Balancer: fsm.Balancer{Policy: fsm.BalanceRandom},
		Timeouts: fsm.Timeouts{Queue: fsm.Duration(time.Minute)},
	})
	release := make(chan bool)
	const n = 40
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer s.Close()
	for k := range n {
		f.Run("web", fmt.Sprint("i", k), "n1", s.Listener.Addr().String(), fsm.Healthy)
	}
	f.sync()
	replies := make(chan reply, n)
	for range n {
		go func() { replies <- f.ask(get) }()
	}
	eventually(t, "each instance has one", func() bool { return f.p.Counts().Instances == n })
	if q := f.p.Event("web", "queued"); q != 0 {
		t.Errorf("%d requests waited while instances were free", q)
	}
	close(release)
	for range n {
		r := <-replies
		r.want(t, 200, "")
	}
	f.stop()
}

// Those above the limit wait.
func TestMaxInFlightIsExact(t *testing.T) {
	f := newFleet(t, fsm.Service{Limits: fsm.ServiceLimits{MaxInFlightPerInstance: 2}})
	release := make(chan bool)
	f.handler("i1", func(http.ResponseWriter, *http.Request) { <-release })
	const n = 5
	replies := make(chan reply, n)
	for range n {
		go func() { replies <- f.ask(get) }()
	}
	eventually(t, "all are somewhere", func() bool { c := f.p.Counts(); return c.Loads+c.Waiting == n })
	if c := f.p.Counts(); c.Loads != 2 || c.Instances != 2 {
		t.Errorf("an instance that may have 2 requests has %d", c.Loads)
	}
	close(release)
	for range n {
		r := <-replies
		r.want(t, 200, "")
	}
}

// A turn is never lost: one given to a waiter that was leaving goes to the next.
func TestQueueTurns(t *testing.T) {
	var q proxy.Queue
	a, b, c := q.Join(3), q.Join(3), q.Join(3)
	if q.Join(3) != nil {
		t.Fatal("the queue takes more than its limit")
	}
	woken := func(ch chan struct{}) bool {
		select {
		case <-ch:
			return true
		default:
			return false
		}
	}
	q.Leave(b)
	q.Wake(1)
	if !woken(a) || woken(c) {
		t.Fatal("a turn is for the first only")
	}
	q.Leave(a) // which had given up when it was woken
	if !woken(c) {
		t.Fatal("the turn of a waiter that left is lost")
	}
	q.Wake(5)
}

func TestRateLimits(t *testing.T) {
	for _, l := range []fsm.ServiceLimits{{RequestsPerSecond: 3}, {RequestsPerSecondPerClient: 3}} {
		f := newFleet(t, fsm.Service{Limits: l})
		f.handler("i1", echo)
		c := dial(t, f.addr)
		var refused reply
		for range 10 {
			if r := c.ask(get); r.StatusCode != 200 {
				refused = r
				break
			}
		}
		if refused.Response == nil || refused.StatusCode != 429 || refused.Header.Get("Retry-After") != "1" {
			t.Errorf("%+v: got %+v", l, refused)
		}
	}
}

// A bucket lets through its rate, and a burst of a second's worth.
func TestBucket(t *testing.T) {
	for _, rate := range []int{1, 7, 1000, 1 << 30} {
		var b proxy.Bucket
		passed := 0
		for ms := range 3000 {
			for range 3 {
				if wait, ok := b.Take(time.Duration(ms)*time.Millisecond, rate); ok {
					passed++
				} else if wait <= 0 {
					t.Fatal("a refusal without a wait")
				}
			}
		}
		if want := min(4*rate, 9000); passed < want*9/10-1 || passed > want {
			t.Errorf("rate %d: %d passed in 3 s, want about %d", rate, passed, want)
		}
	}
}

func TestBudget(t *testing.T) {
	var b proxy.Budget
	spend := func() (n int) {
		for b.Spend() {
			n++
		}
		return n
	}
	if n := spend(); n != 10 {
		t.Errorf("the first budget is %d, want 10", n)
	}
	for range 50 {
		b.Earn(20)
	}
	if n := spend(); n != 10 {
		t.Errorf("50 requests at 20%% earn %d, want 10", n)
	}
	for range 100_000 {
		b.Earn(100)
	}
	if n := spend(); n != 100 {
		t.Errorf("at most %d are saved up, want 100", n)
	}
}

func TestConnectionLimits(t *testing.T) {
	for _, l := range []fsm.ServiceLimits{{MaxConnections: 2}, {MaxConnectionsPerClient: 2}} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			f := newFleet(t, fsm.Service{Limits: l})
			f.handler("i1", echo)
			a, b := dial(t, f.addr), dial(t, f.addr)
			for range 3 { // the same connection counts once
				a.ask(get).want(t, 200, "*")
				b.ask(get).want(t, 200, "*")
			}
			c := dial(t, f.addr)
			if r := c.ask(get); r.StatusCode != 503 || !r.Close || r.Header.Get("Retry-After") == "" {
				t.Errorf("the third connection got %d", r.StatusCode)
			}
			a.Close()
			eventually(t, "a place is free", func() bool { return f.p.Counts().Counted == 1 })
			dial(t, f.addr).ask(get).want(t, 200, "*")
			b.Close()
			eventually(t, "another is free", func() bool { return f.p.Counts().Counted == 1 })
		})
	}
}

// A stream of HTTP/2 counts as a connection, as long as its request takes.
func TestConnectionLimitsOfStreams(t *testing.T) {
	for _, l := range []fsm.ServiceLimits{{MaxConnections: 1}, {MaxConnectionsPerClient: 1}} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			f := newFleet(t, fsm.Service{Limits: l})
			here, answer := make(chan bool), make(chan bool)
			f.handler("i1", func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/slow" {
					here <- true
					<-answer
				}
			})
			tr := &http.Transport{Protocols: new(http.Protocols)}
			tr.Protocols.SetUnencryptedHTTP2(true)
			defer tr.CloseIdleConnections()
			get := func(path string) int {
				r, err := (&http.Client{Transport: tr}).Get("http://" + f.addr + path)
				if err != nil {
					t.Error(err)
					return 0
				}
				_ = r.Body.Close()
				return r.StatusCode
			}
			slow := make(chan int)
			go func() { slow <- get("/slow") }()
			<-here
			if status := get("/"); status != 503 {
				t.Errorf("a second request at once got %d", status)
			}
			answer <- true
			if status := <-slow; status != 200 {
				t.Errorf("the first got %d", status)
			}
			eventually(t, "its place is free", func() bool { return f.p.Counts().Counted == 0 })
			if status := get("/"); status != 200 {
				t.Errorf("a request afterwards got %d", status)
			}
		})
	}
}

// Each duration lies in its bucket, which is at most an eighth wide.
func TestHistogramBuckets(t *testing.T) {
	low := time.Duration(0)
	for k := range proxy.Buckets - 1 {
		high := proxy.UpperBound(k)
		if high <= low || k >= 8 && high-low > low/8 {
			t.Fatalf("bucket %d is from %v to %v", k, low, high)
		}
		if proxy.BucketOf(low) != k || proxy.BucketOf(high-1) != k {
			t.Fatalf("bucket %d has not %v and %v", k, low, high-1)
		}
		low = high
	}
	if proxy.BucketOf(100*time.Hour) != proxy.Buckets-1 || proxy.BucketOf(-1) != 0 {
		t.Error("what is too large or small has no bucket")
	}
}
