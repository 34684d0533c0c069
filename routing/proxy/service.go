package proxy

import (
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/routing/balance"
)

// service is what a node remembers of a service from plan to plan.
type service struct {
	group  string
	stats  counters
	events eventCounters
	budget budget
	rate   bucket
	client clientLimits
	queue  queue // those that found no instance
	// refused are those that found only instances that take no connections.
	refused queue
	conns   atomic.Int64
	// waking is set while a command that wakes the group is under way, and
	// wakeAfter is when the next may be sent; the janitor's own.
	waking    atomic.Bool
	wakeAfter time.Duration
	// ejecting is held while it is decided whether one more instance may be
	// ejected.
	ejecting sync.Mutex
	// ejected counts the changes of its instances' ejections.
	ejected atomic.Uint64
}

// eventCounters count what the proxy did on its own account.
type eventCounters struct {
	retries        atomic.Uint64
	moved          atomic.Uint64 // a retry because the instance was silent
	noBudget       atomic.Uint64 // a retry that the budget did not allow
	hedges         atomic.Uint64
	ejections      atomic.Uint64
	ejectionCapped atomic.Uint64
	queued         atomic.Uint64
	queueFull      atomic.Uint64
	queueTimeouts  atomic.Uint64
	wakes          atomic.Uint64 // commands to start the group from 0
	rateLimited    atomic.Uint64
	connLimited    atomic.Uint64
	tooLarge       atomic.Uint64
	upgrades       atomic.Uint64
	clientGone     atomic.Uint64
	badCookies     atomic.Uint64
}

// target is a service as one plan has it. It is immutable.
type target struct {
	*service
	spec    fsm.Service // with its defaults
	set     *balance.Set
	ups     []*upstream            // at the same places as in set
	all     map[string]*upstream   // by instance id: also those that drain or are ejected
	tags    map[[16]byte]*upstream // the same by the tag that cookies have
	retryOn [600]bool
	hash    hashSource
	panic   bool // so few instances are usable that all are used
	stamp   targetStamp
}

// targetStamp is what a target was made from; when it is the same, the target
// is.
type targetStamp struct {
	index   uint64 // of the service; see fsm.ServiceIndex
	nodes   uint64 // the sum of what the nodes' rows say of zones and weights
	ejected uint64 // counts the changes of ejections
}

// pick chooses an instance for a request, which counts as in flight there from
// then on, or nil when all that there are have been tried or are full.
func (t *target) pick(r *balance.Request) (int, *upstream) {
	limit, tried := int64(t.spec.Limits.MaxInFlightPerInstance), len(r.Tried)
	for {
		k := t.set.Pick(r)
		if k >= 0 && !t.ups[k].stats.begin(limit) { // it is full, which is not to have been tried
			if len(r.Tried) < cap(r.Tried) {
				r.Tried = append(r.Tried, int32(k))
				continue
			}
			k = t.anyFree(r.Tried[:tried], limit)
		}
		r.Tried = r.Tried[:tried]
		if k < 0 {
			return -1, nil
		}
		t.ups[k].load.Begin()
		return k, t.ups[k]
	}
}

// anyFree finds an instance that is neither full nor tried, or -1, when the
// balancer has found too many full ones in a row.
func (t *target) anyFree(tried []int32, limit int64) int {
	first := rand.N(len(t.ups))
	for n := range t.ups {
		k := (first + n) % len(t.ups)
		if !slices.Contains(tried, int32(k)) && t.ups[k].stats.begin(limit) {
			return k
		}
	}
	return -1
}

// claim counts a request as in flight at an instance that was not picked.
func (t *target) claim(i *instance) {
	i.stats.inflight.Add(1)
	i.load.Begin()
}

// release ends what pick and claim have begun. A negative latency says nothing
// about the instance.
func (t *target) release(i *instance, now, latency time.Duration) {
	i.load.End(now, latencyOf(latency))
	i.stats.inflight.Add(-1)
	t.queue.wake(1)
}

// answerWait is how long one attempt may wait for the head of its answer.
func (t *target) answerWait() time.Duration {
	wait := t.spec.Timeouts.Request.Std()
	if try := t.spec.Retry.PerTryTimeout.Std(); try > 0 {
		return min(wait, try)
	}
	return wait
}

// budget bounds retries to a share of the requests, so that they can not
// double the load on a service that is failing. It starts with a few, for
// services with little traffic, and never saves up more than it may hold.
type budget struct{ tokens atomic.Int64 }

const (
	budgetUnit  = 100 // of a retry
	budgetFirst = 10 * budgetUnit
	budgetMax   = 100 * budgetUnit
)

// earn is called for each request that is not a retry.
func (b *budget) earn(percent int) {
	if b.tokens.Load() < budgetMax-budgetFirst {
		b.tokens.Add(int64(percent))
	}
}

// spend takes a retry from the budget, if it has one.
func (b *budget) spend() bool {
	if b.tokens.Add(-budgetUnit) >= -budgetFirst {
		return true
	}
	b.tokens.Add(budgetUnit)
	return false
}

// unknownLatency is that of a request which says nothing about its instance.
const unknownLatency = -1

// latencyOf bounds a measured latency from below, so that an average of a
// local instance never is zero.
func latencyOf(d time.Duration) time.Duration {
	if d < 0 {
		return unknownLatency
	}
	return max(d, time.Microsecond)
}
