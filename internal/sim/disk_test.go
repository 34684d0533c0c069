package sim_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/internal/sim"
)

// open opens the log of one process.
func open(t *testing.T, d *sim.Disk) raft.LogStore {
	t.Helper()
	s, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	return s.Log
}

func last(t *testing.T, l raft.LogStore) uint64 {
	t.Helper()
	n, err := l.LastIndex()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDiskKeepsWhatItAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk()
		l := open(t, d)
		if err := l.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
			t.Fatal(err)
		}
		d.SetLatency(time.Second)
		var wg sync.WaitGroup
		wg.Go(func() { _ = l.StoreLog(&raft.Log{Index: 2, Term: 1}) })
		synctest.Wait()
		d.Crash()
		wg.Wait()
		if n := last(t, open(t, d)); n != 1 {
			t.Errorf("after a crash the log ends at %d: the write under way was not acknowledged, the first one was", n)
		}
	})
}

func TestDiskStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := sim.NewDisk()
		l := open(t, d)
		d.Stall()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = l.StoreLog(&raft.Log{Index: 1, Term: 1})
		}()
		synctest.Wait()
		select {
		case <-done:
			t.Error("a write to a stalled disk has returned")
		default:
		}
		d.Resume()
		<-done
		if n := last(t, l); n != 1 {
			t.Errorf("the log ends at %d", n)
		}
	})
}

func TestDiskThatForgets(t *testing.T) {
	d := sim.NewDisk()
	d.PlantLostWrites()
	l := open(t, d)
	if err := l.StoreLog(&raft.Log{Index: 1, Term: 1}); err != nil {
		t.Fatal(err)
	}
	if n := last(t, l); n != 1 {
		t.Errorf("before the crash the log ends at %d", n)
	}
	d.Crash()
	if n := last(t, open(t, d)); n != 0 {
		t.Errorf("after the crash the log ends at %d", n)
	}
}
