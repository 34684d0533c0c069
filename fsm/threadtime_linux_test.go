package fsm_test

import (
	"time"

	"golang.org/x/sys/unix"
)

// threadTime is the CPU time of the calling thread. A figure of one Apply in
// wall time is that of the scheduler as much: on two processors the garbage
// collector takes the processor of the applying thread for milliseconds.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
