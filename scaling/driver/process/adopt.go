//go:build linux

package process

import (
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/scaling/driver"
)

// forkGap is how long after the death of a node a process that it was just
// starting may not show its own environment yet.
const forkGap = 50 * time.Millisecond

// adoptAll finds out what became of every instance on disk.
func (d *Driver) adoptAll() error {
	records, err := loadAll(d.cfg.Dir)
	if err != nil {
		return fsm.Errorf(fsm.Unavailable, "driver", Name, "can not read its directory: %v", err)
	}
	boot := bootID()
	for _, r := range records {
		i := d.newInstance(r.ID)
		i.rec, i.adopted = *r, true
		d.instances[r.ID] = i
		close(i.ready)
		d.adopt(i, boot)
	}
	return nil
}

// adopt goes on with an instance where an earlier driver has left it.
func (d *Driver) adopt(i *instance, boot string) {
	r := &i.rec
	switch {
	case r.Step == ended:
		close(i.ended)
		return
	case r.Step == started && r.Boot == boot && exists(r.PID, r.Start):
		d.resume(i)
		return
	case r.Step == intent:
		if p, found := d.searchOrphan(i); found {
			d.log.Info("found the process of an instance whose start was not recorded", "instance", i.id, "pid", p.pid)
			r.Step, r.PID, r.Start, r.Boot = started, p.pid, p.start, boot
			if err := r.save(i.dir, true); err != nil {
				d.log.Warn("the record of an instance can not be written", "instance", i.id, "error", err)
			}
			d.resume(i)
			return
		}
	}
	note := "its process was gone when the node came back"
	if r.Boot != boot {
		note = "the machine or container was restarted"
		r.PID, r.Start = 0, 0 // the numbers are other processes' by now
	}
	d.conclude(i, driver.Exit{At: now(), Note: note})
}

// resume watches a process that runs, or that is waiting to be reaped.
func (d *Driver) resume(i *instance) {
	d.ports.adopt(i.rec.Port)
	d.wg.Go(func() { d.watch(i) })
}

// searchOrphan looks twice: the node may have died between the fork and the
// exec, when the process still looks like the node itself.
func (d *Driver) searchOrphan(i *instance) (procStat, bool) {
	if p, found := findOrphan(i.dir, i.id); found {
		return p, true
	}
	gap := time.NewTimer(forkGap)
	defer gap.Stop()
	<-gap.C
	return findOrphan(i.dir, i.id)
}

// exists reports whether a process is there, even as a zombie whose exit
// status can still be had.
func exists(pid int, start uint64) bool {
	st, err := readStat(pid)
	return err == nil && st.start == start
}
