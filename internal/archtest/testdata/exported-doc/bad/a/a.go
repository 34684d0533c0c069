package a

type Bare struct{}

// Documented is.
type Documented struct{}

func (Documented) Method() {}

func (*Documented) Pointer() {}

type pair[K, V any] struct{}

// Pair is.
type Pair[K, V any] struct{}

func (*Pair[K, V]) Get() {}

func Func() {}

const Const = 1

var Var, other = 1, 2

// A group's comment does not say what each type is.
type (
	First  struct{}
	Second struct{}
)
