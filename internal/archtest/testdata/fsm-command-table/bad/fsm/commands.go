package fsm

var commands = []any{
	entry[DropThing](),
	entry[DropThing](),
}

func entry[T any]() any { return nil }
