package proxy

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/pacelinehq/paceline/routing/http1"
)

// join copies between two connections until both directions have ended or
// neither has moved for the idle time, and returns the bytes from b to a.
func join(a, b *stream, idle time.Duration) int64 {
	var moved atomic.Int64 // the time of the last movement
	moved.Store(int64(a.clk.now()))
	done := make(chan struct{})
	go func() {
		defer close(done)
		pipe(b, a, idle, &moved)
	}()
	n := pipe(a, b, idle, &moved)
	<-done
	return n
}

// closeWriter is a connection of which one direction can end.
type closeWriter interface{ CloseWrite() error }

// pipe copies from one connection to the other until it ends, and passes the
// end on. Anything else ends both directions: a peer must not take a part for
// the whole. No buffer is held while nothing moves.
func pipe(to, from *stream, idle time.Duration, moved *atomic.Int64) (n int64) {
	r := http1.NewReader(from.Conn, http1.Limits{})
	from.readBy, to.writeBy = 0, 0
	arm := func(now time.Duration) {
		from.readIn(now, idle)
		to.writeIn(now, idle)
	}
	arm(from.clk.now())
	for {
		k, err := r.CopyBody(to.Conn, http1.BodyUntilClose, 0, http1.CopyOptions{
			Progress: func(int64) error {
				now := from.clk.now()
				moved.Store(int64(now))
				arm(now)
				return nil
			},
		})
		n += k
		var read *http1.ReadError
		if isTimeout(err) && errors.As(err, &read) {
			// The other direction may be busy: then this one is only quiet.
			now := from.clk.now()
			if left := time.Duration(moved.Load()) + idle - now; left > 0 {
				from.readBy, to.writeBy = 0, 0
				from.readIn(now, left)
				to.writeIn(now, idle)
				continue
			}
		}
		half, ok := to.Conn.(closeWriter)
		if err == nil && ok && half.CloseWrite() == nil {
			return n
		}
		_ = to.Close()
		_ = from.Close()
		return n
	}
}
