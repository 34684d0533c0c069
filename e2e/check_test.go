//go:build linux

package e2e_test

import (
	"math"
	"testing"

	"github.com/anishathalye/porcupine"
)

// TestRegister checks the check: what a broken cluster would show must be
// found, and what a good one may show must pass.
func TestRegister(t *testing.T) {
	const never = math.MaxInt64
	write := func(v string, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: opInput{kind: writeOp, to: v}, Output: opOutput{unknown: ret == never}, Call: call, Return: ret}
	}
	read := func(v string, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: opInput{kind: readOp}, Output: opOutput{value: v}, Call: call, Return: ret}
	}
	cas := func(from, to string, ok bool, call, ret int64) porcupine.Operation {
		return porcupine.Operation{Input: opInput{kind: casOp, from: from, to: to}, Output: opOutput{ok: ok, unknown: ret == never}, Call: call, Return: ret}
	}
	cases := []struct {
		name string
		ops  []porcupine.Operation
		want porcupine.CheckResult
	}{
		{"in order", []porcupine.Operation{write("1", 1, 2), read("1", 3, 4), write("2", 5, 6), read("2", 7, 8)}, porcupine.Ok},
		{"read during a write", []porcupine.Operation{write("1", 1, 10), read("", 2, 3), read("1", 4, 5)}, porcupine.Ok},
		{"a write without answer, done late", []porcupine.Operation{write("1", 1, never), read("", 2, 3), read("1", 8, 9)}, porcupine.Ok},
		{"a stale read", []porcupine.Operation{write("1", 1, 2), write("2", 3, 4), read("1", 5, 6)}, porcupine.Illegal},
		{"a lost write", []porcupine.Operation{write("1", 1, 2), read("", 3, 4)}, porcupine.Illegal},
		{"a write applied twice", []porcupine.Operation{write("1", 1, 2), write("2", 3, 4), read("2", 5, 6), read("1", 7, 8)}, porcupine.Illegal},
		{"reads that go back", []porcupine.Operation{write("1", 1, 10), read("1", 2, 3), read("", 4, 5)}, porcupine.Illegal},
		{"compare and set", []porcupine.Operation{write("0", 1, 2), cas("0", "5", true, 3, 4), cas("0", "6", false, 5, 6), read("5", 7, 8)}, porcupine.Ok},
		{"both of two that exclude each other", []porcupine.Operation{write("0", 1, 2), cas("0", "5", true, 3, 6), cas("0", "6", true, 3, 6)}, porcupine.Illegal},
		{"refused without reason", []porcupine.Operation{write("0", 1, 2), cas("0", "5", false, 3, 4)}, porcupine.Illegal},
		{"set, and then said to be refused", []porcupine.Operation{write("0", 1, 2), cas("0", "5", false, 3, 4), read("5", 5, 6)}, porcupine.Illegal},
		{"no answer, done or not", []porcupine.Operation{write("0", 1, 2), cas("0", "5", false, 3, never), read("0", 5, 6), read("5", 7, 8)}, porcupine.Ok},
	}
	for _, k := range cases {
		t.Run(k.name, func(t *testing.T) {
			for i := range k.ops {
				k.ops[i].ClientId = i
			}
			first := porcupine.Operation{ClientId: len(k.ops), Input: opInput{kind: readOp}, Output: opOutput{}, Call: -2, Return: -1}
			if got := porcupine.CheckOperationsTimeout(register, append(k.ops, first), checkTimeout); got != k.want {
				t.Errorf("got %s, want %s", got, k.want)
			}
		})
	}
}
