//go:build !race

package sim_test

// seeds is how many seeds to run.
func seeds(short bool) int {
	if short {
		return 10
	}
	return 100
}

// raceDetector says that the race detector is off.
const raceDetector = false
