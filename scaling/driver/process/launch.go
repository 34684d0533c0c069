//go:build linux

package process

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// Start implements [driver.Driver].
func (d *Driver) Start(ctx context.Context, s driver.Spec) (driver.Status, error) {
	if err := driver.CheckID(s.ID); err != nil {
		return driver.Status{}, err
	}
	if err := ctx.Err(); err != nil {
		return driver.Status{}, err
	}
	i, mine, err := d.claim(s.ID)
	if err != nil {
		return driver.Status{}, err
	}
	if !mine {
		return i.again(ctx, s)
	}
	defer d.wg.Done()
	err = d.launch(i, s)
	if err != nil {
		d.drop(i)
		i.err = err
	}
	close(i.ready)
	if err != nil {
		return driver.Status{}, err
	}
	return i.status(), nil
}

// claim makes the instance, or returns the one that is there. The caller that
// made it launches it and counts in d.wg until then.
func (d *Driver) claim(id string) (i *instance, mine bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, false, closedError()
	}
	if i, ok := d.instances[id]; ok {
		return i, false, nil
	}
	if len(d.instances) >= maxInstances {
		return nil, false, fsm.Errorf(fsm.Exhausted, "driver", Name, "has %d instances on this node, the most that it keeps", maxInstances)
	}
	i = d.newInstance(id)
	d.instances[id] = i
	d.wg.Add(1)
	return i, true, nil
}

// again answers the Start of an instance that was started before.
func (i *instance) again(ctx context.Context, s driver.Spec) (driver.Status, error) {
	select {
	case <-i.ready:
	case <-ctx.Done():
		return driver.Status{}, ctx.Err()
	}
	if i.err != nil {
		return driver.Status{}, i.err
	}
	if err := i.fence(s.Term); err != nil {
		return driver.Status{}, err
	}
	if i.over() {
		return driver.Status{}, fsm.Errorf(fsm.Conflict, "instance", i.id, "has run already and is not started again")
	}
	return i.status(), nil
}

// launch starts the process of a new instance, or leaves nothing behind.
func (d *Driver) launch(i *instance, s driver.Spec) (err error) {
	file, argv, err := d.command(s)
	if err != nil {
		return err
	}
	port, err := d.ports.take(s.Port)
	if err != nil {
		return err
	}
	var undo undoList
	undo.add(func() { d.ports.release(port) })
	defer func() {
		if err != nil {
			undo.run()
		}
	}()
	undo.add(func() { _ = os.RemoveAll(i.dir) })
	home, err := d.makeDirs(i.dir)
	if err != nil {
		return cannotLaunch(i.id, err)
	}
	group, limits := d.cgroups.create(s.ID, s.Resources)
	undo.add(func() { removeCgroups(group) })
	i.env = environment(s, hostPort(d.cfg.Host, port), home, d.cfg.API)
	i.rec = record{
		ID: s.ID, Group: s.Group, Term: s.Term, Step: intent, Argv: argv, Resources: s.Resources,
		Host: d.cfg.Host, Port: port, StartedAt: now(), Boot: bootID(), Cgroup: group, Limits: limits,
	}
	// From here on a restarted node looks for this process before it may
	// believe that there is none.
	if err := i.rec.save(i.dir, true); err != nil {
		return cannotLaunch(i.id, err)
	}
	if i.rec.PID, err = d.spawn(i, file, argv, home, group); err != nil {
		return unusable(argv[0], err)
	}
	d.started(i)
	return nil
}

// started notes the process and begins to watch it.
func (d *Driver) started(i *instance) {
	r := &i.rec
	r.Step = started
	if st, err := readStat(r.PID); err == nil {
		r.Start = st.start
	}
	if err := r.save(i.dir, false); err != nil {
		// The intent stands; a restarted node finds the process by its
		// environment.
		d.log.Warn("the record of an instance can not be written", "instance", i.id, "error", err)
	}
	d.wg.Go(func() { d.watch(i) })
}

// command resolves what to execute, and its argv.
func (d *Driver) command(s driver.Spec) (file string, argv []string, err error) {
	if s.Command == fsm.SampleCommand {
		file = d.cfg.SelfPath
		if file == "" {
			if file, err = os.Executable(); err != nil {
				return "", nil, unusable(s.Command, err)
			}
		}
		argv = append([]string{file}, d.cfg.SelfArgs...)
		return file, append(argv, s.Args...), nil
	}
	if file, err = d.allow.resolve(s.Command); err != nil {
		return "", nil, err
	}
	return file, append([]string{s.Command}, s.Args...), nil
}

// makeDirs makes the directory of an instance and its working directory.
func (d *Driver) makeDirs(dir string) (home string, err error) {
	if err := os.Mkdir(dir, d.cfg.dirMode()); err != nil {
		return "", err
	}
	home = filepath.Join(dir, workDir)
	if err := os.Mkdir(home, 0o700); err != nil {
		return "", err
	}
	if d.cfg.UID != 0 || d.cfg.GID != 0 {
		return home, os.Chown(home, d.cfg.UID, d.cfg.GID)
	}
	return home, nil
}

// spawn executes the process, in a session of its own and with the log as its
// output, opened for appending so that the log can be cut while it writes.
func (d *Driver) spawn(i *instance, file string, argv []string, home string, group []string) (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close() //nolint:errcheck // only read
	out, err := os.OpenFile(filepath.Join(i.dir, logFile), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return 0, err
	}
	defer out.Close() //nolint:errcheck // the process writes it
	attr := &syscall.SysProcAttr{Setsid: true, Credential: d.credential()}
	leave, err := joinAtClone(attr, group)
	if err != nil {
		return 0, err
	}
	defer leave()
	p, err := os.StartProcess(file, argv, &os.ProcAttr{
		Dir: home, Env: i.env, Files: []*os.File{null, out, out}, Sys: attr,
	})
	if err != nil {
		return 0, err
	}
	pid := p.Pid
	// The driver waits for processes by itself, in one way for children and
	// for adopted ones.
	_ = p.Release()
	joinAfter(group, pid)
	if n := d.cfg.OpenFiles; n != 0 {
		if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: n}, nil); err != nil {
			d.log.Warn("the limit of open files can not be set", "instance", i.id, "error", err)
		}
	}
	return pid, nil
}

func (d *Driver) credential() *syscall.Credential {
	if d.cfg.UID == 0 && d.cfg.GID == 0 {
		return nil
	}
	return &syscall.Credential{Uid: uint32(d.cfg.UID), Gid: uint32(d.cfg.GID)}
}

func cannotLaunch(id string, err error) error {
	if errors.Is(err, os.ErrExist) {
		return fsm.Errorf(fsm.Conflict, "instance", id, "has a directory on this node already, so it may have run")
	}
	return fsm.Errorf(fsm.Unavailable, "instance", id, "can not be launched: %v", err)
}

// undoList is what to take back, last first, when a launch fails.
type undoList []func()

func (u *undoList) add(f func()) { *u = append(*u, f) }

func (u undoList) run() {
	for k := len(u) - 1; k >= 0; k-- {
		u[k]()
	}
}
