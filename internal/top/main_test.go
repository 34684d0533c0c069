package top_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/pacelinehq/paceline/fsm"
	"github.com/pacelinehq/paceline/internal/top"
)

var began = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// parse reads metrics as told so many seconds after the beginning.
func parse(t *testing.T, after int, text string) *top.Sample {
	t.Helper()
	s, err := top.Parse(strings.NewReader(text), began.Add(time.Duration(after)*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// reading makes a reading of node samples, named n1, n2, …; nil is a node that
// does not answer.
func reading(samples ...*top.Sample) *top.Reading {
	r := &top.Reading{At: began, Leader: "n1"}
	for k, s := range samples {
		n := top.NodeReading{Name: "n" + string(rune('1'+k)), State: "ready", Sample: s}
		if s == nil {
			n.Problem = "can not reach it"
		}
		r.Nodes = append(r.Nodes, n)
	}
	r.Groups = []fsm.Group{
		{Name: "batch", Desired: 1},
		{Name: "web", Desired: 2, Service: &fsm.Service{}},
	}
	r.Instances = []fsm.Instance{
		{ID: "a", Group: "web", Node: "n1", State: fsm.Running, Health: fsm.Healthy},
		{ID: "b", Group: "web", Node: "n2", State: fsm.Draining, Health: fsm.Healthy},
		{ID: "z", Group: "web", Node: "n2", State: fsm.Stopped},
	}
	return r
}

func near(t *testing.T, what string, got *float64, want float64) {
	t.Helper()
	switch {
	case math.IsNaN(want) && got != nil:
		t.Errorf("%s is %v, want none", what, *got)
	case !math.IsNaN(want) && got == nil:
		t.Errorf("%s is none, want %v", what, want)
	case got != nil && math.Abs(*got-want) > 1e-9:
		t.Errorf("%s is %v, want %v", what, *got, want)
	}
}

var none = math.NaN()
