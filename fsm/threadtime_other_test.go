//go:build !linux

package fsm_test

import "time"

var threadStart = time.Now()

// threadTime stands for the CPU time of the calling thread where there is no
// portable way to read it.
func threadTime() time.Duration { return time.Since(threadStart) }
