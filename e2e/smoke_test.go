//go:build linux

package e2e_test

import "testing"

func TestFleet(t *testing.T) {
	quick(t)
	f := running(t, 3)
	_, err := put(t.Context(), f.any(), "hello", "1")
	must(t, err)
	f.equalStates()
}
