//go:build linux

package process

import (
	"context"
	"hash/fnv"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// Driver runs processes. See [New].
type Driver struct {
	cfg     Config
	allow   allowList
	ports   *ports
	cgroups *cgroups
	memory  int64
	table   procTable
	log     *slog.Logger
	lock    *os.File

	// ctx ends with Close, wg counts what must have ended before it returns.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu        sync.Mutex
	closed    bool
	instances map[string]*instance
}

var _ driver.Driver = (*Driver)(nil)

// New opens the driver on its directory and adopts the processes that an
// earlier driver started there. It refuses a directory that is in use.
func New(cfg Config) (*Driver, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	lock, err := lockDir(cfg.Dir, cfg.dirMode())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &Driver{
		cfg: cfg, allow: cfg.Allow, log: cfg.Logger.With("driver", Name), lock: lock,
		ports:   newPorts(cfg.Host, cfg.PortMin, cfg.PortMax, spread(cfg.Dir)),
		cgroups: findCgroups(cfg.Cgroup),
		memory:  cfg.Node.MemoryMiB << 20,
		ctx:     ctx, cancel: cancel,
		instances: map[string]*instance{},
	}
	if d.memory == 0 {
		d.memory = machineMemory()
	}
	if err := d.adoptAll(); err != nil {
		_ = d.Close()
		return nil, err
	}
	d.wg.Go(d.rotateLogs)
	if os.Getpid() == 1 {
		d.wg.Go(d.reapOrphans)
	}
	return d, nil
}

// lockDir takes the directory for this driver alone: two drivers on one
// directory could each start the same instance.
func lockDir(dir string, mode os.FileMode) (*os.File, error) {
	if err := os.MkdirAll(dir, mode); err != nil {
		return nil, fsm.Errorf(fsm.Unavailable, "driver", Name, "can not make its directory: %v", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fsm.Errorf(fsm.Unavailable, "driver", Name, "can not lock its directory: %v", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fsm.Errorf(fsm.Conflict, "driver", Name, "the directory %s is used by another node", dir).
			WithHint("give each node a --data-dir of its own")
	}
	return f, nil
}

// dirMode lets another user's instances reach their working directory.
func (c Config) dirMode() os.FileMode {
	if c.UID != 0 || c.GID != 0 {
		return 0o711
	}
	return 0o700
}

// spread makes the nodes of one machine begin at different ports.
func spread(dir string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(dir))
	return int(h.Sum32() >> 1)
}

// Name implements [driver.Driver].
func (d *Driver) Name() string { return Name }

// Close implements [driver.Driver]: the processes run on.
func (d *Driver) Close() error {
	d.mu.Lock()
	again := d.closed
	d.closed = true
	d.mu.Unlock()
	if again {
		return nil
	}
	d.cancel()
	d.wg.Wait()
	d.ports.close()
	return d.lock.Close()
}

// List implements [driver.Driver].
func (d *Driver) List(context.Context) ([]driver.Status, error) {
	d.mu.Lock()
	all := slices.Collect(maps.Values(d.instances))
	d.mu.Unlock()
	list := make([]driver.Status, 0, len(all))
	for _, i := range all {
		if i.launched() {
			list = append(list, i.status())
		}
	}
	slices.SortFunc(list, func(a, b driver.Status) int { return cmpString(a.ID, b.ID) })
	return list, nil
}

// Wait implements [driver.Driver].
func (d *Driver) Wait(ctx context.Context, id string) (driver.Status, error) {
	i, err := d.get(id)
	if err != nil {
		return driver.Status{}, err
	}
	select {
	case <-i.ended:
		return i.status(), nil
	case <-ctx.Done():
		return driver.Status{}, ctx.Err()
	case <-d.ctx.Done():
		return driver.Status{}, closedError()
	}
}

// Remove implements [driver.Driver].
func (d *Driver) Remove(_ context.Context, id string) error {
	i, err := d.get(id)
	if err != nil {
		return err
	}
	if !i.over() {
		return fsm.Errorf(fsm.Conflict, "instance", id, "still runs").WithHint("stop it first")
	}
	i.logMu.Lock()
	defer i.logMu.Unlock()
	if err := os.RemoveAll(i.dir); err != nil {
		return fsm.Errorf(fsm.Unavailable, "instance", id, "can not be removed: %v", err)
	}
	d.drop(i)
	return nil
}

// get returns an instance that was launched.
func (d *Driver) get(id string) (*instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	i, ok := d.instances[id]
	if !ok || !i.launched() {
		return nil, driver.Unknown(id)
	}
	return i, nil
}

func (d *Driver) drop(i *instance) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.instances, i.id)
}

// live lists the instances that run.
func (d *Driver) live() []*instance {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []*instance
	for _, i := range d.instances {
		if i.launched() && !i.over() {
			list = append(list, i)
		}
	}
	return list
}

func closedError() error {
	return fsm.Errorf(fsm.Unavailable, "driver", Name, "is closed: the node is stopping")
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// instance is one process in the driver's memory.
type instance struct {
	id, dir string
	// ready is closed when the launch has succeeded or failed, ended when the
	// process and all that it started are gone.
	ready, ended chan struct{}

	mu      sync.Mutex
	rec     record
	env     []string
	adopted bool
	err     error
	usage   usageSample

	// logMu orders rotation and reading of the log.
	logMu sync.Mutex
}

func (d *Driver) newInstance(id string) *instance {
	return &instance{
		id: id, dir: filepath.Join(d.cfg.Dir, id),
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
}

func (i *instance) launched() bool { return isClosed(i.ready) }
func (i *instance) over() bool     { return isClosed(i.ended) }

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// record returns a copy of the instance's record.
func (i *instance) record() record {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.rec
}

func (i *instance) status() driver.Status {
	i.mu.Lock()
	defer i.mu.Unlock()
	r := &i.rec
	s := driver.Status{
		ID: r.ID, Group: r.Group, Term: r.Term, Phase: driver.Running, PID: r.PID,
		Address: hostPort(r.Host, r.Port), StartedAt: r.StartedAt, Adopted: i.adopted, Limits: r.Limits,
	}
	if r.Step == ended {
		s.Phase, s.Exit = driver.Ended, r.Exit
	}
	return s
}

// fence refuses an older term and remembers a newer one, on disk too, so that
// a restart of the node does not open the door to a deposed leader.
func (i *instance) fence(term uint64) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if err := driver.Fence(i.id, term, i.rec.Term); err != nil {
		return err
	}
	if term == i.rec.Term {
		return nil
	}
	i.rec.Term = term
	if err := i.rec.save(i.dir, true); err != nil {
		return fsm.Errorf(fsm.Unavailable, "instance", i.id, "its record can not be written: %v", err)
	}
	return nil
}

// now is the wall clock: the times of processes are shown to people, and
// nothing is decided by them.
func now() time.Time { return time.Now().UTC() }
