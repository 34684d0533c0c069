//go:build race

package sim_test

// seeds is how many seeds to run: with the race detector each takes several
// times as long.
func seeds(short bool) int {
	if short {
		return 2
	}
	return 8
}

// raceDetector says that the race detector is on.
const raceDetector = true
