package cluster_test

import (
	"testing"
	"time"

	"github.com/pacelinehq/paceline/cluster"
)

// TestGather looks at one queue after a batch of a given size was answered,
// with batches that take 4 ms as a rule.
func TestGather(t *testing.T) {
	const ms = time.Millisecond
	cases := []struct {
		what string
		// answered is the size of the batch that was answered, left the
		// writes that waited then, ago how long that is since.
		answered, left int
		ago            time.Duration
		// queued is what waits now; flying and since are the batch under way.
		queued, flying int
		since          time.Duration
		want           time.Duration
	}{
		{what: "one client alone never waits", answered: 1, queued: 1, want: 0},
		{what: "the first of many waits for the others", answered: 20, queued: 1, want: 2 * ms},
		{what: "and for a part of that only when some time has passed", answered: 20, queued: 1, ago: ms / 2, want: 3 * ms / 2},
		{what: "those who do not come are not waited for", answered: 20, queued: 1, ago: 2 * ms, want: 0},
		{what: "three quarters are enough", answered: 20, queued: 15, want: 0},
		{what: "those who waited already count", answered: 20, left: 20, queued: 20, want: 2 * ms},
		{what: "and are enough at three quarters of all", answered: 20, left: 20, queued: 30, want: 0},
		{what: "a full batch goes", answered: 5000, queued: 1024, want: 0},
		{what: "few go with those who come until the batch under way is back", answered: 20, ago: 3 * ms, queued: 4, flying: 16, since: 3 * ms, want: 5 * ms},
		{what: "unless it is late", answered: 20, ago: 9 * ms, queued: 4, flying: 16, since: 9 * ms, want: 0},
		{what: "half as many go beside it", answered: 20, ago: 3 * ms, queued: 8, flying: 16, since: 3 * ms, want: 0},
		{what: "two clients go beside each other", answered: 1, ago: ms, queued: 1, flying: 1, since: ms, want: 0},
	}
	for _, c := range cases {
		g := cluster.NewGather(c.answered, c.left, 4*ms, c.ago)
		if got := g(c.queued, c.flying, c.since); got != c.want {
			t.Errorf("%s: the queue is held for %v, not %v", c.what, got, c.want)
		}
	}
}
