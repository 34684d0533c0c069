//go:build race

package http1_test

// raceDetector says that the race detector is on. Pools then lose buffers on purpose.
const raceDetector = true
