// Package fake is a driver whose instances exist in memory only: for tests of
// what drives drivers, and for the simulated cluster, where it stands for the
// machine and so outlives the node that uses it.
//
// It starts no goroutines and works in virtual time. It counts launches, so
// that a simulation can prove that no instance was started twice.
package fake

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// maxLog bounds the log of one instance.
const maxLog = 64 << 10

// Driver is the in-memory driver. The zero value is not usable; see [New].
type Driver struct {
	name string

	mu       sync.Mutex
	nextPID  int
	rows     map[string]*row
	launches map[string]int
	hooks    Hooks
}

// Hooks change how instances behave. Each may be nil; they are called without
// any lock held.
type Hooks struct {
	// Start may refuse a launch, or delay it.
	Start func(ctx context.Context, s driver.Spec) error
	// Check answers an exec health check; nil means healthy.
	Check func(ctx context.Context, id string) error
	// IgnoresStop makes an instance end by KILL only.
	IgnoresStop func(id string) bool
}

// row is one instance.
type row struct {
	status driver.Status
	log    []byte
	ended  chan struct{}
}

// New returns a driver without instances.
func New(name string, hooks Hooks) *Driver {
	return &Driver{name: name, nextPID: 1000, rows: map[string]*row{}, launches: map[string]int{}, hooks: hooks}
}

// Name implements [driver.Driver].
func (d *Driver) Name() string { return d.name }

