package sim

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pacelinehq/paceline/fsm"
)

// checkTime is how long one register's history may take to check. Not to know
// is a failure.
const checkTime = 20 * time.Second

// input and output are an operation on one register, as the model sees it.
type input struct {
	verb        verb
	from, value int
}

type output struct {
	fate fate
	kind fsm.Kind
	read int
}

// register is the sequential specification: a number that may be absent.
func register() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return absent },
		Step: func(state, in, out any) (bool, any) { return step(state.(int), in.(input), out.(output)) },
		DescribeOperation: func(in, out any) string {
			i, o := in.(input), out.(output)
			switch i.verb {
			case verbRead:
				return fmt.Sprintf("read → %d", o.read)
			case verbCAS:
				return fmt.Sprintf("cas %d→%d: %s", i.from, i.value, o.fate)
			}
			return fmt.Sprintf("%s %d: %s", i.verb, i.value, o.fate)
		},
		DescribeState: func(state any) string { return fmt.Sprint(state) },
	}
}

// step is the model's transition. What the client does not know has been
// resolved by the log: an unknown write that is here has taken effect.
func step(state int, in input, out output) (bool, int) {
	switch in.verb {
	case verbRead:
		return out.read == state, state
	case verbPut:
		return true, in.value
	}
	matches := state != absent && (in.verb != verbCAS || state == in.from)
	if out.fate != fateRefused {
		return matches, in.value
	}
	switch out.kind {
	case fsm.NotFound:
		return state == absent, state
	case fsm.Conflict:
		return state != absent && in.verb == verbCAS && state != in.from, state
	}
	return true, state
}

// histories sorts the operations by register.
func histories(ops []*op, applied map[string][]uint64, until time.Duration) map[string][]porcupine.Operation {
	out := map[string][]porcupine.Operation{}
	add := func(o *op, key string, in input, res output, ret time.Duration) {
		out[key] = append(out[key], porcupine.Operation{
			ClientId: len(out[key]), Input: in, Call: int64(o.call), Output: res, Return: int64(ret), Metadata: o.id,
		})
	}
	for _, o := range ops {
		switch {
		case o.verb == verbUser:
		case o.verb == verbRead:
			if o.fate != fateOK {
				continue
			}
			for _, key := range slices.Sorted(maps.Keys(o.read)) {
				add(o, key, input{verb: verbRead}, output{fate: o.fate, read: o.read[key]}, o.ret)
			}
		case o.fate == fateOK || o.fate == fateRefused:
			add(o, o.key, input{o.verb, o.from, o.value}, output{fate: o.fate, kind: o.kind}, o.ret)
		case o.fate == fateUnknown && len(applied[o.id]) > 0:
			add(o, o.key, input{o.verb, o.from, o.value}, output{fate: o.fate}, max(until, o.ret))
		}
	}
	return out
}

// verdict is what porcupine says of one register.
type verdict struct {
	key    string
	ops    int
	result porcupine.CheckResult
	info   porcupine.LinearizationInfo
	model  porcupine.Model
}

// linearize checks every register. It must not be called in virtual time.
func linearize(ops []*op, applied map[string][]uint64) (bad []verdict, registers int) {
	all := histories(ops, applied, math.MaxInt64/2)
	for _, key := range slices.Sorted(maps.Keys(all)) {
		m := register()
		if result := porcupine.CheckOperationsTimeout(m, all[key], checkTime); result != porcupine.Ok {
			_, info := porcupine.CheckOperationsVerbose(m, all[key], checkTime)
			bad = append(bad, verdict{key, len(all[key]), result, info, m})
		}
	}
	return bad, len(all)
}
