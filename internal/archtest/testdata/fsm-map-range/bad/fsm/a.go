package fsm

import (
	"maps"
	"reflect"
	"slices"
)

type labels map[string]string

type noun struct{ Labels labels }

func direct(m map[string]int) (n int) {
	for _, v := range m {
		n += v
	}
	return n
}

func field(x *noun) (out []string) {
	for k := range x.Labels {
		out = append(out, k)
	}
	return out
}

func cloned(x noun) (out []string) {
	c := maps.Clone(x.Labels)
	for k := range c {
		out = append(out, k)
	}
	return out
}

func generic[M ~map[string]int](m M) {
	for range m {
	}
}

func bound[K comparable, V any, M interface{ ~map[K]V }](m M) {
	for range m {
	}
}

func keys(m map[string]int) []string {
	for range maps.Keys(m) {
	}
	_ = slices.Collect(maps.Values(m))
	return slices.Collect(maps.Keys(m))
}

func reflected(v any) []reflect.Value { return reflect.ValueOf(v).MapKeys() }

func noReason(m map[string]int) {
	//archtest:ok
	for range m {
	}
}
