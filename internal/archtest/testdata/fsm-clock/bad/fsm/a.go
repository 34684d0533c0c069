package fsm

import clock "time"

var start = clock.Now()

func age() clock.Duration { return clock.Since(start) }

func wait() {
	<-clock.After(clock.Second)
	f := clock.Now
	_ = f
}
