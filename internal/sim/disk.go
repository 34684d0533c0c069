package sim

import (
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pacelinehq/paceline/cluster"
)

// recovery is how long the effects of a bad disk last.
const recovery = 2 * time.Second

// Disk is what one simulated node keeps when it crashes: its log, its vote and
// its snapshots. A write is durable when it returns, as with fsync; one that
// was under way when the node crashed is lost.
type Disk struct {
	mu        sync.Mutex
	logs      *raft.InmemStore
	snapshots *snapshots
	epoch     int // counts crashes: a write of an earlier epoch must not land
	latency   time.Duration
	stalled   chan struct{} // not nil while the disk hangs; closed when it goes on

	// forget keeps the last appends in memory only, as a disk without fsync
	// does: the planted bug that the checks must catch.
	forget  bool
	pending []*raft.Log

	// well is when the disk last got well.
	well time.Time

	identity []byte
	// stored is told every entry that is written, for the audit.
	stored func(*raft.Log)
}

// NewDisk returns an empty disk.
func NewDisk() *Disk {
	return &Disk{logs: raft.NewInmemStore(), snapshots: &snapshots{}}
}

// SetLatency makes every later append take this long.
func (d *Disk) SetLatency(latency time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.latency, d.well = latency, time.Now()
}

// Stall makes appends hang until Resume.
func (d *Disk) Stall() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stalled == nil {
		d.stalled = make(chan struct{})
	}
}

// Resume ends a Stall.
func (d *Disk) Resume() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stalled != nil {
		close(d.stalled)
		d.stalled, d.well = nil, time.Now()
	}
}

// ailing reports whether the disk is slow or hangs, or has been for the last
// while: its node may then answer on the leader's word alone.
func (d *Disk) ailing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stalled != nil || d.latency > 0 || time.Since(d.well) < recovery
}

// Crash drops what was not durable. A disk that hung works again for the next
// process.
func (d *Disk) Crash() {
	d.mu.Lock()
	d.epoch++
	d.pending = nil
	d.mu.Unlock()
	d.Resume()
}

// Observe has every entry that is written shown to a function.
func (d *Disk) Observe(stored func(*raft.Log)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stored = stored
}

// PlantLostWrites makes the disk acknowledge appends that a crash then loses:
// a violation that the simulation must notice.
func (d *Disk) PlantLostWrites() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.forget = true
}

// Open implements [cluster.Storage]: the stores of one process of the node.
func (d *Disk) Open() (cluster.Stores, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := &view{disk: d, epoch: d.epoch}
	return cluster.Stores{Log: v, Stable: v, Snapshots: d.snapshots, Close: func() error { return nil }}, nil
}

// ReadIdentity implements [cluster.Storage].
func (d *Disk) ReadIdentity() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.identity, nil
}

// WriteIdentity implements [cluster.Storage].
func (d *Disk) WriteIdentity(b []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.identity = append([]byte(nil), b...)
	return nil
}

// view is the disk as one process of the node sees it.
type view struct {
	disk  *Disk
	epoch int
}

// write waits as long as the disk takes, and then runs do unless the process
// has crashed meanwhile: its writes then go nowhere.
func (v *view) write(do func() error) error {
	d := v.disk
	d.mu.Lock()
	latency, stalled := d.latency, d.stalled
	d.mu.Unlock()
	if latency > 0 {
		time.Sleep(latency)
	}
	if stalled != nil {
		<-stalled
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if v.epoch != d.epoch {
		return nil
	}
	return do()
}

// StoreLog implements [raft.LogStore].
func (v *view) StoreLog(l *raft.Log) error { return v.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements [raft.LogStore].
func (v *view) StoreLogs(logs []*raft.Log) error {
	return v.write(func() error {
		if v.disk.stored != nil {
			for _, l := range logs {
				v.disk.stored(l)
			}
		}
		if v.disk.forget {
			v.disk.pending = append(v.disk.pending, logs...)
			return nil
		}
		return v.disk.logs.StoreLogs(logs)
	})
}

// FirstIndex implements [raft.LogStore].
func (v *view) FirstIndex() (uint64, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	first, err := v.disk.logs.FirstIndex()
	if first == 0 && len(v.disk.pending) > 0 {
		first = v.disk.pending[0].Index
	}
	return first, err
}

// LastIndex implements [raft.LogStore].
func (v *view) LastIndex() (uint64, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	last, err := v.disk.logs.LastIndex()
	if k := len(v.disk.pending); k > 0 {
		last = v.disk.pending[k-1].Index
	}
	return last, err
}

// GetLog implements [raft.LogStore].
func (v *view) GetLog(index uint64, out *raft.Log) error {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	for k := len(v.disk.pending) - 1; k >= 0; k-- {
		if v.disk.pending[k].Index == index {
			*out = *v.disk.pending[k]
			return nil
		}
	}
	return v.disk.logs.GetLog(index, out)
}

// DeleteRange implements [raft.LogStore].
func (v *view) DeleteRange(from, to uint64) error {
	return v.write(func() error {
		kept := v.disk.pending[:0]
		for _, l := range v.disk.pending {
			if l.Index < from || l.Index > to {
				kept = append(kept, l)
			}
		}
		v.disk.pending = kept
		return v.disk.logs.DeleteRange(from, to)
	})
}

// Set implements [raft.StableStore].
func (v *view) Set(key, value []byte) error {
	return v.write(func() error { return v.disk.logs.Set(key, value) })
}

// Get implements [raft.StableStore].
func (v *view) Get(key []byte) ([]byte, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	return v.disk.logs.Get(key)
}

// SetUint64 implements [raft.StableStore].
func (v *view) SetUint64(key []byte, value uint64) error {
	return v.write(func() error { return v.disk.logs.SetUint64(key, value) })
}

// GetUint64 implements [raft.StableStore].
func (v *view) GetUint64(key []byte) (uint64, error) {
	v.disk.mu.Lock()
	defer v.disk.mu.Unlock()
	return v.disk.logs.GetUint64(key)
}
