package sim

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/pacelinehq/paceline/cluster"
	"github.com/pacelinehq/paceline/internal/node"
	"github.com/pacelinehq/paceline/scaling/driver/fake"
)

// How a supervisor and an operator behave.
const (
	respawnAfter = time.Second
	stopPatience = 10 * time.Second
	// endPatience is after how long the end of a process counts as hung.
	endPatience = 40 * time.Second
)

// machine is one host of the fleet: its disk and its instances outlive the
// node process that runs on it.
//
//	down ──up──► running ──crash, power failure, stop──► down
//	               └──ends by itself──► down ──supervisor──► running
type machine struct {
	w        *World
	num      int
	name     string
	nonVoter bool
	disk     *Disk
	driver   *fake.Driver
	// busy is held by whoever starts or ends the process. It is a channel,
	// because time stands still while a goroutine waits for a mutex.
	busy chan struct{}

	mu      sync.Mutex
	ip      string
	moves   int // how often it got another address
	starts  int
	epoch   int // counts starts and ends of the process
	proc    *node.Node
	ending  bool // the process was told to stop
	retired bool // removed from the cluster: it stays down
}

// addMachine makes the next machine of the fleet, which is down.
func (w *World) addMachine(nonVoter bool) *machine {
	w.mu.Lock()
	num := len(w.machines) + 1
	m := &machine{
		w: w, num: num, name: fmt.Sprintf("n%d", num), nonVoter: nonVoter, disk: NewDisk(),
		busy: make(chan struct{}, 1), ip: fmt.Sprintf("10.0.0.%d", num),
	}
	w.machines = append(w.machines, m)
	w.mu.Unlock()
	m.driver = fake.New(driverName, fake.Hooks{Start: m.launching, Check: w.ledger.check})
	m.disk.Observe(func(l *raftLog) { w.audit.journal.add(m.name, l) })
	if w.opt.Bug == BugLostWrites {
		m.disk.PlantLostWrites()
	}
	return m
}

// process is the running node's cluster, or nil, and its epoch.
func (m *machine) process() (*cluster.Cluster, int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.proc == nil {
		return nil, m.epoch
	}
	return m.proc.Cluster(), m.epoch
}

// at reports whether the process of an epoch still runs, and is to run on.
func (m *machine) at(epoch int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch == epoch && m.proc != nil && !m.ending
}

func (m *machine) addr() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ip
}

func (m *machine) isRetired() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.retired
}

// hold takes the right to start or end the process.
func (m *machine) hold() (release func()) {
	m.busy <- struct{}{}
	return func() { <-m.busy }
}

// up starts the node process, unless it runs.
func (m *machine) up(ctx context.Context) {
	defer m.hold()()
	m.mu.Lock()
	if m.proc != nil || m.retired {
		m.mu.Unlock()
		return
	}
	m.epoch++
	epoch, ip := m.epoch, m.ip
	m.mu.Unlock()
	m.driver.Reopen()
	n, err := node.New(m.config(ip), node.Environment{
		Network: m.w.net.Host(ip), Storage: m.disk, Driver: &hands{Driver: m.driver, m: m, epoch: epoch},
		NoAPI: true, Timing: timing, Wrap: m.wrap,
	})
	if err == nil {
		err = n.Start(ctx)
	}
	if err != nil {
		m.w.violate("liveness", "node %s could not start: %v", m.name, err)
		return
	}
	m.mu.Lock()
	m.proc, m.ending = n, false
	m.starts++
	m.mu.Unlock()
	m.w.log.add(m.name, fmt.Sprintf("started at %s", ip))
	m.w.supervisors.Go(func() { m.supervise(ctx, n, epoch) })
}

func (m *machine) config(ip string) node.Config {
	var join []string
	for k := range m.w.opt.Nodes {
		join = append(join, fmt.Sprintf("10.0.0.%d:7702", k+1))
	}
	return node.Config{
		Name: m.name, Zone: fmt.Sprintf("z%d", m.num%3), DataDir: "/sim", InstanceAddress: ip,
		APIAddr: ip + ":7700", PeerAddr: ip + ":7701", GossipAddr: ip + ":7702", Insecure: true,
		BootstrapExpect: m.w.opt.Nodes, Join: join, NonVoter: m.nonVoter, CPU: 64, MemoryMiB: 64 << 10,
		EvaluationInterval: evaluationInterval, Version: "sim",
		Logger: slog.New(&logHandler{log: m.w.log, node: m.name}),
	}.WithDefaults()
}

// supervise starts the process again when it ends by itself, as a service
// manager does. It ends with the process.
func (m *machine) supervise(ctx context.Context, n *node.Node, epoch int) {
	var why error
	select {
	case <-n.Cluster().Done():
		why = n.Cluster().Err()
	case why = <-n.Failed():
	case <-ctx.Done():
		return
	}
	if !m.at(epoch) {
		return
	}
	m.w.log.add(m.name, fmt.Sprintf("the process ended by itself: %v", why))
	if !m.isRetired() {
		m.w.violate("liveness", "node %s ended by itself: %v", m.name, why)
	}
	m.crash(false)
	if pause(ctx, respawnAfter) == nil {
		m.up(ctx)
	}
}

// same reports whether no process has crashed since an epoch.
func (m *machine) same(epoch int) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.epoch == epoch
}

// crash ends the process at once: killed, or with the whole machine, whose
// instances then end as well.
func (m *machine) crash(power bool) {
	defer m.hold()()
	m.mu.Lock()
	n, ip := m.proc, m.ip
	m.proc = nil
	m.epoch++
	m.mu.Unlock()
	if n != nil {
		m.w.net.Crash(ip, power)
		m.disk.Crash()
	}
	if power {
		m.driver.EndAll()
	}
	if n != nil {
		m.within("Kill", n.Kill)
	}
}

// within calls what ends the process. A process that does not end can not be
// got rid of in a simulation, so that nothing can go on after it.
func (m *machine) within(what string, end func()) {
	late := time.AfterFunc(endPatience, func() {
		m.w.violate("a process ends", "%s of node %s has not returned after %s", what, m.name, endPatience)
		m.w.abort()
	})
	defer late.Stop()
	end()
}

// stop ends the process in order.
func (m *machine) stop() {
	defer m.hold()()
	m.mu.Lock()
	n := m.proc
	m.ending = n != nil
	m.mu.Unlock()
	if n == nil {
		return
	}
	m.disk.Resume()
	ctx, cancel := context.WithTimeout(context.Background(), stopPatience)
	defer cancel()
	m.within("Stop", func() {
		if err := n.Stop(ctx); err != nil {
			m.w.log.add(m.name, fmt.Sprintf("stopping: %v", err))
		}
	})
	m.mu.Lock()
	m.proc = nil
	m.epoch++
	m.mu.Unlock()
}

// renumber gives the machine another address for its next start.
func (m *machine) renumber() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moves++
	m.ip = fmt.Sprintf("10.0.%d.%d", m.moves, m.num)
}

// retire keeps the machine's process from being started again.
func (m *machine) retire(yes bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.retired = yes
}
