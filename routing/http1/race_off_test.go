//go:build !race

package http1_test

// raceDetector says that the race detector is off.
const raceDetector = false
