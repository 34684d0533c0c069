package cluster

func f(m map[string]int) {
	for range m {
	}
}
