//go:build linux

package e2e_test

import (
	"context"
	"fmt"
	"net/http/httptrace"
	"sync"
	"syscall"
	"testing"

	"github.com/pacelinehq/paceline/client"
)

// rounds is how often a fault is repeated.
func rounds(usually, full int) int {
	if isFull() {
		return full
	}
	return usually
}

// TestKillLeader kills the leader's process again and again under load.
// Clients of the living nodes must notice nothing but a delay.
func TestKillLeader(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	for range rounds(5, 30) {
		l.goesOn(20)
		leader := f.leader()
		l.hit(leader)
		leader.kill()
		l.goesOn(40)
		leader.start()
		f.whole()
		l.heal(leader)
	}
	l.finish(true)
}

// TestTermLeader stops the leader in order: it hands over, answers what it has
// accepted, and ends well.
func TestTermLeader(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	for range rounds(3, 30) {
		l.goesOn(20)
		leader := f.leader()
		l.leave(leader)
		leader.signal(syscall.SIGTERM)
		f.leaderAmong(f.others(leader)...)
		if code := leader.gone(); code != 0 {
			t.Errorf("%s ended with status %d after SIGTERM", leader.name, code)
		}
		l.goesOn(20)
		leader.start()
		f.whole()
		l.heal(leader)
	}
	l.finish(true)
}

// TestPausedLeader freezes the leader. The others go on without it, and when
// it wakes up it must not answer a strong read from what it then knows.
func TestPausedLeader(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	answered := 0
	for round := range rounds(4, 30) {
		l.goesOn(20)
		old := f.leader()
		key := fmt.Sprintf("pause-%d", round)
		_, err := put(t.Context(), f.any(), key, "before")
		must(t, err)
		l.hit(old)
		old.signal(syscall.SIGSTOP)
		l.goesOn(20)
		f.leaderAmong(f.others(old)...)
		_, err = put(t.Context(), f.client(f.others(old)...), key, "after")
		must(t, err)
		answered += l.noStaleReads(old, key)
		f.whole()
		l.heal(old)
	}
	if answered == 0 {
		t.Error("no strong read was answered by a node that woke up: the test has shown nothing")
	}
	l.finish(true)
}

// noStaleReads sends strong reads to a frozen node, wakes it up, and counts
// the answers, which must all have the value written while it slept.
func (l *load) noStaleReads(old *node, key string) (answered int) {
	l.t.Helper()
	const readers, each = 8, 25
	var mu sync.Mutex
	var wg sync.WaitGroup
	sent := make(chan struct{}, 2*readers*each)
	wrote := func(httptrace.WroteRequestInfo) {
		select {
		case sent <- struct{}{}:
		default:
		}
	}
	for range readers {
		wg.Go(func() {
			for range each {
				ctx, cancel := context.WithTimeout(l.ctx, attemptDeadline)
				ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: wrote})
				tmpl, err := old.cli().GetTemplate(ctx, key, client.Once(), client.WithConsistency(client.Strong))
				cancel()
				if err != nil {
					continue
				}
				mu.Lock()
				if answered++; tmpl.Labels["v"] != "after" {
					l.t.Errorf("%s answered a strong read with %q after it woke up", old.name, tmpl.Labels["v"])
				}
				mu.Unlock()
			}
		})
	}
	for range readers {
		<-sent // one request of each reader waits in the sleeper's sockets
	}
	old.signal(syscall.SIGCONT)
	wg.Wait()
	return answered
}

// TestKillAll kills every node at the same moment, under load, and starts them
// again: nothing that was acknowledged may be missing.
func TestKillAll(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	for range rounds(2, 20) {
		l.goesOn(60)
		for _, n := range f.nodes {
			l.hit(n)
		}
		for _, n := range f.nodes {
			n.signal(syscall.SIGKILL)
		}
		for _, n := range f.nodes {
			n.gone()
		}
		f.startAll()
		f.whole()
		for _, n := range f.nodes {
			l.heal(n)
		}
	}
	l.goesOn(20)
	l.finish(false)
	f.equalStates()
}

// TestRollingRestart restarts one node after the other, as an upgrade does.
func TestRollingRestart(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	for _, n := range f.nodes {
		l.hit(n)
		n.term()
		l.goesOn(10)
		n.start()
		f.whole()
		l.heal(n)
	}
	l.finish(true)
}

// TestNewAddress brings one node back with its data at another address.
func TestNewAddress(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		n := f.leader()
		l.hit(n)
		n.stop(sig)
		l.goesOn(10)
		n.ip = freeIP(t)
		n.start()
		f.whole()
		l.heal(n)
		l.goesOn(10)
	}
	l.finish(true)
}

// TestSwappedAddresses brings all nodes back, each at the address of another.
func TestSwappedAddresses(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	l.goesOn(20)
	for _, n := range f.nodes {
		l.hit(n)
		n.term()
	}
	f.nodes[0].ip, f.nodes[1].ip, f.nodes[2].ip = f.nodes[1].ip, f.nodes[2].ip, f.nodes[0].ip
	f.startAll()
	f.whole()
	for _, n := range f.nodes {
		l.heal(n)
	}
	l.goesOn(40)
	l.finish(false)
	f.equalStates()
}

// TestAllNewAddresses brings all nodes back at other addresses at once, as
// containers that were created again.
func TestAllNewAddresses(t *testing.T) {
	quick(t)
	f := running(t, 3)
	l := begin(t, f)
	l.goesOn(30)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, n := range f.nodes {
			l.hit(n)
			n.signal(sig)
		}
		for _, n := range f.nodes {
			n.gone()
			n.ip = freeIP(t)
		}
		f.startAll()
		f.whole()
		for _, n := range f.nodes {
			l.heal(n)
		}
		l.goesOn(20)
	}
	l.finish(false)
	f.equalStates()
}
