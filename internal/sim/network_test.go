package sim_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pacelinehq/paceline/internal/sim"
)

const a, b = "10.0.0.1", "10.0.0.2"

// pair connects host a to a listener on host b.
func pair(t *testing.T, n *sim.Network) (near, far net.Conn) {
	t.Helper()
	l, err := n.Host(b).Listen(b + ":7701")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	near, err = n.Host(a).Dial(t.Context(), b+":7701")
	if err != nil {
		t.Fatal(err)
	}
	far, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestStreamDelayAndOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork(1)
		near, far := pair(t, n)
		n.SetPath(a, b, sim.Path{Delay: time.Second, Jitter: time.Second})
		began := time.Now()
		for _, s := range []string{"one ", "two ", "three"} {
			if _, err := near.Write([]byte(s)); err != nil {
				t.Fatal(err)
			}
		}
		_ = near.Close()
		got, err := io.ReadAll(far)
		if err != nil || string(got) != "one two three" {
			t.Fatalf("got %q, %v", got, err)
		}
		if d := time.Since(began); d < time.Second || d > 2*time.Second {
			t.Errorf("took %s of virtual time", d)
		}
	})
}

func TestCutHoldsBackAndHealDelivers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork(1)
		near, far := pair(t, n)
		n.SetPath(a, b, sim.Path{CutStreams: true, CutPackets: true})
		if _, err := near.Write([]byte("held")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8)
		_ = far.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := far.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("data crossed a cut: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := n.Host(a).Dial(ctx, b+":7701"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dialled across a cut: %v", err)
		}
		// The other direction is open.
		if _, err := far.Write([]byte("back")); err != nil {
			t.Fatal(err)
		}
		if k, err := near.Read(buf); err != nil || string(buf[:k]) != "back" {
			t.Fatalf("got %q, %v", buf[:k], err)
		}
		n.Heal()
		_ = far.SetReadDeadline(time.Time{})
		if k, err := far.Read(buf); err != nil || string(buf[:k]) != "held" {
			t.Fatalf("got %q, %v", buf[:k], err)
		}
	})
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork(1)
		near, _ := pair(t, n)
		n.Crash(b, false)
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("after a kill the peer reads %v", err)
		}
		if _, err := n.Host(a).Dial(t.Context(), b+":7701"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("after a kill a dial gives %v", err)
		}
		near, _ = pair(t, n)
		n.Crash(b, true)
		_ = near.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after a power failure the peer reads %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := n.Host(a).Dial(ctx, b+":7701"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("after a power failure a dial gives %v", err)
		}
	})
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork(1)
		from, err := n.Host(a).Gossip(a + ":7702")
		if err != nil {
			t.Fatal(err)
		}
		to, err := n.Host(b).Gossip(b + ":7702")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = from.Shutdown(), to.Shutdown() }()
		count := func(p sim.Path, sent int) int {
			n.SetPath(a, b, p)
			for range sent {
				_, _ = from.WriteTo([]byte("x"), b+":7702")
			}
			time.Sleep(time.Minute) //archtest:ok virtual time: all that is on its way arrives
			got := 0
			for len(to.PacketCh()) > 0 {
				<-to.PacketCh()
				got++
			}
			return got
		}
		if got := count(sim.Path{Delay: time.Second}, 100); got != 100 {
			t.Errorf("%d of 100 packets arrived on a good path", got)
		}
		if got := count(sim.Path{CutPackets: true}, 100); got != 0 {
			t.Errorf("%d of 100 packets crossed a cut", got)
		}
		if got := count(sim.Path{Loss: 0.25}, 1000); got < 650 || got > 850 {
			t.Errorf("%d of 1000 packets arrived at 25%% loss", got)
		}
	})
}

func TestPowerFailureIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork(1)
		near, _ := pair(t, n)
		n.Crash(b, true)
		if _, err := near.Write([]byte("into the dark")); err != nil {
			t.Errorf("a write to a machine without power fails at once: %v", err)
		}
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("the keep-alive of a stream to a machine without power ends in %v", err)
		}
	})
}

func TestCrashedProcessCannotSpeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := sim.NewNetwork(1)
		process := n.Host(a)
		packets, err := process.Gossip(a + ":7702")
		if err != nil {
			t.Fatal(err)
		}
		to, err := n.Host(b).Gossip(b + ":7702")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = packets.Shutdown(), to.Shutdown() }()
		n.Crash(a, false)
		if _, err := process.Dial(t.Context(), b+":7702"); err == nil {
			t.Error("a crashed process can dial")
		}
		if _, err := process.Listen(a + ":7701"); err == nil {
			t.Error("a crashed process can listen")
		}
		if _, err := packets.WriteTo([]byte("x"), b+":7702"); err != nil || len(to.PacketCh()) != 0 {
			t.Errorf("a packet of a crashed process arrived (%v)", err)
		}
		next := n.Host(a)
		if l, err := next.Listen(a + ":7701"); err != nil {
			t.Errorf("the next process can not listen: %v", err)
		} else if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}
