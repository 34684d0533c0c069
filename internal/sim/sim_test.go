package sim_test

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pacelinehq/paceline/internal/sim"
)

// TestMain lets the heap grow further than usual before it is collected: a run
// makes much short-lived garbage, and the machine has the memory.
func TestMain(m *testing.M) {
	debug.SetGCPercent(400)
	goleak.VerifyTestMain(m)
}

// simulate runs one seed in a bubble of its own and checks it.
func simulate(t *testing.T, o sim.Options) (r *sim.Report) {
	t.Helper()
	if os.Getenv("PACELINE_SIM_LOG") != "" {
		o.Verbose = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	synctest.Test(t, func(*testing.T) { r = sim.Run(o) })
	r.Check()
	return r
}

// dump writes a run to files and says where.
func dump(t *testing.T, r *sim.Report) string {
	t.Helper()
	name, err := r.Dump(os.Getenv("PACELINE_SIM_DIR"))
	if err != nil {
		t.Error(err)
	}
	return name
}

func envInt(name string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return def
}

func TestSeeds(t *testing.T) {
	first, count := 1, envInt("PACELINE_SIM_SEEDS", seeds(testing.Short()))
	if s := envInt("PACELINE_SIM_SEED", 0); s > 0 {
		first, count = s, 1
	}
	var mu sync.Mutex
	var sum sim.Stats
	began := time.Now()
	t.Run("all", func(t *testing.T) {
		for seed := first; seed < first+count; seed++ {
			t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
				t.Parallel()
				r := simulate(t, sim.Options{Seed: uint64(seed)})
				mu.Lock()
				sum.Add(r.Stats)
				mu.Unlock()
				if len(r.Violations) > 0 {
					t.Errorf("%d nodes: %s\nsee %s", r.Options.Nodes, strings.Join(r.Violations, "\n"), dump(t, r))
				}
				t.Log(r.Stats)
			})
		}
	})
	wall := time.Since(began)
	t.Logf("%d seeds, %s of virtual time in %s (%.0f virtual s per wall s): %s", count, sum.Virtual.Round(time.Second), wall.Round(time.Millisecond), sum.Virtual.Seconds()/wall.Seconds(), sum)
}