// Start implements [driver.Driver].
func (d *Driver) Start(ctx context.Context, s driver.Spec) (driver.Status, error) {
	if err := driver.CheckID(s.ID); err != nil {
		return driver.Status{}, err
	}
	if st, known, err := d.known(s); known {
		return st, err
	}
	if d.hooks.Start != nil {
		if err := d.hooks.Start(ctx, s); err != nil {
			return driver.Status{}, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.rows[s.ID]; ok {
		return r.status, nil
	}
	d.nextPID++
	d.launches[s.ID]++
	st := driver.Status{
		ID: s.ID, Group: s.Group, Term: s.Term, Phase: driver.Running, PID: d.nextPID,
		Address: fmt.Sprintf("127.0.0.1:%d", 20000+d.nextPID%10000), StartedAt: time.Now(), Limits: "none asked for",
	}
	d.rows[s.ID] = &row{status: st, ended: make(chan struct{})}
	return st, nil
}

// known answers a Start of an instance that exists.
func (d *Driver) known(s driver.Spec) (driver.Status, bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rows[s.ID]
	if !ok {
		return driver.Status{}, false, nil
	}
	if err := driver.Fence(s.ID, s.Term, r.status.Term); err != nil {
		return driver.Status{}, true, err
	}
	r.status.Term = s.Term
	if r.status.Phase == driver.Ended {
		return driver.Status{}, true, fsm.Errorf(fsm.Conflict, "instance", s.ID, "has run already and is not started again")
	}
	return r.status, true, nil
}

// Stop implements [driver.Driver].
func (d *Driver) Stop(ctx context.Context, id string, s driver.StopSpec) (driver.Status, error) {
	r, err := d.fence(id, s.Term)
	if err != nil {
		return driver.Status{}, err
	}
	signal := s.Signal
	if signal != "KILL" && d.hooks.IgnoresStop != nil && d.hooks.IgnoresStop(id) {
		kill := time.NewTimer(s.Timeout)
		defer kill.Stop()
		select {
		case <-ctx.Done():
			return driver.Status{}, ctx.Err()
		case <-r.ended:
		case <-kill.C:
			signal = "KILL"
		}
	}
	d.end(id, driver.Exit{Known: true, Signal: signal})
	return d.Wait(ctx, id)
}

func (d *Driver) fence(id string, term uint64) (*row, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rows[id]
	if !ok {
		return nil, driver.Unknown(id)
	}
	if err := driver.Fence(id, term, r.status.Term); err != nil {
		return nil, err
	}
	r.status.Term = term
	return r, nil
}

// Wait implements [driver.Driver].
func (d *Driver) Wait(ctx context.Context, id string) (driver.Status, error) {
	r, err := d.row(id)
	if err != nil {
		return driver.Status{}, err
	}
	select {
	case <-ctx.Done():
		return driver.Status{}, ctx.Err()
	case <-r.ended:
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.status, nil
}

// List implements [driver.Driver].
func (d *Driver) List(context.Context) ([]driver.Status, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]driver.Status, 0, len(d.rows))
	for _, id := range slices.Sorted(maps.Keys(d.rows)) {
		list = append(list, d.rows[id].status)
	}
	return list, nil
}

// Stats implements [driver.Driver].
func (d *Driver) Stats(_ context.Context, id string) (driver.Usage, error) {
	r, err := d.row(id)
	if err != nil {
		return driver.Usage{}, err
	}
	if d.over(r) {
		return driver.Usage{}, fsm.Errorf(fsm.Conflict, "instance", id, "has ended")
	}
	return driver.Usage{CPUPercent: 10, HasCPU: true, MemoryPercent: 5, RSSBytes: 8 << 20, Processes: 1}, nil
}

// Logs implements [driver.Driver].
func (d *Driver) Logs(_ context.Context, id string, q driver.LogQuery) (driver.LogChunk, error) {
	r, err := d.row(id)
	if err != nil {
		return driver.LogChunk{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return driver.Cut(r.log, q), nil
}

// Exec implements [driver.Driver].
func (d *Driver) Exec(ctx context.Context, id string, _ []string) error {
	r, err := d.row(id)
	if err != nil {
		return err
	}
	if d.over(r) {
		return fsm.Errorf(fsm.Conflict, "instance", id, "has ended")
	}
	if d.hooks.Check == nil {
		return nil
	}
	return d.hooks.Check(ctx, id)
}

// Remove implements [driver.Driver].
func (d *Driver) Remove(_ context.Context, id string) error {
	r, err := d.row(id)
	if err != nil {
		return err
	}
	if !d.over(r) {
		return fsm.Errorf(fsm.Conflict, "instance", id, "still runs")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.rows, id)
	return nil
}

// Close implements [driver.Driver]; the instances stay, as they would on a
// machine whose node process has ended.
func (d *Driver) Close() error { return nil }

// Reopen says that the node process has restarted: what runs was adopted.
func (d *Driver) Reopen() *Driver {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.rows {
		r.status.Adopted = true
	}
	return d
}

// End makes a running instance end by itself, and reports whether it ran.
func (d *Driver) End(id string, e driver.Exit, lastLine string) bool {
	if lastLine != "" {
		d.Say(id, lastLine)
	}
	return d.end(id, e)
}

// Say makes an instance write a line to its log.
func (d *Driver) Say(id, line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.rows[id]; ok {
		r.log = append(r.log, line+"\n"...)
		r.log = r.log[max(0, len(r.log)-maxLog):]
	}
}

// EndAll makes every instance end, as the crash of the machine does, and
// forgets them.
func (d *Driver) EndAll() {
	list, _ := d.List(context.Background())
	for _, s := range list {
		d.end(s.ID, driver.Exit{})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.rows)
}

// Launches returns how often each instance was launched, ever.
func (d *Driver) Launches() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.launches)
}

func (d *Driver) end(id string, e driver.Exit) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rows[id]
	if !ok || r.status.Phase == driver.Ended {
		return false
	}
	e.At = time.Now()
	r.status.Phase, r.status.Exit = driver.Ended, &e
	close(r.ended)
	return true
}

func (d *Driver) row(id string) (*row, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r, ok := d.rows[id]
	if !ok {
		return nil, driver.Unknown(id)
	}
	return r, nil
}

func (d *Driver) over(r *row) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return r.status.Phase == driver.Ended
}
