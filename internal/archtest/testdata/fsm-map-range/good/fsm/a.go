package fsm

import (
	"maps"
	"slices"
	"strings"
)

func sorted(m map[string]int) (out []int) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	for _, k := range slices.SortedFunc(maps.Keys(m), strings.Compare) {
		out = append(out, m[k])
	}
	return out
}

func others(list []int, text string, n int, seq func(func(int) bool)) {
	for range list {
	}
	for range text {
	}
	for range n {
	}
	for range seq {
	}
	for range strings.Split(text, ",") {
	}
}

func generic[S ~[]E, E any](s S) {
	for range s {
	}
}

func waived(m map[string]int) map[string]int {
	out := map[string]int{}
	//archtest:ok the target is a map as well, so the order does not show
	for k, v := range m {
		out[k] = v
	}
	return out
}
