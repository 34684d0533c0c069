package main

import (
	"errors"
	"testing"
)

func TestVerdict(t *testing.T) {
	broken := errors.New("broken")
	good, bad := &Summary{Passed: 1}, &Summary{Passed: 1, Failed: []string{"a"}}
	cases := []struct {
		name     string
		sum      *Summary
		read     error
		wait     error
		code     int
		explains bool
	}{
		{"all passed", good, nil, nil, 0, false},
		{"a test failed", bad, nil, broken, 1, false},
		{"a test failed, go test did not say so", bad, nil, nil, 1, false},
		{"broken off without a failure", good, nil, broken, 1, true},
		{"events that can not be read", good, broken, nil, 1, true},
		{"nothing ran", &Summary{}, nil, nil, 1, false},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			code, err := verdict(c.sum, c.read, c.wait)
			if code != c.code || (err != nil) != c.explains {
				t.Errorf("status %d, error %v", code, err)
			}
		})
	}
}
