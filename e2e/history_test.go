//go:build linux

package e2e_test

import (
	"math"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// Limits of one history: keys are rotated, because the check is exponential in
// the operations that overlap.
const (
	maxKeyOps    = 180
	checkTimeout = 20 * time.Second
)

// Kinds of operation on a register.
const (
	readOp = iota
	writeOp
	casOp
)

// opInput is what a client asks of a register.
type opInput struct {
	kind     int
	from, to string
}

// opOutput is what it is told.
type opOutput struct {
	value string // of a read
	ok    bool   // of a compare-and-set
	// unknown says that no answer came: it may have been done, or not, or be
	// done later.
	unknown bool
}

// register is a value with reads, writes and compare-and-sets.
var register = porcupine.Model{
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out, value := input.(opInput), output.(opOutput), state.(string)
		switch in.kind {
		case readOp:
			return out.value == value, value
		case writeOp:
			return true, in.to
		}
		if out.unknown {
			if value == in.from {
				return true, in.to // where it was refused, it might as well come last
			}
			return true, value
		}
		if out.ok {
			return value == in.from, in.to
		}
		return value != in.from, value
	},
	DescribeOperation: func(input, output any) string {
		in, out := input.(opInput), output.(opOutput)
		switch in.kind {
		case readOp:
			return "read → " + out.value
		case writeOp:
			return "write " + in.to
		}
		return in.from + "→" + in.to + " " + strconv.FormatBool(out.ok)
	},
}

// history records operations by key.
type history struct {
	begun time.Time

	mu     sync.Mutex
	keys   map[string][]porcupine.Operation
	nextID int
	count  int
}

func newHistory() *history {
	return &history{begun: time.Now(), keys: map[string][]porcupine.Operation{}}
}

func (h *history) now() int64 { return int64(time.Since(h.begun)) }

// add records one operation. Each has a client of its own: one without an
// answer never ends.
func (h *history) add(key string, in opInput, out opOutput, call int64) {
	ret := h.now()
	if out.unknown {
		ret = math.MaxInt64
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.nextID++
	h.count++
	h.keys[key] = append(h.keys[key], porcupine.Operation{ClientId: h.nextID, Input: in, Output: out, Call: call, Return: ret})
}

// size is the number of operations on a key.
func (h *history) size(key string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.keys[key])
}

// check looks for an order in which the operations make sense. That none was
// found in time counts as a failure.
func (h *history) check(t testing.TB) {
	t.Helper()
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, ops := range h.keys {
		result, info := porcupine.CheckOperationsVerbose(register, ops, checkTimeout)
		if result == porcupine.Ok {
			continue
		}
		t.Errorf("the history of %s (%d operations) is not linearizable: %s", key, len(ops), result)
		if file := h.picture(info); file != "" {
			t.Logf("see %s", file)
		}
	}
}
